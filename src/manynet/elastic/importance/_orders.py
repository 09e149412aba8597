"""The order of an axis, from the scores of all the weights that it runs through."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manynet.bindings.axes import Axis, Concat, Dim, axes_of, length
from manynet.elastic.importance._scores import Scores

__all__ = ["Order", "order_axes"]

Order = npt.NDArray[np.int64]
"""The positions of an axis, most important first."""


def order_axes(
    axes: Sequence[Axis], tensors: Mapping[str, tuple[Dim, ...]], scores: Scores
) -> dict[Axis, Order]:
    """Return for each of the `axes` that has scores its positions, most important first.

    Scores are turned into shares, so that every weight has the same say. Positions that go
    together, as the rows of a head do, are scored by their sum.

    Args:
        axes: the axes to order.
        tensors: what the dimensions of each parameter are made of.
        scores: those of the dimensions that were scored.
    """
    shares: dict[Axis, list[Tensor]] = {axis: [] for axis in axes}
    for (name, number), found in scores.items():
        dim = tensors[name][number]
        if any(axis in shares for axis in axes_of(dim)):
            for axis, places in _places(dim):
                if axis in shares:
                    folded = found[torch.from_numpy(places.reshape(axis.size, -1))].sum(1)
                    shares[axis].append(folded / folded.sum().clamp_min(1e-12))
    return {axis: _order(torch.stack(parts).mean(0)) for axis, parts in shares.items() if parts}


def _order(scores: Tensor) -> Order:
    order: Order = torch.argsort(scores, descending=True, stable=True).numpy()
    return order


def _places(dim: Dim) -> Iterator[tuple[Axis, npt.NDArray[np.int64]]]:
    """Yield each axis of `dim` with the positions of `dim`, those of its first position first."""
    total = length(dim)
    outer = 1
    for factor in dim:
        own = length((factor,))
        inner = total // (outer * own)
        grid = np.arange(total).reshape(outer, own, inner)
        if isinstance(factor, Axis):
            yield factor, grid.transpose(1, 0, 2).reshape(-1)
        else:
            yield from _places_in_parts(factor, grid)
        outer *= own


def _places_in_parts(
    factor: Concat, grid: npt.NDArray[np.int64]
) -> Iterator[tuple[Axis, npt.NDArray[np.int64]]]:
    start = 0
    for part in factor.parts:
        size = length(part)
        block = grid[:, start : start + size]
        for axis, places in _places(part):
            rows = places.reshape(axis.size, -1)
            yield axis, block[:, rows].transpose(1, 0, 2, 3).reshape(-1)
        start += size
