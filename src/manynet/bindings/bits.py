"""`Bits`: a mask that is learned and done, at one bit an entry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.pack import unpack
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Bits", "exclusive", "overlap"]


@dataclass(frozen=True)
class Bits(Operation, kind="bits"):
    """Truth values, read from a shared buffer of bytes that holds eight of them each.

    Args:
        packed: what `pack(mask, 1)` has made.
        shape: of the truth values.
    """

    packed: Binding
    shape: tuple[int, ...]

    def value(self, arch: Arch, packed: Tensor) -> Tensor:
        """Return the truth values."""
        return unpack(packed, 1, math.prod(self.shape)).bool().view(self.shape)


def exclusive(masks: Sequence[Tensor]) -> list[Tensor]:
    """Return what each mask has that no earlier one has.

    Args:
        masks: truth values of one shape, in the order of the tasks.

    Raises:
        InputError: their shapes differ.

    Reference: Yadav and Bansal 2023, arXiv 2210.10209.

    Example:
        >>> first, second = torch.tensor([True, True, False]), torch.tensor([False, True, True])
        >>> exclusive([first, second])[1]
        tensor([False, False,  True])
    """
    if len({mask.shape for mask in masks}) > 1:
        shapes = ", ".join(str(tuple(mask.shape)) for mask in masks)
        raise InputError(f"the masks have shapes {shapes}; give masks of one weight")
    found: list[Tensor] = []
    claimed = torch.zeros_like(masks[0], dtype=torch.bool) if masks else None
    for mask in masks:
        assert claimed is not None
        found.append(mask.bool() & ~claimed)
        claimed = claimed | mask.bool()
    return found


def overlap(masks: Sequence[Tensor]) -> float:
    """Return which share of the last mask some earlier one has; 0 where the last has nothing.

    Example:
        >>> first, second = torch.tensor([True, True, False]), torch.tensor([False, True, True])
        >>> overlap([first, second])
        0.5
    """
    own = int(masks[-1].count_nonzero())
    return 1 - int(exclusive(masks)[-1].count_nonzero()) / own if own else 0.0
