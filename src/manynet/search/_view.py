"""The front as it grows, for those who watch a search."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from manynet.errors import MissingExtraError
from manynet.search.front import hypervolume

__all__ = ["View"]


class View:
    """What the progress shows: the front so far, in the frame of the first archs judged."""

    def __init__(self) -> None:
        self.points: NDArray[np.float64] = np.empty((0, 0))
        self.best = math.inf
        self.hypervolume = 0.0
        self._frame: tuple[NDArray[np.float64], ...] | None = None

    def add(self, objectives: tuple[float, ...]) -> None:
        """Take in one more arch by what is to be minimized."""
        point = np.array(objectives)
        self.best = min(self.best, objectives[0])
        if len(self.points) and (self.points <= point).all(1).any():
            return
        left = [p for p in self.points if not (point <= p).all()]
        self.points = np.stack([*left, point])
        self.hypervolume = self._volume(point)

    def _volume(self, point: NDArray[np.float64]) -> float:
        if self._frame is None:
            self._frame = (point, point)
        low, high = self._frame
        if (low == high).any():
            self._frame = low, high = np.minimum(low, point), np.maximum(high, point)
        span = np.where(high > low, high - low, 1.0)
        try:
            return hypervolume((self.points - low) / span, np.full(len(point), 1.1))
        except MissingExtraError:  # a picture of the progress is not worth ending the search
            return math.nan
