"""Scores of the positions of a weight, from the weight itself and its gradient."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

import torch
from torch import Tensor

from manynet.bindings.axes import Axis, Dim, axes_of
from manynet.errors import InputError

__all__ = ["Importance", "Scores", "l1", "l2", "taylor", "weight_scores"]

Scores = dict[tuple[str, int], Tensor]
"""One score for each position of a dimension of a parameter, by its name and the dimension."""


class Importance(Protocol):
    """Scores the positions of one dimension of a weight."""

    def __call__(self, weight: Tensor, dim: int) -> Tensor:
        """Return one score, at least 0, for each position of dimension `dim`.

        Scores are turned into shares and averaged over all the weights that an axis runs through;
        the positions with the highest mean are kept longest. Where calibration data is given, this
        is called after each batch, and what it returns is averaged.

        Args:
            weight: a parameter of two dimensions or more. Its `grad` is that of the loss on a
                batch of calibration data, or else what the model's parameter has.
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


def taylor(weight: Tensor, dim: int) -> Tensor:
    """Return how much the loss is expected to change without each position, to first order.

    Reference: Molchanov et al. 2019, arXiv 1906.10771. We sum `|w * grad|` over the weights of a
    position, where they square the sum: a weight before a norm has a sum of zero.
    """
    if weight.grad is None:
        raise InputError("taylor needs the weight's gradient; it has none")
    return _sums(weight.detach() * weight.grad, dim, 1)


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


def weight_scores(
    axes: Collection[Axis],
    tensors: Mapping[str, tuple[Dim, ...]],
    values: Mapping[str, Tensor],
    importance: Importance,
) -> Scores:
    """Return the scores of every dimension that one of the `axes` runs through.

    Args:
        axes: the axes to order.
        tensors: what the dimensions of each parameter are made of.
        values: the parameters.
        importance: scores the positions.

    Raises:
        InputError: the importance returned scores of a wrong shape, or not finite.
    """
    wanted, found = frozenset(axes), {}
    for name, dims in tensors.items():
        weight = values.get(name)
        if weight is None or weight.dim() < 2:  # norms and biases follow their producers
            continue
        for number, dim in enumerate(dims):
            if any(axis in wanted for axis in axes_of(dim)):
                found[name, number] = _checked(importance, name, weight, number)
    return found


def _checked(importance: Importance, name: str, weight: Tensor, dim: int) -> Tensor:
    with torch.no_grad():
        found = importance(weight, dim)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the importance of {name}, dimension {dim}, must be a tensor of {weight.shape[dim]} "
            f"numbers; it is {type(found).__name__}"
        )
    scores = found.detach().float().cpu()
    finite = bool(torch.isfinite(scores).all())
    if tuple(scores.shape) != (weight.shape[dim],) or not finite:
        raise InputError(
            f"the importance of {name}, dimension {dim}, must be {weight.shape[dim]} finite "
            f"numbers; it has shape {tuple(scores.shape)}"
            + ("" if finite else " and holds NaN or infinity")
        )
    return scores
