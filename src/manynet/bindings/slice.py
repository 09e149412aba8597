"""`Slice`: a member reads a block of one shared tensor; `Pick`: it reads any index set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from manynet.bindings.axes import Axis, Dim, DimTable, Index, axes_of, select
from manynet.bindings.kinds import decode, register
from manynet.bindings.operation import Operation, narrow
from manynet.bindings.protocol import Binding, Part, Reading
from manynet.space import Arch

__all__ = ["Pick", "Slice", "whole"]


@dataclass(frozen=True)
class Slice:
    """The part of `source` that is left where every axis is cut to its size in the member.

    A leading axis gives a leading block; a concatenation of axes gives an index set.

    Args:
        source: name of the shared tensor, or a binding whose value is cut.
        dims: what each of its dimensions is made of.

    Reference: Yu et al. 2018, arXiv 1812.08928 (slimmable networks); Cai et al. 2019,
    arXiv 1908.09791 (once-for-all).
    """

    source: str | Binding
    dims: tuple[Dim, ...]
    _seen: dict[tuple[int, ...], Part] = field(default_factory=dict, compare=False, repr=False)
    _axes: tuple[Axis, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        axes = {axis: None for dim in self.dims for axis in axes_of(dim) if axis.frozen is None}
        object.__setattr__(self, "_axes", tuple(axes))

    @property
    def reads(self) -> tuple[str, ...]:
        """The one shared tensor, or what the binding reads."""
        return (self.source,) if isinstance(self.source, str) else self.source.reads

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return the part that the member with these `sizes` reads."""
        key = tuple(sizes.get(axis, axis.size) for axis in self._axes)
        part = self._seen.get(key)
        if part is None:
            index: tuple[Index, ...] = tuple(select(dim, sizes) for dim in self.dims)
            part = self._seen[key] = Part(
                self.source if isinstance(self.source, str) else "", index
            )
        if isinstance(self.source, str):
            return part
        return narrow(self.source.at(arch, sizes), part.index)

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return the binding as JSON values."""
        source = self.source if isinstance(self.source, str) else self.source.to_json(table)
        return {
            "kind": "slice",
            "source": source,
            "dims": [table.encode(dim) for dim in self.dims],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], table: DimTable) -> Slice:
        """Return the binding that `to_json` wrote."""
        source = data["source"]
        return cls(
            source if isinstance(source, str) else decode(source, table),
            tuple(table.decode(dim) for dim in data["dims"]),
        )


register("slice", Slice.from_json)


def whole(source: str | Binding, tensor: Tensor) -> Slice:
    """Return the binding that reads all of `source`, which has the shape of `tensor`."""
    return Slice(source, tuple((Axis("", size, "whole"),) for size in tensor.shape))


@dataclass(frozen=True)
class Pick(Operation, kind="pick"):
    """The given positions of one dimension of what another binding gives: any index set.

    Args:
        source: what is picked from.
        dims: how many dimensions it has.
        dim: the dimension.
        positions: which positions, in their order in the member; none twice.
    """

    source: Binding
    dims: int
    dim: int
    positions: tuple[int, ...]

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return a part where the source is one."""
        index: list[Index] = [slice(None)] * self.dims
        index[self.dim] = np.array(self.positions, dtype=np.int64)
        return narrow(self.source.at(arch, sizes), tuple(index))
