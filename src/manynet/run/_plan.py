"""How much of everything a run does: decided once, written down, and kept at a resume."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from manynet._files import read_json, write_json
from manynet.config import Config
from manynet.errors import StorageError

__all__ = ["Pace", "Plan", "plan_for"]

FILE = "plan.json"
EPOCHS, EVALUATIONS = 22, 160
MOST_EPOCHS, MOST_EVALUATIONS, LEAST_EVALUATIONS = 300, 2000, 40
# What each part may take of the hours that a run is given; the rest is for exports and the page.
TRAINING, SEARCH, RANKING, TUNING = 0.6, 0.15, 0.1, 0.1


@dataclass(frozen=True)
class Plan:
    """How much a run does.

    Args:
        epochs: of the family's training.
        evaluations: of the search.
        ranked: archs that are trained alone.
        ranking_epochs: how long each of them is.
        fine_tune_epochs: of each member that is shipped.
    """

    epochs: int
    evaluations: int
    ranked: int
    ranking_epochs: int
    fine_tune_epochs: int


@dataclass(frozen=True)
class Pace:
    """What this machine was measured to need, in seconds.

    Args:
        epoch: of the family's training.
        evaluation: of one arch.
    """

    epoch: float
    evaluation: float


def plan_for(folder: Path, config: Config, measure: Callable[[], Pace]) -> Plan:
    """Return the plan of a run; the first call makes it, and measures the pace if hours are given.

    Raises:
        StorageError: the plan cannot be written, or is damaged.
    """
    path = folder / FILE
    if path.is_file():
        try:
            return Plan(**read_json(path))
        except TypeError as error:
            raise StorageError(f"{path} is damaged: {error}; start in another folder") from error
    plan = _asked(config)
    if config.hours is not None:
        plan = _for_hours(config, plan, measure(), 3600 * config.hours)
    write_json(path, asdict(plan))
    return plan


def _asked(config: Config) -> Plan:
    epochs = config.train.epochs or EPOCHS
    return Plan(
        epochs,
        config.search.evaluations or EVALUATIONS,
        config.ranking.archs,
        config.ranking.epochs or epochs,
        config.deploy.fine_tune_epochs,
    )


def _for_hours(config: Config, plan: Plan, pace: Pace, seconds: float) -> Plan:
    """Fill in what the user left open so that the run takes about so many seconds."""
    alone = pace.epoch / (config.train.random + 2)  # one member a step instead of several
    epochs = config.train.epochs or _between(1, TRAINING * seconds / pace.epoch, MOST_EPOCHS)
    looks = _between(LEAST_EVALUATIONS, SEARCH * seconds / pace.evaluation, MOST_EVALUATIONS)
    ranking_epochs = config.ranking.epochs or epochs
    ranked = min(config.ranking.archs, math.floor(RANKING * seconds / (alone * ranking_epochs)))
    tuning = _between(0, TUNING * seconds / (config.deploy.members * alone), epochs // 5)
    return replace(
        plan,
        epochs=epochs,
        evaluations=config.search.evaluations or looks,
        ranked=ranked if ranked > 1 else 0,
        ranking_epochs=ranking_epochs,
        fine_tune_epochs=config.deploy.fine_tune_epochs or tuning,
    )


def _between(least: int, value: float, most: int) -> int:
    return max(least, min(most, math.floor(value)))
