"""A run in progress: its folder, its config, its network and data, and what was decided once."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from manynet.config import Config
from manynet.data import load_function
from manynet.deploy import calibrate
from manynet.errors import InputError
from manynet.run._events import Event, Tell, silent
from manynet.run._folder import environment
from manynet.run._material import Material
from manynet.search import Metric, Quality, Store, accuracy, loss, perplexity
from manynet.train import Loss, squared_error, token_loss

__all__ = ["Calibration", "Work", "own_state"]


@dataclass(frozen=True)
class Calibration:
    """Gives members statistics of their own, in place; by itself it can be sent to workers."""

    samples: list[tuple[Any, Any]]

    def __call__(self, member: nn.Module) -> nn.Module:
        """Return the member."""
        return calibrate(member, self.samples, batches=len(self.samples))


@dataclass
class Work:
    """What every stage of a run reads.

    Args:
        folder: where everything is kept.
        config: what was asked for.
        material: the network and the data.
        tell: hears what the run does.
        quality: what judges a member; None for what the config says, on the validation data.
        own_loss: a function of outputs and targets; None for what the config says.
    """

    folder: Path
    config: Config
    material: Material
    tell: Tell = silent
    quality: Quality | None = None
    own_loss: Loss | None = None
    environment: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.environment = environment(self.folder, self.config)

    @property
    def device(self) -> torch.device:
        """Where the run computes; decided when it began."""
        return torch.device(self.environment["device"])

    @cached_property
    def metric(self) -> Quality:
        """What judges a member."""
        return self.quality or self.judge(self.material.val)

    def judge(self, data: Any, *, limit: int | None = None) -> Quality:
        """Return what the config has members judged by, on some data."""
        name = self.config.search.quality
        if name is None:
            name = {"classify": "accuracy", "regress": "loss"}.get(self.material.task, "perplexity")
        if name == "loss":
            return loss(data, self.loss, limit=limit)
        if name in ("accuracy", "perplexity"):
            return (accuracy if name == "accuracy" else perplexity)(data, limit=limit)
        found = load_function(name)(data)
        if not isinstance(found, Metric):
            raise InputError(
                f"{name} returned {type(found).__name__}; it should take data and return a "
                "manynet.Metric, as manynet.accuracy does"
            )
        return found

    def tester(self) -> Quality | None:
        """Return what judges a member on the test data; None where there is none."""
        return None if self.material.test is None else self.judge(self.material.test)

    @cached_property
    def loss(self) -> Loss:
        """The loss of outputs against targets."""
        if self.own_loss is not None:
            return self.own_loss
        if self.config.train.loss is not None:
            return load_function(self.config.train.loss)  # type: ignore[return-value] # the user's
        usual: dict[str, Loss] = {"classify": cross_entropy, "regress": squared_error}
        return usual.get(self.material.task, token_loss)

    @property
    def generates(self) -> bool:
        """Whether the model writes text."""
        return self.material.task == "causal"

    @cached_property
    def original(self) -> nn.Module:
        """The network as it came, frozen."""
        return self.material.network.original().eval().requires_grad_(False).to(self.device)

    @cached_property
    def samples(self) -> list[tuple[Any, Any]]:
        """Training batches that set batch-norm statistics, always the same ones."""
        return self.material.calibration(self.config.search.calibration, self.config.seed)

    def calibrated(self, member: nn.Module) -> nn.Module:
        """Give a member statistics of its own, in place, and return it."""
        return Calibration(self.samples)(member)

    def store(self) -> Store:
        """Open the evaluation store."""
        return Store(self.folder / "evaluations.sqlite")

    def progress(self, stage: str) -> Callable[[int, int, str], object]:
        """Return a function that tells how far a stage is."""

        def step(done: int, total: int, text: str) -> None:
            self.tell(Event(stage, done, total, text))

        return step


@contextlib.contextmanager
def own_state(seed: int, threads: int) -> Iterator[None]:
    """Seed everything and set the threads for a while; both are put back as they were."""
    before = torch.get_num_threads()
    states = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            torch.set_num_threads(threads)
            yield
    finally:
        torch.set_num_threads(before)
        np.random.set_state(states[0])
        random.setstate(states[1])
