"""`train_stage`: one stage of a training that goes by stages."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from manynet.errors import InputError
from manynet.family import Family
from manynet.space import Value
from manynet.train._source import TrainData
from manynet.train.best import Best
from manynet.train.objectives import Task
from manynet.train.only import only
from manynet.train.samplers import Fixed
from manynet.train.trainer import train

__all__ = ["train_stage"]


def train_stage(
    family: Family,
    train_data: TrainData,
    *,
    arch: Mapping[str, Value],
    names: Collection[str],
    epochs: int,
    judge: Callable[[nn.Module], float],
    **options: Any,
) -> tuple[float, ...]:
    """Train some parameters through one member with a fresh optimizer; end at its best epoch.

    Everything else stays, so that stages can follow each other: masks and then weights, a head and
    then what it stands on, one task and then the next. Adam with a cosine to zero, no weight
    decay and no warm-up, unless the options say otherwise.

    Args:
        family: whose parameters they are.
        train_data: what `train` takes.
        arch: the member.
        names: the shared parameters that move.
        epochs: passes over the data; 0 leaves all as it is.
        judge: a metric of which more is better, on validation data.
        **options: of `train`.

    Returns:
        the metric before, and after each epoch. The best of them is where the stage ends, the
        beginning included.

    Raises:
        InputError: an option is the stage's own business, or one of `train`'s reasons.

    Example:
        >>> import manynet as mn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> family = mn.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> data = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
        >>> judge = mn.accuracy(data)
        >>> len(train_stage(family, data, arch={}, names=["1.bias"], epochs=2, judge=judge))
        3
    """
    taken = options.keys() & {"sampler", "validate", "steps", "ema", "folder"}
    if taken:
        raise InputError(f"a stage sets {sorted(taken)[0]!r} itself; leave it out, or call train")
    rate = float(options.pop("learning_rate", 1e-3))
    recipe: dict[str, Any] = {
        "optimizer": lambda groups: torch.optim.Adam(groups, lr=rate),
        "weight_decay": 0.0,
        "warmup": 0,
        "objective": Task(),
        **options,
    }
    best = Best(family.space.arch(arch), judge)
    with only(family, names):
        best(family)
        if epochs:
            train(family, train_data, epochs=epochs, sampler=Fixed(arch), validate=best, **recipe)
            best.restore(family)
    return tuple(best.values)
