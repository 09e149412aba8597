"""What every binding is: a rule that says how a member reads one tensor from the shared ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from manynet.bindings.axes import Axis, DimTable, Index
from manynet.space import Arch

__all__ = ["Binding", "Computed", "Part", "Reading", "part_of"]


@dataclass(frozen=True, eq=False)
class Part:
    """A part of one shared tensor: `index` says, for each dimension, which positions.

    Member and family then share storage and gradient storage, wherever that costs nothing.
    """

    source: str
    index: tuple[Index, ...]

    @cached_property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return all(isinstance(i, slice) and i == slice(None) for i in self.index)

    @cached_property
    def block(self) -> tuple[slice, ...] | None:
        """The index where it is made of slices alone, so that it can be a view; else None."""
        slices = tuple(i for i in self.index if isinstance(i, slice))
        return slices if len(slices) == len(self.index) else None


def part_of(tensor: Tensor, part: Part) -> Tensor:
    """Return `part` of `tensor`: a view where it is a block, else a copy."""
    block = part.block
    if block is not None:
        return tensor[block]
    for dim, index in enumerate(part.index):
        if isinstance(index, slice):
            tensor = tensor if index == slice(None) else tensor[(slice(None),) * dim + (index,)]
        else:
            tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return tensor


@dataclass(frozen=True)
class Computed:
    """A value computed from shared tensors.

    Args:
        sources: names of the shared tensors that `function` takes, in its order.
        function: differentiable; it is called once after each change of a source.
        parts: which parts of the sources the value depends on; the rest stays untouched when the
            member is trained.
        sparse: whether some entries of the parts do not matter either, such as those behind a
            mask. Which, a guarded optimizer then finds out from the function itself.
        again: whether the function is called once more when its gradient arrives, and nothing is
            kept until then.
    """

    sources: tuple[str, ...]
    function: Callable[[Sequence[Tensor]], Tensor]
    parts: tuple[Part, ...]
    sparse: bool = False
    again: bool = False


Reading = Part | Computed
"""How one tensor of one member is read."""


class Binding(Protocol):
    """A rule that says how the members of a family read one of their tensors."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the shared tensors that any member may read through this binding."""
        ...

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return how the member of `arch` reads its tensor.

        Args:
            arch: the member's arch.
            sizes: the size that each elastic axis has in that member.
        """
        ...

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return what the family's file holds of it; `kind` names the binding's class."""
        ...
