"""Which points the greedy allocation takes, against all that could be taken."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from manynet.errors import InputError
from manynet.fit import Curve, allocate


def curve(*points: tuple[float, float]) -> Curve:
    costs, errors = zip(*points, strict=True)
    return Curve(np.array(costs, dtype=float), np.array(errors, dtype=float))


def totals(curves: list[Curve], points: list[int]) -> tuple[float, float]:
    pairs = list(zip(curves, points, strict=True))
    return sum(float(c.costs[p]) for c, p in pairs), sum(float(c.errors[p]) for c, p in pairs)


def test_the_hull_leaves_out_what_is_above_it() -> None:
    assert curve((2, 1), (0, 4), (1, 3.9), (3, 2), (4, 0.5)).hull() == [1, 0, 4]


@pytest.mark.parametrize("seed", range(6))
def test_on_convex_curves_of_one_price_it_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = []
    for _ in range(3):
        gains = np.sort(rng.random(4))[::-1]
        errors = np.concatenate((gains[::-1].cumsum()[::-1], [0.0]))
        curves.append(Curve(np.arange(5.0), errors))
    for budget in range(13):
        cost, error = totals(curves, allocate(curves, budget))
        assert cost <= budget
        best = min(
            totals(curves, list(points))[1]
            for points in itertools.product(range(5), repeat=3)
            if sum(points) <= budget
        )
        assert error == pytest.approx(best)


@pytest.mark.parametrize("seed", range(6))
def test_it_keeps_the_budget_and_no_single_change_helps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    curves = [Curve(rng.integers(1, 30, 12).astype(float), rng.random(12)) for _ in range(4)]
    least = sum(float(c.costs.min()) for c in curves)
    chosen = allocate(curves, least + 25)
    cost, error = totals(curves, chosen)
    assert cost <= least + 25
    for number, point in itertools.product(range(4), range(12)):
        other = [point if n == number else p for n, p in enumerate(chosen)]
        new_cost, new_error = totals(curves, other)
        assert new_cost > least + 25 or new_error >= error - 1e-12


def test_a_budget_below_the_cheapest_is_told() -> None:
    with pytest.raises(InputError, match="the budget is 1, and the cheapest choice costs 2"):
        allocate([curve((1, 1), (2, 0)), curve((1, 1))], 1)
