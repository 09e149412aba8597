"""What NSGA-II is made of, over rows of positions: breeding, and who survives.

Letters in shapes: `N` archs, `C` choices, `O` objectives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manynet.errors import MissingExtraError

__all__ = ["Breeder", "Reals", "Rows", "Survivors"]

Rows: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Breeder:
    """Uniform crossover and mutation of a generation at once.

    Args:
        sizes: how many values each choice has, `(C,)`.
        rng: the source of chance.
        mutation: the probability that a choice of a child is changed; None means one choice a
            child in the mean.
        crossover: the probability that two parents exchange choices.
    """

    sizes: Rows
    rng: np.random.Generator
    mutation: float | None = None
    crossover: float = 0.9

    def spread(self, count: int) -> Rows:
        """Return random rows `(count, C)` of all sizes, from the smallest to the largest."""
        size = np.linspace(0.02, 0.98, count)[:, None]
        shares = self.rng.beta(2 * size, 2 * (1 - size), (count, len(self.sizes)))
        rows = np.minimum((shares * self.sizes).astype(np.int64), self.sizes - 1)
        return self.rng.permutation(rows)

    def children(self, mothers: Rows, fathers: Rows) -> Rows:
        """Return a child `(N, C)` of each couple; constraints are not looked at."""
        return self.mutated(self._crossed(mothers, fathers))

    def _crossed(self, mothers: Rows, fathers: Rows) -> Rows:
        swaps = self.rng.random(mothers.shape) < 0.5
        swaps &= self.rng.random((len(mothers), 1)) < self.crossover
        return np.where(swaps, fathers, mothers)

    def mutated(self, rows: Rows) -> Rows:
        """Change some positions: half of them to a neighbor, half to any other value."""
        sizes = self.sizes
        rate = 1 / max(1, len(sizes)) if self.mutation is None else self.mutation
        changed = self.rng.random(rows.shape) < rate
        jumped = (rows + self.rng.integers(1, np.maximum(sizes, 2), rows.shape)) % sizes
        steps = rows + self.rng.choice((-1, 1), rows.shape)
        stepped = np.where((steps < 0) | (steps >= sizes), 2 * rows - steps, steps)
        moved = np.where(self.rng.random(rows.shape) < 0.5, stepped, jumped)
        return np.where(changed & (sizes > 1), moved, rows)


class Survivors:
    """The population; pymoo's ranking and crowding decides who stays in it.

    Args:
        size: archs that stay.
        seed: of ties.

    Raises:
        MissingExtraError: pymoo is not installed.
    """

    def __init__(self, size: int, seed: int) -> None:
        try:
            from pymoo.core.individual import default_config
            from pymoo.operators.survival.rank_and_crowding import RankAndCrowding
        except ImportError as error:
            raise MissingExtraError("pymoo", "search") from error
        self._survival: Any = RankAndCrowding()
        self._config = default_config()
        self._size, self._rng = size, np.random.default_rng(seed)
        self._population: Any = None
        self._rows: Rows = np.empty((0, 0), dtype=np.int64)
        self._objectives: Reals = np.empty((0, 0))
        self._violations: Reals = np.empty(0)
        self._crowding: Reals = np.empty(0)

    def __bool__(self) -> bool:
        return len(self._rows) > 0

    @property
    def rows(self) -> Rows:
        """The rows of those who live, `(N, C)`, the first fronts first."""
        return self._rows

    def update(self, rows: Rows, objectives: Reals, violations: Reals) -> None:
        """Add archs `(N, C)` with objectives `(N, O)` and violations `(N,)`; keep the fittest."""
        from pymoo.core.individual import Individual
        from pymoo.core.population import Population
        from pymoo.core.problem import Problem

        told = Population(
            [
                Individual(self._config, X=row, F=values, CV=violation)
                for row, values, violation in zip(
                    rows, objectives, violations[:, None], strict=True
                )
            ]
        )
        if self:
            rows = np.concatenate([self._rows, rows])
            objectives = np.concatenate([self._objectives, objectives])
            violations = np.concatenate([self._violations, violations])
            told = Population.merge(self._population, told)
        constrained = int((violations > 0).any())
        left = self._survival.do(
            Problem(rows.shape[1], n_obj=objectives.shape[1], n_ieq_constr=constrained),
            told,
            n_survive=self._size,
            random_state=self._rng,
            return_indices=True,
        )
        self._population = told[left]
        self._rows, self._objectives = rows[left], objectives[left]
        self._violations = violations[left]
        crowding = [individual.data.get("crowding", 0.0) for individual in self._population]
        self._crowding = np.array(crowding, dtype=np.float64)

    def winners(self, count: int, rng: np.random.Generator) -> Rows:
        """Return the rows `(count, C)` of the better of two random survivors, `count` times."""
        a, b = rng.integers(0, len(self._rows), (2, count))
        better = self._better(a, b).astype(np.int64) - self._better(b, a)
        coin = rng.integers(0, 2, count, dtype=np.int64) * 2 - 1
        chosen: Rows = self._rows[np.where(np.where(better == 0, coin, better) > 0, a, b)]
        return chosen

    def _better(self, a: Rows, b: Rows) -> NDArray[np.bool_]:
        """Tell where survivor `a` is preferred: less violation, then dominance, then crowding."""
        less = self._violations[a] < self._violations[b]
        even = self._violations[a] == self._violations[b]
        mine, theirs = self._objectives[a], self._objectives[b]
        dominates = (mine <= theirs).all(1) & (mine < theirs).any(1)
        dominated = (theirs <= mine).all(1) & (theirs < mine).any(1)
        lonelier = self._crowding[a] > self._crowding[b]
        preferred: NDArray[np.bool_] = less | (even & (dominates | (lonelier & ~dominated)))
        return preferred
