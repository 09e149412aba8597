"""Which point of each curve of cost and error to take, so that all costs together fit a budget."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError

__all__ = ["Curve", "allocate"]


@dataclass(frozen=True)
class Curve:
    """What one thing can cost, and the error that is left at each cost; in any order.

    Args:
        costs: of each point.
        errors: of each point.
    """

    costs: NDArray[np.float64]
    errors: NDArray[np.float64]

    def hull(self) -> list[int]:
        """Return the points of the lower convex hull from the cheapest to the least error."""
        order = np.lexsort((self.errors, self.costs))
        kept: list[int] = []
        for point in order[self._falls(order)].tolist():
            while len(kept) > 1 and self._slope(kept[-2], kept[-1]) < self._slope(kept[-2], point):
                kept.pop()
            kept.append(point)
        return kept

    def _falls(self, order: NDArray[np.int64]) -> NDArray[np.bool_]:
        errors = self.errors[order]
        before = np.minimum.accumulate(np.concatenate(([np.inf], errors[:-1])))
        return np.asarray(errors < before)

    def _slope(self, one: int, other: int) -> float:
        """Return how much error a unit of cost takes away between two points."""
        gain = self.errors[one] - self.errors[other]
        return float(gain / (self.costs[other] - self.costs[one]))


def allocate(curves: Sequence[Curve], budget: float) -> list[int]:
    """Return a point of each curve, so that the costs fit and little error is left in all.

    Greedy by the error that a unit of cost takes away, along the curves' convex hulls; what is
    left of the budget then goes to single points that still fit.

    Args:
        curves: one for each thing.
        budget: what all may cost together.

    Raises:
        InputError: the cheapest points cost more.

    Example:
        >>> steep = Curve(np.array([0.0, 1.0, 2.0]), np.array([9.0, 1.0, 0.0]))
        >>> flat = Curve(np.array([0.0, 1.0, 2.0]), np.array([9.0, 6.0, 3.0]))
        >>> allocate([steep, flat], 2)
        [1, 1]
    """
    hulls = [curve.hull() for curve in curves]
    chosen = [hull[0] for hull in hulls]
    left = budget - sum(curve.costs[point] for curve, point in zip(curves, chosen, strict=True))
    if left < 0:
        raise InputError(
            f"the budget is {budget:,.0f}, and the cheapest choice costs {budget - left:,.0f}"
        )
    steps = [
        (-curve._slope(one, other), number, one, other)
        for number, (curve, hull) in enumerate(zip(curves, hulls, strict=True))
        for one, other in itertools.pairwise(hull)
    ]
    for _, number, one, other in sorted(steps):
        price = curves[number].costs[other] - curves[number].costs[one]
        if chosen[number] == one and price <= left:
            chosen[number], left = other, left - price
    while (better := _better(curves, chosen, left)) is not None:
        number, point = better
        left -= curves[number].costs[point] - curves[number].costs[chosen[number]]
        chosen[number] = point
    return chosen


def _better(curves: Sequence[Curve], chosen: Sequence[int], left: float) -> tuple[int, int] | None:
    """Return the single change that takes the most error away for what is left."""
    best, found = 0.0, None
    for number, (curve, now) in enumerate(zip(curves, chosen, strict=True)):
        errors = np.where(curve.costs <= curve.costs[now] + left, curve.errors, np.inf)
        point = int(errors.argmin())
        if curve.errors[now] - errors[point] > best:
            best, found = float(curve.errors[now] - errors[point]), (number, point)
    return found
