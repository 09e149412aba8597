"""What happens between epochs: an event may change the family that trains, such as prune it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from manynet.elastic import axes_in, cut, cut_state
from manynet.errors import InputError
from manynet.family import Family
from manynet.train.ema import Ema

__all__ = ["Event", "Moment", "cut_again", "cut_all", "zero_state"]


@dataclass(frozen=True)
class Moment:
    """The end of an epoch.

    Attributes:
        family: what trains.
        optimizer: of its shared weights.
        ema: their moving average, where the run has one.
        epoch: how many epochs are done.
        epochs: how many there will be.
    """

    family: Family
    optimizer: Optimizer
    ema: Ema | None
    epoch: int
    epochs: int


class Event(Protocol):
    """Happens at the end of every epoch. Any object with these two methods will do.

    What it does must follow from the moment alone: a run that is resumed goes through the same
    events, and what they have cut and masked is in its checkpoints.
    """

    def before(self, moment: Moment) -> None:
        """Change the family before it is validated."""

    def after(self, moment: Moment) -> None:
        """Change the family after it was validated, before the next epoch."""


def cut_all(moment: Moment, keep: Mapping[str, Sequence[int]]) -> None:
    """Cut the family for good, with the state of its optimizer and its moving average."""
    cutting = cut(moment.family, keep)
    cut_state(cutting, moment.family.named_parameters(), moment.optimizer)
    if moment.ema is not None:
        for name, average in moment.ema.averages.items():
            moment.ema.averages[name] = cutting(name, average)


def cut_again(moment: Moment, cuts: Mapping[str, Sequence[int]]) -> None:
    """Cut the family to what it was when these cuts had been made; nothing where it is so already.

    Raises:
        InputError: it has lost something else.
    """
    axes, keep = axes_in(moment.family), {}
    for name, kept in cuts.items():
        now = moment.family.cuts.get(name, tuple(range(axes[name].size)) if name in axes else ())
        if not set(kept) <= set(now):
            raise InputError(
                f"the checkpoint has channels of {name} that the family has lost since; resume "
                "with the family as it was at first"
            )
        if len(kept) < len(now):
            keep[name] = [now.index(position) for position in kept]
    if keep:
        cut_all(moment, keep)


@torch.no_grad()
def zero_state(optimizer: Optimizer, parameter: Tensor, where: Tensor) -> None:
    """Forget what an optimizer remembers of the entries of a parameter that are true in `where`."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            value.masked_fill_(where, 0.0)
