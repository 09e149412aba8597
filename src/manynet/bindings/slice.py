"""`Slice`: a member reads a block of one shared tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manynet.bindings.axes import Axis, Dim, DimTable, Index, axes_of, select
from manynet.bindings.protocol import Part
from manynet.space import Arch

__all__ = ["Slice"]


@dataclass(frozen=True)
class Slice:
    """The part of `source` that is left where every axis is cut to its size in the member.

    A leading axis gives a leading block; a concatenation of axes gives an index set.

    Args:
        source: name of the shared tensor.
        dims: what each of its dimensions is made of.

    Reference: Yu et al. 2018, arXiv 1812.08928 (slimmable networks); Cai et al. 2019,
    arXiv 1908.09791 (once-for-all).
    """

    source: str
    dims: tuple[Dim, ...]
    _seen: dict[tuple[int, ...], Part] = field(default_factory=dict, compare=False, repr=False)
    _axes: tuple[Axis, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        axes = {axis: None for dim in self.dims for axis in axes_of(dim) if axis.frozen is None}
        object.__setattr__(self, "_axes", tuple(axes))

    @property
    def reads(self) -> tuple[str, ...]:
        """The one shared tensor."""
        return (self.source,)

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Part:
        """Return the part that the member with these `sizes` reads."""
        key = tuple(sizes.get(axis, axis.size) for axis in self._axes)
        part = self._seen.get(key)
        if part is None:
            index: tuple[Index, ...] = tuple(select(dim, sizes) for dim in self.dims)
            part = self._seen[key] = Part(self.source, index)
        return part

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return the binding as JSON values."""
        dims = [table.encode(dim) for dim in self.dims]
        return {"kind": "slice", "source": self.source, "dims": dims}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], table: DimTable) -> Slice:
        """Return the binding that `to_json` wrote."""
        return cls(data["source"], tuple(table.decode(dim) for dim in data["dims"]))
