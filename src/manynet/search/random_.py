"""Strategies without a memory: archs at random, and all of a small space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Literal

import numpy as np

from manynet.search.strategies import Evaluation
from manynet.space import Arch, Space

__all__ = ["Exhaustive", "Random"]


class Random:
    """Archs drawn at random, each at most once; the largest and the smallest come first.

    Args:
        space: where to draw from.
        seed: of the draw.
        population: how many to ask for at once.
        by: `"choice"` draws every choice alike, `"arch"` every arch; see `Space.sample`.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("width", (1, 2, 3, 4)),))
        >>> [arch["width"] for arch in Random(space, population=2).ask()]
        [4, 1]
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        population: int = 50,
        by: Literal["arch", "choice"] = "choice",
    ) -> None:
        self._archs = _distinct(space, np.random.default_rng(seed), by)
        self._population = population

    def ask(self) -> list[Arch]:
        """Return the next archs, fewer than `population` when the space seems used up."""
        return list(islice(self._archs, self._population))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Ignore them: chance has no memory."""


class Exhaustive:
    """Every arch of a small space once; the largest and the smallest come first.

    Args:
        space: what to go through.
        seed: not needed.
        population: how many to ask for at once.
    """

    def __init__(self, space: Space, *, seed: int = 0, population: int = 50) -> None:
        ends = tuple(dict.fromkeys((space.largest, space.smallest)))
        self._archs = chain(ends, (arch for arch in space.enumerate() if arch not in ends))
        self._population = population

    def ask(self) -> list[Arch]:
        """Return the next archs."""
        return list(islice(self._archs, self._population))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Ignore them: all will be looked at anyway."""


def _distinct(
    space: Space, rng: np.random.Generator, by: Literal["arch", "choice"]
) -> Iterator[Arch]:
    """Yield canonical archs, none twice, until many draws in a row bring nothing new."""
    seen: set[Arch] = set()
    for arch in (space.largest, space.smallest):
        canonical = space.canonical(arch)
        if canonical not in seen:
            seen.add(canonical)
            yield canonical
    in_vain = 0
    while in_vain < 1000:
        canonical = space.canonical(space.sample(rng, by=by))
        in_vain = in_vain + 1 if canonical in seen else 0
        if not in_vain:
            seen.add(canonical)
            yield canonical
