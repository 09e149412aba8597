"""Rounding to evenly spaced levels, whose spacing and place are learned with what is rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["best_levels", "learned_round", "straight_through"]

_CANDIDATES, _POWER = 80, 2.4


def straight_through(x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `rounded(x)`, whose gradient goes to `x` as it is.

    Example:
        >>> w = torch.tensor([0.4, 0.6], requires_grad=True)
        >>> straight_through(w, torch.round).sum().backward()
        >>> w.grad
        tensor([1., 1.])
    """
    found: Tensor = _Straight.apply(x, rounded)
    return found


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Callable[[Tensor], Tensor]) -> Tensor:
        return rounded(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def learned_round(
    x: Tensor,
    step: Tensor,
    low: Tensor | int,
    high: Tensor | int,
    offset: Tensor | None = None,
) -> Tensor:
    """Return `x` on the levels `step * q + offset`, for the integers q from `low` to `high`.

    The gradient passes straight through the rounding and stops where `x` lies outside the levels.
    Those of step and offset are multiplied by `1 / sqrt(high * x.numel())`, so that they move at
    the pace of the weights.

    Args:
        x: what is rounded.
        step: above zero in size; its sign does not matter.
        low: the lowest integer.
        high: the highest.
        offset: None for 0.

    Shapes: `x` any; step and offset broadcast to it; returns the shape of `x`.

    Reference: Esser et al. 2020, arXiv 1902.08153; the offset is that of Bhalgat et al. 2020,
    arXiv 2004.09576.

    Example:
        >>> w = torch.tensor([-1.0, -0.3, 0.2, 0.9])
        >>> learned_round(w, torch.tensor(0.5), -2, 1)
        tensor([-1.0000, -0.5000,  0.0000,  0.5000])
    """
    positive = step.abs().clamp_min(1e-12)
    if torch.is_grad_enabled():
        found: Tensor = _Round.apply(x, positive, low, high, offset)
        return found
    scaled = (x if offset is None else x - offset) / positive
    return _levels(_clamped(scaled, low, high).round(), positive, offset)


def _clamped(x: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return x.clamp(low, high)  # type: ignore[arg-type] # both are tensors, or both numbers


def _levels(integers: Tensor, step: Tensor, offset: Tensor | None) -> Tensor:
    value = integers * step
    return value if offset is None else value + offset


class _Round(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes by position
        ctx: Any,
        x: Tensor,
        step: Tensor,
        low: Tensor | int,
        high: Tensor | int,
        offset: Tensor | None,
    ) -> Tensor:
        scaled = (x if offset is None else x - offset) / step
        clamped = _clamped(scaled, low, high)
        integers = clamped.round()
        inside = clamped == scaled
        # what one unit of step moves the value by: the rounding error inside, the end outside
        ctx.save_for_backward(inside, integers - torch.where(inside, scaled, 0.0))
        ctx.shapes = step.shape, None if offset is None else offset.shape
        ctx.pace = (high * x.numel()) ** -0.5
        return _levels(integers, step, offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inside, moved = ctx.saved_tensors
        step_shape, offset_shape = ctx.shapes
        passed = grad * inside
        step = (grad * moved).sum_to_size(step_shape) * ctx.pace
        offset = None
        if offset_shape is not None:
            offset = (grad - passed).sum_to_size(offset_shape) * ctx.pace
        return passed, step, None, None, offset


@torch.no_grad()
def best_levels(
    rows: Tensor, bits: int, *, symmetric: bool, signed: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the step and the offset of each row with which it loses least by rounding.

    Of 80 ranges, from the whole one to a fifth, that one is taken which has the least sum of
    `|x - rounded| ** 2.4`.

    Args:
        rows: the values, a row for each step.
        bits: of the integers.
        symmetric: whether the offset is zero and the range is as wide on both sides.
        signed: whether the integers reach from `-2 ** (bits - 1)`, or from 0 as values that are
            never negative allow.

    Shapes: `(groups, entries)` to two of `(groups,)`.

    Reference: Xu et al. 2023, arXiv 2308.07650.

    Example:
        >>> step, offset = best_levels(torch.tensor([[-1.0, 0.0, 1.0, 2.0]]), 2, symmetric=False)
        >>> step.tolist(), offset.tolist()
        ([1.0], [1.0])
    """
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1
    least, most = rows.amin(1), rows.amax(1)
    if symmetric:
        most = torch.maximum(most, -least) if signed else most
        least = -most if signed else torch.zeros_like(most)
    best = torch.full_like(most, torch.inf)
    step, offset = torch.zeros_like(most), torch.zeros_like(most)
    for number in range(_CANDIDATES):
        share = 1 - 0.01 * number
        tried = ((most - least) * (share / (high - low))).clamp_min(1e-8)
        at = torch.zeros_like(step) if symmetric else least * share - low * tried
        rounded = learned_round(rows, tried[:, None], low, high, at[:, None])
        error = (rows - rounded).abs().pow(_POWER).sum(1)
        better = error < best
        best = torch.where(better, error, best)
        step, offset = torch.where(better, tried, step), torch.where(better, at, offset)
    return step, offset
