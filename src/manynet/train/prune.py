"""`Prune`: single weights are masked step by step during training, and may come back between."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from manynet.errors import InputError
from manynet.family.masks import fixed_masks, lift, prune
from manynet.train.events import Moment, zero_state

__all__ = ["Prune"]


@dataclass(frozen=True)
class Prune:
    """Mask the smallest weights by one global threshold, more of them with every event.

    The n-th event masks the share `min(n * rise, target)`. After an event that is not the last, the
    family is validated with its masks; then `"reactivate"` lifts them, so that all weights train on
    and those that grow return, while `"sticky"` never lets one return. The masks of the last event
    stay to the end, so that what is deployed has been trained as it is.

    Args:
        target: the share of the weights that is masked in the end.
        every: epochs between two events.
        rise: by how much the share rises with each event.
        mode: whether masked weights may come back.
        restart: a weight that was masked goes on from `"zero"`, without momentum, or from the value
            that it had (`"keep"`).
        fix: the share of the run after which the masks stay as they are, even short of the target.
        left: how many weights the last event leaves; by default `target` says.

    Raises:
        InputError: a number does not fit.

    Example:
        >>> rule = Prune(0.9)
        >>> [round(rule.share(number), 1) for number in (1, 2, 9, 10)]
        [0.1, 0.2, 0.9, 0.9]

    Reference: You et al. 2022, arXiv 2207.03677 (SuperTickets). The released code lets a masked
    weight keep its value, and trains with the last masks only by chance; both are ours.
    """

    target: float = 0.9
    every: int = 1
    rise: float = 0.1
    mode: Literal["reactivate", "sticky"] = "reactivate"
    restart: Literal["zero", "keep"] = "zero"
    fix: float = 0.6
    left: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.target < 1 or not 0 < self.rise <= 1 or not 0 < self.fix <= 1:
            raise InputError(
                f"Prune(target={self.target}, rise={self.rise}, fix={self.fix}): these are shares, "
                "above 0 and at most 1, the target below 1"
            )
        if self.every < 1 or (self.left is not None and self.left < 1):
            raise InputError(f"Prune(every={self.every}, left={self.left}): both are at least 1")
        if self.mode not in ("reactivate", "sticky") or self.restart not in ("zero", "keep"):
            raise InputError(
                f"Prune(mode={self.mode!r}, restart={self.restart!r}) is unknown; mode is "
                "'reactivate' or 'sticky', restart 'zero' or 'keep'"
            )

    def share(self, number: int) -> float:
        """Return which share the event of this number masks; the first has number 1."""
        return min(number * self.rise, self.target)

    def last(self, epochs: int) -> int:
        """Return the epoch of the last event in a run of so many epochs; 0 where none fits."""
        steps = math.ceil(round(self.target / self.rise, 6))
        room = math.floor(round(self.fix * epochs, 6)) // self.every
        return min(steps, room) * self.every

    @torch.no_grad()
    def before(self, moment: Moment) -> None:
        """Mask what is smallest, where an event is due."""
        if not self._due(moment):
            return
        ends = moment.epoch == self.last(moment.epochs)
        left = self.left if ends else None
        share = self.share(moment.epoch // self.every) if left is None else None
        prune(moment.family, share, left=left, sticky=self.mode == "sticky")
        if self.restart == "zero":
            shared = moment.family.state_dict()
            for weight, keep in fixed_masks(moment.family).items():
                masked = ~shared[keep]
                shared[weight].masked_fill_(masked, 0.0)
                zero_state(moment.optimizer, shared[weight], masked)

    def after(self, moment: Moment) -> None:
        """Lift the masks again, unless they stay."""
        ends = moment.epoch == self.last(moment.epochs)
        if self._due(moment) and self.mode == "reactivate" and not ends:
            lift(moment.family)

    def _due(self, moment: Moment) -> bool:
        return moment.epoch % self.every == 0 and moment.epoch <= self.last(moment.epochs)
