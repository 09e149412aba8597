"""A smooth regressor for what a block takes, given the values of a few choices.

Times grow like products of widths, so their logarithm is nearly quadratic in the logarithms of the
values; what is left (blocks of eight channels, caches) is local. The kernel is the sum of both,
and how much of each is found by leaving out one point at a time, which has a closed form.

Reference: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2
and 5.4.2; we pick the least error left out from a short list, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manynet.space import Value

__all__ = ["Smooth", "fit_smooth", "placed"]

Array = NDArray[np.float64]
_LOCAL = ((0.0, 1.0), (0.1, 0.5), (0.1, 1.0))  # how much, and how far it reaches
_GRID = [(*local, noise) for local in _LOCAL for noise in (1e-4, 1e-3, 1e-2)]


@dataclass(frozen=True)
class Smooth:
    """A fitted regressor: call it with places (rows), and get positive figures.

    Args:
        places: where it was fitted.
        weights: one of each of them.
        center: what the logarithms were measured from.
        local: how much is local.
        scale: how far that reaches.
    """

    places: Array
    weights: Array
    center: float
    local: float
    scale: float

    def __call__(self, places: Array) -> Array:
        """Return the figures at these places."""
        kernel = _kernel(places, self.places, self.local, self.scale)
        result: Array = np.exp(self.center + kernel @ self.weights)
        return result


def fit_smooth(places: Array, figures: Array) -> Smooth:
    """Fit figures, all above zero, at different places."""
    logs = np.log(figures)
    center = float(logs.mean())
    best: tuple[float, Smooth] | None = None
    for local, scale, noise in _GRID:
        kernel = _kernel(places, places, local, scale)
        inverse = np.linalg.inv(kernel + noise * np.eye(len(places)))
        weights = inverse @ (logs - center)
        left_out = float(np.mean(np.abs(weights / np.diag(inverse))))
        if best is None or left_out < best[0]:
            best = left_out, Smooth(places, weights, center, local, scale)
    assert best is not None
    return best[1]


def placed(values: Sequence[Value], candidates: Sequence[Sequence[Value]]) -> list[float]:
    """Return where values lie among their candidates: numbers by their logarithm, 0 to 1."""
    place: list[float] = []
    for value, known in zip(values, candidates, strict=True):
        if all(isinstance(one, int | float) and one > 0 for one in known):
            low, high = (math.log(float(end(known))) for end in (min, max))
            place.append((math.log(float(value)) - low) / max(high - low, 1e-9))
        elif len(known) == 2 or all(isinstance(one, int | float) for one in known):
            place.append(known.index(value) / max(1, len(known) - 1))
        else:
            place += [float(value == one) for one in known]
    return place


def _kernel(a: Array, b: Array, local: float, scale: float) -> Array:
    smooth = (1.0 + a @ b.T) ** 2
    if not local:
        return smooth
    apart = np.square(a[:, None, :] - b[None, :, :]).sum(-1)
    result: Array = smooth + local * np.exp(-apart / (2 * scale**2))
    return result


def from_mapping(data: Mapping[str, object]) -> Smooth:
    """Return the regressor of JSON values."""
    return Smooth(
        np.array(data["places"], float).reshape(len(data["weights"]), -1),  # type: ignore[arg-type]
        np.array(data["weights"], float),
        float(data["center"]),  # type: ignore[arg-type]
        float(data["local"]),  # type: ignore[arg-type]
        float(data["scale"]),  # type: ignore[arg-type]
    )
