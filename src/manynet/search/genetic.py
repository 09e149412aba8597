"""A genetic algorithm for one objective under constraints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manynet.errors import InputError
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Space

__all__ = ["Genetic"]

_ATTEMPTS = 50
"""How often to breed again when all children have been asked for before."""


class Genetic:
    """The best of all archs so far breed: by mutation of one, by crossover of two.

    It minimizes the first objective, the quality of a search, and takes the costs for constraints:
    of archs that break one, those that miss it by less are better.

    Args:
        space: where the archs come from.
        seed: of every random decision.
        population: archs of a generation.
        parents: share of a generation that breeds.
        mutation: the probability that a choice changes in a mutated child.
        crossover: share of the children that two parents make.

    Raises:
        InputError: the population is below 2, or a share is not between 0 and 1.

    Reference: Cai et al. 2019, arXiv 1908.09791 (once-for-all); the numbers are those that Xu et
    al. 2023, arXiv 2308.07650, are reported to use. Unlike both, no arch is asked for twice.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("width", tuple(range(100))),))
        >>> len(Genetic(space, population=8).ask())
        8
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        population: int = 100,
        parents: float = 0.25,
        mutation: float = 0.1,
        crossover: float = 0.5,
    ) -> None:
        shares = {"parents": parents, "mutation": mutation, "crossover": crossover}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"Genetic({name}={share}): it is a share between 0 and 1")
        if population < 2:
            raise InputError(f"Genetic(population={population}): it needs at least 2")
        self._space, self._rng = space, np.random.default_rng(seed)
        self._population, self._mutation, self._crossover = population, mutation, crossover
        self._count = max(2, round(parents * population))
        self._seen: set[Arch] = set()
        self._parents: list[Evaluation] = []

    def ask(self) -> list[Arch]:
        """Return archs that were not asked for before; fewer, or none, when there are no more."""
        found: list[Arch] = []
        for _ in range(_ATTEMPTS * self._population):
            if len(found) == self._population:
                break
            child = self._space.canonical(self._child(len(found)))
            if child not in self._seen:
                self._seen.add(child)
                found.append(child)
        return found

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Keep the best of these and of those before as parents."""
        pool = {one.arch: one for one in (*self._parents, *evaluations)}
        ranked = sorted(pool.values(), key=lambda e: (max(0.0, e.violation), e.objectives[0]))
        self._parents = ranked[: self._count]

    def _child(self, number: int) -> Arch:
        if not self._parents:
            return self._space.sample(self._rng)
        first, second = (
            self._parents[int(n)].arch for n in self._rng.integers(len(self._parents), size=2)
        )
        if number < self._crossover * self._population and len(self._parents) > 1:
            return self._space.crossover(first, second, self._rng)
        return self._space.mutate(first, self._rng, self._mutation)
