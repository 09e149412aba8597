"""NSGA-II over archs: children are bred here, pymoo decides who survives.

A generation is bred at once, as rows of positions: row `n`, column `c` says which value of choice
`c` arch `n` has. An arch is asked for at most once, and archs that differ only in choices that are
inactive count as one.

Reference: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic
algorithm: NSGA-II" (2002). We differ in the first generation, which is spread from the smallest to
the largest arch, and in that no arch is ever evaluated twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from manynet.errors import InputError
from manynet.search._breeding import Breeder, Rows, Survivors
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Grid, Space

__all__ = ["NSGA2"]

_ATTEMPTS = 50
"""How often to breed again when all children have been asked for before."""


class NSGA2:
    """The evolutionary strategy NSGA-II: tournament, uniform crossover, mutation, survival.

    Args:
        space: where the archs come from.
        seed: of every random decision.
        population: archs in a generation.
        mutation: the probability that a choice of a child is changed; None means one choice a
            child in the mean.
        crossover: the probability that two parents exchange choices.
        spread: begin with archs of all sizes from the smallest to the largest, which helps where
            later values of a choice are larger; False draws every choice alike.

    Raises:
        InputError: `population` is less than 4.
        MissingExtraError: pymoo is not installed.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("width", (1, 2, 3, 4, 5, 6, 7, 8)),))
        >>> archs = NSGA2(space, population=4).ask()
        >>> archs[0] == space.largest, archs[1] == space.smallest, len(archs)
        (True, True, 4)
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        population: int = 50,
        mutation: float | None = None,
        crossover: float = 0.9,
        spread: bool = True,
    ) -> None:
        if population < 4:
            raise InputError(f"the population of NSGA-II must be at least 4, not {population}")
        self._grid = Grid(space)
        self._rng = np.random.default_rng(seed)
        self._breeder = Breeder(self._grid.sizes, self._rng, mutation, crossover)
        self._population, self._spread = population, spread
        self._survivors = Survivors(population, seed)
        self._seen: set[Arch] = set()

    def ask(self) -> list[Arch]:
        """Return archs that were not asked for before; fewer, or none, when there are no more."""
        found: list[Arch] = []
        if not self._seen:
            found += self._new([self._grid.space.largest, self._grid.space.smallest])
        for _ in range(_ATTEMPTS):
            if len(found) >= self._population:
                break
            rows = self._bred() if self._survivors else self._beginning()
            archs = self._grid.archs(self._grid.repaired(rows))
            found += self._new(archs, self._population - len(found))
        return found

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Let the fittest of the population and these go on."""
        if not evaluations:
            return
        self._survivors.update(
            self._grid.rows(evaluation.arch for evaluation in evaluations),
            np.array([evaluation.objectives for evaluation in evaluations]),
            np.array([evaluation.violation for evaluation in evaluations]),
        )

    def _new(self, archs: Iterable[Arch], limit: int = 2) -> list[Arch]:
        """Return the first of the archs that were not asked for yet."""
        found: list[Arch] = []
        for arch in archs:
            if len(found) == limit:
                break
            if arch not in self._seen:
                self._seen.add(arch)
                found.append(arch)
        return found

    def _beginning(self) -> Rows:
        if self._spread:
            return self._breeder.spread(self._population)
        return self._grid.sample(self._rng, self._population)

    def _bred(self) -> Rows:
        """Return children of parents who won a tournament."""
        mothers, fathers = (self._survivors.winners(self._population, self._rng) for _ in "mf")
        return self._breeder.children(mothers, fathers)
