"""How much each position of an axis matters, so that the leading block can be the best block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manynet.bindings.axes import Axis, Concat, Dim, length
from manynet.errors import InputError, did_you_mean

__all__ = ["Importance", "importances", "l1", "l2", "named", "orders"]


class Importance(Protocol):
    """Scores the positions of one axis."""

    def __call__(self, axis: Axis, weights: Sequence[Tensor]) -> Tensor:
        """Return one score for each position; the highest is kept longest.

        Args:
            axis: the axis whose positions are scored.
            weights: of every parameter that the axis runs through, what belongs to each position.

        Shapes:
            weights: `(axis.size, entries)` each.
            returns: `(axis.size,)`.
        """
        ...


def l2(axis: Axis, weights: Sequence[Tensor]) -> Tensor:
    """Return the mean over parameters of each position's share of the squared norm.

    Every parameter has the same say, whatever its size, as in the group norm of
    Fang et al. 2023, arXiv 2301.12900 (DepGraph).
    """
    return _share([weight.square().sum(1) for weight in weights])


def l1(axis: Axis, weights: Sequence[Tensor]) -> Tensor:
    """Return the mean over parameters of each position's share of the absolute sum."""
    return _share([weight.abs().sum(1) for weight in weights])


def _share(scores: Sequence[Tensor]) -> Tensor:
    return torch.stack([score / score.sum().clamp_min(1e-12) for score in scores]).mean(0)


_NAMED: Mapping[str, Importance] = {"l1": l1, "l2": l2}


def named(importance: str | Importance | None) -> Importance | None:
    """Return the importance of that name; functions and None pass through.

    Raises:
        InputError: there is no importance of that name.
    """
    if isinstance(importance, str):
        if importance not in _NAMED:
            raise InputError(
                f"importance={importance!r} is not known{did_you_mean(importance, _NAMED)}; "
                "name one, pass a function, or None to keep the model's own order"
            )
        return _NAMED[importance]
    return importance


def orders(
    axes: Sequence[Axis],
    tensors: Mapping[str, tuple[Dim, ...]],
    values: Mapping[str, Tensor],
    importance: Importance,
) -> dict[Axis, npt.NDArray[np.int64]]:
    """Return for each of the `axes` its positions, most important first.

    Args:
        axes: the axes to order.
        tensors: what the dimensions of each parameter are made of.
        values: the parameters.
        importance: scores the positions.

    Raises:
        InputError: the importance returned scores of a wrong shape, or not a number.
    """
    found = dict.fromkeys(axes, ())
    uses: dict[Axis, list[Tensor]] = {axis: [] for axis in found}
    for name, dims in tensors.items():
        if name in values and values[name].dim() > 1:  # norms and biases follow their producers
            for number, dim in enumerate(dims):
                for axis, places in _places(dim):
                    if axis in uses:
                        uses[axis].append(_rows(values[name], number, places, axis.size))
    result = {}
    for axis, weights in uses.items():
        if weights:
            result[axis] = _order(axis, importance(axis, weights))
    return result


importances = tuple(_NAMED)
"""The names that `elastic(importance=…)` knows."""


def _order(axis: Axis, scores: Tensor) -> npt.NDArray[np.int64]:
    if tuple(scores.shape) != (axis.size,) or bool(torch.isnan(scores).any()):
        raise InputError(
            f"the importance of {axis.name} must be {axis.size} numbers; "
            f"it has shape {tuple(scores.shape)}" + (" and holds NaN" if scores.numel() else "")
        )
    order: npt.NDArray[np.int64] = torch.argsort(scores, descending=True, stable=True).cpu().numpy()
    return order


def _rows(tensor: Tensor, number: int, places: npt.NDArray[np.int64], size: int) -> Tensor:
    """Return what belongs to each position of an axis: `(size, entries)`."""
    moved = tensor.detach().movedim(number, 0)
    if len(places) != moved.shape[0] or not np.array_equal(places, np.arange(len(places))):
        moved = moved.index_select(0, torch.from_numpy(places).to(tensor.device))
    return moved.reshape(size, -1).float()


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
