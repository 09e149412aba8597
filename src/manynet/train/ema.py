"""A moving average of the shared weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from manynet.errors import InputError
from manynet.family import Family

__all__ = ["Ema"]


class Ema:
    """The exponential moving average of a family's shared parameters.

    It starts as a plain copy and forgets that start: after `t` updates it keeps
    `min(decay, (1 + t) / (10 + t))` of itself.

    Args:
        family: whose parameters are averaged.
        decay: how much of itself the average keeps in an update, near 1.
    """

    def __init__(self, family: Family, decay: float) -> None:
        if not 0 < decay < 1:
            raise InputError(f"ema={decay}: the decay lies between 0 and 1, for example 0.999")
        self.decay = decay
        self.updates = 0
        self.averages: dict[str, Tensor] = {
            name: parameter.detach().clone() for name, parameter in family.named_parameters()
        }

    @torch.no_grad()
    def update(self, family: Family) -> None:
        """Move the average towards what the shared weights are now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        now = [parameter.detach() for _, parameter in family.named_parameters()]
        torch._foreach_lerp_(list(self.averages.values()), now, 1 - decay)

    @torch.no_grad()
    def copy_to(self, family: Family) -> None:
        """Put the average in the place of the shared weights."""
        for name, parameter in family.named_parameters():
            parameter.copy_(self.averages[name])

    @contextlib.contextmanager
    def swapped(self, family: Family) -> Iterator[None]:
        """Put the average in the place of the shared weights for a while."""
        kept = {name: parameter.detach().clone() for name, parameter in family.named_parameters()}
        self.copy_to(family)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in family.named_parameters():
                    parameter.copy_(kept[name])

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"updates": self.updates, "averages": self.averages}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""
        averages, updates = state["averages"], state["updates"]
        assert isinstance(averages, Mapping)
        assert isinstance(updates, int)
        for name, average in self.averages.items():
            average.copy_(averages[name])
        self.updates = updates
