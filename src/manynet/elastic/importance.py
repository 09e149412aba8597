"""How much each position of an axis matters, so that the leading block can be the best block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manynet.bindings.axes import Axis, Concat, Dim, axes_of, length
from manynet.errors import InputError, did_you_mean

__all__ = ["Importance", "importances", "l1", "l2", "named", "orders"]


class Importance(Protocol):
    """Scores the positions of one dimension of a weight."""

    def __call__(self, weight: Tensor, dim: int) -> Tensor:
        """Return one score, at least 0, for each position of dimension `dim`.

        Scores are turned into shares and averaged over all the weights that an axis runs through;
        the positions with the highest mean are kept longest.

        Args:
            weight: a parameter of two dimensions or more. Its `grad` is there where the model has
                one, so that a score may use it.
            dim: the dimension whose positions are scored.

        Shapes:
            returns: `(weight.shape[dim],)`.
        """
        ...


def l2(weight: Tensor, dim: int) -> Tensor:
    """Return each position's share of the squared norm.

    Every weight has the same say, whatever its size, as in the group norm of
    Fang et al. 2023, arXiv 2301.12900 (DepGraph).
    """
    return _sums(weight, dim, 2)


def l1(weight: Tensor, dim: int) -> Tensor:
    """Return each position's share of the absolute sum, as in Cai et al. 2019, arXiv 1908.09791."""
    return _sums(weight, dim, 1)


def _sums(weight: Tensor, dim: int, power: int) -> Tensor:
    """Return the sum of `|weight| ** power` over all dimensions but `dim`.

    The rows of a large matrix are taken a few at a time: a reduction over them at once would jump
    through memory, and a copy of the matrix would cost more than the sum.
    """
    if dim + 1 < weight.dim():
        runs: Tensor = torch.linalg.vector_norm(weight.flatten(dim + 1), power, dim=-1).pow(power)
        return runs.flatten(0, -2).sum(0) if dim else runs
    rows = weight.flatten(0, -2).split(64)
    return torch.stack([part.abs().pow(power).sum(0) for part in rows]).sum(0)


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
        InputError: the importance returned scores of a wrong shape, or not finite.
    """
    shares: dict[Axis, list[Tensor]] = {axis: [] for axis in axes}
    for name, dims in tensors.items():
        weight = values.get(name)
        if weight is None or weight.dim() < 2:  # norms and biases follow their producers
            continue
        for number, dim in enumerate(dims):
            if any(axis in shares for axis in axes_of(dim)):
                scores = _scores(importance, name, weight, number)
                for axis, places in _places(dim):
                    if axis in shares:
                        folded = scores[places.reshape(axis.size, -1)].sum(1)
                        shares[axis].append(folded / folded.sum().clamp_min(1e-12))
    return {axis: _order(torch.stack(found).mean(0)) for axis, found in shares.items() if found}


importances = tuple(_NAMED)
"""The names that `elastic(importance=…)` knows."""


def _scores(importance: Importance, name: str, weight: Tensor, dim: int) -> Tensor:
    with torch.no_grad():
        scores = importance(weight, dim).detach().float().cpu()
    if tuple(scores.shape) != (weight.shape[dim],) or not bool(torch.isfinite(scores).all()):
        raise InputError(
            f"the importance of {name}, dimension {dim}, must be {weight.shape[dim]} finite "
            f"numbers; it has shape {tuple(scores.shape)}"
            + ("" if bool(torch.isfinite(scores).all()) else " and holds NaN or infinity")
        )
    return scores


def _order(scores: Tensor) -> npt.NDArray[np.int64]:
    order: npt.NDArray[np.int64] = torch.argsort(scores, descending=True, stable=True).numpy()
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
