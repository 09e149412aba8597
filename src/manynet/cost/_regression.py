"""A latency model small enough to read: what each kind of work takes, and a touch for each choice.

Milliseconds are first a sum of work times rates that cannot be negative (so much for a
multiply-accumulate in a pointwise convolution, so much for a byte moved, so much for a layer);
then a factor near 1 that is a sum over the choices' values, for what the rates do not see (blocks
of eight channels, caches). Errors count relative to the latency.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fit", "fit", "held_out", "kendall_tau", "nonnegative_least_squares"]

Array = NDArray[np.float64]
_PENALTIES = (3.0, 10.0, 30.0, 100.0)
_FOLDS = 5


@dataclass(frozen=True)
class Fit:
    """A fitted model.

    Args:
        rates: milliseconds for a unit of each figure, none negative; the first is for being there.
        touch: what each value of each choice adds to the factor.
        center: the factor where no value adds anything.
    """

    rates: Array
    touch: Array
    center: float

    def __call__(self, figures: Array, onehot: Array) -> Array:
        """Return the milliseconds of archs (rows), given their figures and values."""
        result: Array = (with_one(figures) @ self.rates) * (self.center + onehot @ self.touch)
        return result


def fit(figures: Array, onehot: Array, times: Array) -> Fit:
    """Fit; how freely the choices' values add is found by leaving out a fold in turn."""

    def error(penalty: float) -> float:
        found = held_out(figures, onehot, times, functools.partial(_fit, penalty=penalty))
        return float(np.mean(np.abs(found - times) / times))

    return _fit(figures, onehot, times, penalty=min(_PENALTIES, key=error))


def _fit(figures: Array, onehot: Array, times: Array, *, penalty: float) -> Fit:
    """Fit rates to the times, then touches to the ratios that are left."""
    base = with_one(figures)
    scale = np.maximum(base.max(axis=0), 1e-12)
    relative = base / scale / times[:, None]
    rates = nonnegative_least_squares(relative, np.ones(len(times))) / scale
    ratio = times / np.maximum(base @ rates, 1e-12)
    mean = onehot.mean(axis=0)
    gram = (onehot - mean).T @ (onehot - mean) + penalty * np.eye(len(mean))
    touch = np.linalg.solve(gram, (onehot - mean).T @ (ratio - ratio.mean()))
    return Fit(rates, touch, float(ratio.mean() - mean @ touch))


def with_one(figures: Array) -> Array:
    """Return the figures behind a column of ones."""
    return np.column_stack([np.ones(len(figures)), figures])


def held_out(
    figures: Array, onehot: Array, times: Array, how: Callable[[Array, Array, Array], Fit] = fit
) -> Array:
    """Return what a fit predicts for each arch that has not seen the arch itself."""
    found = np.empty(len(times))
    fold = np.arange(len(times)) % min(_FOLDS, len(times))
    for number in range(int(fold.max()) + 1):
        seen, left = fold != number, fold == number
        made = how(figures[seen], onehot[seen], times[seen])
        found[left] = made(figures[left], onehot[left])
    return found


def kendall_tau(a: Array, b: Array) -> float:
    """Return Kendall's tau-b: how far two rankings agree, from -1 to 1.

    Example:
        >>> round(kendall_tau(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0])), 3)
        0.333
    """
    upper = np.triu_indices(len(a), 1)
    x, y = (np.sign(v[:, None] - v[None, :])[upper] for v in (a, b))
    pairs = np.sqrt(np.count_nonzero(x)) * np.sqrt(np.count_nonzero(y))
    return float((x * y).sum() / pairs) if pairs else 0.0


def nonnegative_least_squares(matrix: Array, wanted: Array) -> Array:
    """Return the x >= 0 for which `matrix @ x` is nearest to `wanted`.

    Reference: Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.
    """
    size = matrix.shape[1]
    x, free = np.zeros(size), np.zeros(size, dtype=bool)
    for _ in range(3 * size):
        slope = matrix.T @ (wanted - matrix @ x)
        slope[free] = 0.0
        if slope.max(initial=0.0) <= 1e-10:
            break
        free[int(np.argmax(slope))] = True
        while True:
            trial = np.zeros(size)
            trial[free] = np.linalg.lstsq(matrix[:, free], wanted, rcond=None)[0]
            bad = free & (trial <= 0)
            if not bad.any():
                break
            step = np.min(x[bad] / np.maximum(x[bad] - trial[bad], 1e-300))
            x = x + step * (trial - x)
            free &= x > 1e-14
        x = trial
    return x
