"""What a layer costs at widths that it was never counted at.

Multiply-accumulates, weights and bytes are sums of products of widths: polynomials of a low degree
in each. A polynomial that was found from some combinations and is exact on more of them than it has
coefficients holds for the others.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from manynet.space import Value

__all__ = ["completed"]

_EXACT = 1e-9  # of the largest figure
_SPARE = 2  # figures beyond as many as there are coefficients
_LISTED = 4096  # combinations of one layer that are worked out
Key = tuple[Value, ...]
Array = NDArray[np.float64]


def completed(candidates: Sequence[Key], known: Mapping[Key, float]) -> dict[Key, float] | None:
    """Return the figures of all combinations, or None where what is known does not tell them.

    Args:
        candidates: the values of each choice.
        known: figures by some combinations of values.

    Example:
        >>> known = {(a, b): 3.0 * a * b + b for a in (1, 2, 4) for b in (8, 16)}
        >>> round(completed([(1, 2, 3, 4), (8, 16)], known)[3, 16], 6)
        160.0
    """
    if math.prod(map(len, candidates)) > _LISTED:
        return None
    keys = list(itertools.product(*candidates))
    if all(key in known for key in keys):
        return {key: known[key] for key in keys}
    there = [_there(at, values, known) for at, values in enumerate(candidates)]
    inside = [key for key in keys if all(map(operator.contains, there, key))]
    seen = {key: figure for key, figure in known.items() if all(map(operator.contains, there, key))}
    if not seen and len(known) > _SPARE:  # what it has costs nothing
        return dict.fromkeys(keys, 0.0)
    polynomial = _polynomial(there, seen) if seen else None
    if polynomial is None:
        return None
    found = dict.fromkeys(keys, 0.0)
    found.update(zip(inside, polynomial(inside).tolist(), strict=True))
    return found | dict(known)


def _there(at: int, values: Key, known: Mapping[Key, float]) -> Key:
    """Return the values of a choice with which there is a layer: not those that give 0 alone."""
    met = {key[at] for key in known}
    some = {key[at] for key, figure in known.items() if figure}
    return tuple(value for value in values if value in some or value not in met)


def _polynomial(candidates: Sequence[Key], known: Mapping[Key, float]) -> _Polynomial | None:
    """Return the polynomial of the lowest degrees that is exact, if there is one."""
    allowed = _EXACT * max(map(abs, known.values()))
    degrees = [min(1, len(v) - 1) if _is_numeric(v) else len(v) - 1 for v in candidates]
    best = _Polynomial(candidates, degrees, known)
    while best.error > allowed:
        more = [
            _Polynomial(candidates, [d + (at == n) for n, d in enumerate(best.degrees)], known)
            for at, values in enumerate(candidates)
            if best.degrees[at] < len(values) - 1
        ]
        if not more or min(one.error for one in more) == math.inf:
            return None
        best = min(more, key=lambda one: one.error)
    return best if len(known) >= best.size + _SPARE else None


class _Polynomial:
    """Products of polynomials in the values of each choice, fitted to figures."""

    def __init__(
        self, candidates: Sequence[Key], degrees: list[int], known: Mapping[Key, float]
    ) -> None:
        self.degrees = degrees
        self._tables = [
            dict(zip(values, chebyshev.chebvander(_placed(values), degree), strict=True))
            for values, degree in zip(candidates, degrees, strict=True)
        ]
        self.size = math.prod(degree + 1 for degree in degrees)
        rows, figures = self._rows(list(known)), np.array(list(known.values()))
        self._weights, _, rank, _ = np.linalg.lstsq(rows, figures, rcond=None)
        off = float(np.abs(rows @ self._weights - figures).max(initial=0.0))
        self.error = off if rank == self.size else math.inf  # else others would do as well

    def __call__(self, keys: Sequence[Key]) -> Array:
        result: Array = self._rows(keys) @ self._weights
        return result

    def _rows(self, keys: Sequence[Key]) -> Array:
        rows = np.ones((len(keys), 1))
        for at, table in enumerate(self._tables):
            column = np.array([table[key[at]] for key in keys])
            rows = (rows[:, :, None] * column[:, None, :]).reshape(len(keys), -1)
        return rows


def _is_numeric(values: Key) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _placed(values: Key) -> Array:
    """Return where values lie, from -1 to 1: numbers as they are, others by their position."""
    places = np.array(values if _is_numeric(values) else range(len(values)), float)
    width = float(np.ptp(places)) or 1.0
    result: Array = 2 * (places - places.min()) / width - 1
    return result
