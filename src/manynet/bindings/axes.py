"""What a dimension of a tensor is made of: axes, their products and their concatenations.

A dimension (`Dim`) is a product of factors, outermost first: a fused attention weight has rows
`(heads, head size)`. A factor is an `Axis`, which members cut to a leading part, or a `Concat`,
which joins whole dimensions end to end, as `torch.cat` does. One `Axis` object stands in every
tensor that it runs through; identity is what ties them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Axis", "Concat", "Dim", "DimTable", "Index", "axes_of", "length", "positions", "select"]

Index = slice | npt.NDArray[np.int64]
"""Which positions of a dimension a member reads: a slice where it can be one, else indices."""


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """`size` positions that belong together in every tensor that has this axis.

    Args:
        name: unique in its network: the module that brings it forth and the role it plays there,
            for example `"layer1.0.conv1.width"` or `"blocks.0.attn.num_heads"`.
        size: how many positions the whole network has.
        frozen: why no member may cut it, or None where it is elastic.
        anchor: which part a smaller member keeps: the `"leading"` positions, or those in the
            `"center"`, as a smaller convolution kernel does.
    """

    name: str
    size: int
    frozen: str | None = None
    anchor: Literal["leading", "center"] = "leading"

    def kept(self, size: int) -> slice:
        """Return the positions that a member with `size` of them keeps."""
        start = (self.size - size) // 2 if self.anchor == "center" else 0
        return slice(start, start + size)


@dataclass(frozen=True, eq=False, slots=True)
class Concat:
    """Dimensions laid end to end."""

    parts: tuple[Dim, ...]


Dim = tuple[Axis | Concat, ...]
"""A product of factors, outermost first; the empty product is a dimension of size 1."""


def axes_of(dim: Dim) -> Iterator[Axis]:
    """Yield every axis in `dim`, in order, repeats included."""
    for factor in dim:
        if isinstance(factor, Concat):
            for part in factor.parts:
                yield from axes_of(part)
        else:
            yield factor


def length(dim: Dim, sizes: Mapping[Axis, int] | None = None) -> int:
    """Return how many positions `dim` has where each axis in `sizes` has the size given there."""
    return math.prod(_factor_length(factor, sizes) for factor in dim)


def _factor_length(factor: Axis | Concat, sizes: Mapping[Axis, int] | None) -> int:
    if isinstance(factor, Concat):
        return sum(length(part, sizes) for part in factor.parts)
    return factor.size if sizes is None else sizes.get(factor, factor.size)


def positions(dim: Dim, chosen: Mapping[Axis, npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    """Return the positions of `dim` that remain where each axis keeps its `chosen` positions.

    An axis that `chosen` does not name is kept whole. The order of the result is the order of the
    choice, so that a permutation of an axis permutes the dimension.
    """
    index = np.zeros(1, dtype=np.int64)
    for factor in dim:
        if isinstance(factor, Concat):
            starts = np.cumsum([0, *(length(part) for part in factor.parts)])
            own = np.concatenate(
                [
                    positions(part, chosen) + start
                    for part, start in zip(factor.parts, starts, strict=False)
                ]
            )
        elif factor in chosen:
            own = chosen[factor]
        else:
            own = np.arange(factor.size)
        index = (index[:, None] * _factor_length(factor, None) + own[None]).reshape(-1)
    return index


def select(dim: Dim, sizes: Mapping[Axis, int]) -> Index:
    """Return the part of `dim` that is left, as a slice where the result is one run."""
    cut = [axis for axis in axes_of(dim) if sizes.get(axis, axis.size) != axis.size]
    if not cut:
        return slice(None)
    outer = dim[0]
    if isinstance(outer, Axis) and all(axis is outer for axis in cut) and outer not in dim[1:]:
        kept, inner = outer.kept(sizes[outer]), length(dim[1:])
        return slice(kept.start * inner, kept.stop * inner)
    index = positions(dim, {axis: np.arange(axis.size)[axis.kept(sizes[axis])] for axis in cut})
    if len(index) and bool(np.all(np.diff(index) == 1)):
        return slice(int(index[0]), int(index[-1]) + 1)
    return index


class DimTable:
    """Axes and dimensions as JSON: each axis once, a dimension as a list of their numbers.

    An axis that nobody may cut is written as `[size]`, since only its size matters.
    """

    def __init__(self, axes: Iterable[Axis] = ()) -> None:
        self.axes = list(axes)
        self._numbers = {axis: number for number, axis in enumerate(self.axes)}
        self._fixed: dict[int, Axis] = {}

    def encode(self, dim: Dim) -> list[object]:
        """Return `dim` as nested lists of numbers."""
        return [self._encode_factor(factor) for factor in dim]

    def _encode_factor(self, factor: Axis | Concat) -> object:
        if isinstance(factor, Concat):
            return {"concat": [self.encode(part) for part in factor.parts]}
        if factor.frozen is not None:
            return [factor.size]
        if factor not in self._numbers:
            self._numbers[factor] = len(self.axes)
            self.axes.append(factor)
        return self._numbers[factor]

    def decode(self, data: Iterable[object]) -> Dim:
        """Return the dimension that `encode` wrote. Raises `ValueError` for anything else."""
        return tuple(self._decode_factor(item) for item in data)

    def _decode_factor(self, item: object) -> Axis | Concat:
        match item:
            case bool():
                pass
            case int() if 0 <= item < len(self.axes):
                return self.axes[item]
            case [int() as size]:
                return self._fixed.setdefault(size, Axis("", size, "fixed"))
            case {"concat": list() as parts}:
                return Concat(tuple(self.decode(part) for part in parts))
        raise ValueError(f"not a factor of a dimension: {item!r}")
