"""Parts of a tensor that lie in its storage at regular steps, and so can be views of it.

The rows of a fused query-key-value projection that a member with fewer heads reads are three runs
at equal distances: not one block, but still a view, with one dimension more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manynet.bindings.axes import Index

__all__ = ["Lattice", "lattice_of"]

Step = tuple[int, int]
"""How many positions, and how far apart."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """A part that can be a view of its tensor.

    Args:
        starts: the first position in each dimension of the tensor.
        steps: for each of these dimensions, the dimensions of the view that it becomes.
    """

    starts: tuple[int, ...]
    steps: tuple[tuple[Step, ...], ...]
    _seen: dict[tuple[int, ...], tuple[list[int], int]] = field(default_factory=dict, repr=False)
    """For the strides of a tensor, those of its view and where it begins: each step asks again."""

    @cached_property
    def shape(self) -> list[int]:
        """The shape of the view."""
        return [count for steps in self.steps for count, _ in steps]

    @property
    def split(self) -> bool:
        """Whether the view has more dimensions than the tensor."""
        return any(len(steps) > 1 for steps in self.steps)

    def view(self, tensor: Tensor) -> Tensor:
        """Return the view of `tensor`; it has the part's elements in the part's order."""
        strides = tensor.stride()
        found = self._seen.get(strides)
        if found is None:
            found = self._seen[strides] = self._strides(strides)
        own, offset = found
        return tensor.as_strided(self.shape, own, int(tensor.storage_offset()) + offset)

    def _strides(self, strides: Sequence[int]) -> tuple[list[int], int]:
        own = [
            pitch * stride
            for steps, stride in zip(self.steps, strides, strict=True)
            for _, pitch in steps
        ]
        return own, sum(start * stride for start, stride in zip(self.starts, strides, strict=True))


def lattice_of(index: Sequence[Index], shape: Sequence[int]) -> Lattice | None:
    """Return the lattice of the positions `index` in a tensor of `shape`; None where it is none."""
    starts, steps = [], []
    for positions, size in zip(index, shape, strict=True):
        if isinstance(positions, slice):
            found = range(size)[positions]
            first, runs = found.start, [(len(found), found.step)]
        else:
            runs = _runs(positions)
            first = int(positions[0]) if runs else 0
        if not runs:
            return None
        starts.append(first)
        steps.append(tuple(runs))
    return Lattice(tuple(starts), tuple(steps))


def _runs(positions: NDArray[np.int64]) -> list[Step]:
    """Return `positions` as nested runs of equal steps, the outermost first; empty if irregular."""
    if len(positions) < 2:
        return [(len(positions), 1)] if len(positions) else []
    gaps = np.diff(positions)
    pitch = int(gaps[0])
    breaks = np.flatnonzero(gaps != pitch)
    length = int(breaks[0]) + 1 if len(breaks) else len(positions)
    if pitch < 1 or len(positions) % length:
        return []
    if length == len(positions):
        return [(length, pitch)]
    rows = positions.reshape(-1, length)
    if not np.array_equal(rows - rows[:, :1], np.broadcast_to(rows[0] - rows[0, 0], rows.shape)):
        return []
    outer = _runs(rows[:, 0])
    apart = bool(outer) and outer[-1][1] > (length - 1) * pitch  # no position twice
    return [*outer, (length, pitch)] if apart else []
