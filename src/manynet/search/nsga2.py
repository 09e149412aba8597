"""NSGA-II over archs: children are bred here, pymoo decides who survives.

A generation is bred at once, as rows of positions: row `n`, column `c` says which value of choice
`c` arch `n` has. An arch is asked for at most once, and archs that differ only in choices that are
inactive count as one.

Letters in shapes: `N` archs, `C` choices, `O` objectives.

Reference: Deb, Pratap, Agarwal and Meyarivan, "A fast and elitist multiobjective genetic
algorithm: NSGA-II" (2002). We differ in the first generation, which is spread from the smallest to
the largest arch, and in that no arch is ever evaluated twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError, MissingExtraError
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Space

__all__ = ["NSGA2"]

Rows: TypeAlias = NDArray[np.int64]
Reals: TypeAlias = NDArray[np.float64]

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
    ) -> None:
        if population < 4:
            raise InputError(f"the population of NSGA-II must be at least 4, not {population}")
        self._grid = _Grid(space)
        self._rng = np.random.default_rng(seed)
        self._population, self._crossover = population, crossover
        self._mutation = 1 / max(1, len(space)) if mutation is None else mutation
        self._survivors = _Survivors(population, seed)
        self._seen: set[Arch] = set()

    def ask(self) -> list[Arch]:
        """Return archs that were not asked for before; fewer, or none, when there are no more."""
        found: list[Arch] = []
        if not self._seen:
            found += self._new([self._grid.space.largest, self._grid.space.smallest])
        for _ in range(_ATTEMPTS):
            if len(found) >= self._population:
                break
            archs = self._bred() if self._survivors else self._spread()
            found += self._new(archs, self._population - len(found))
        return found

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Let the fittest of the population and these go on."""
        if not evaluations:
            return
        self._survivors.update(
            np.array([self._grid.row(evaluation.arch) for evaluation in evaluations]),
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

    def _spread(self) -> Iterator[Arch]:
        """Yield random archs whose sizes spread evenly from the smallest to the largest."""
        size = np.linspace(0.02, 0.98, self._population)[:, None]
        shares = self._rng.beta(2 * size, 2 * (1 - size), (self._population, self._grid.width))
        rows = np.minimum((shares * self._grid.levels).astype(np.int64), self._grid.levels - 1)
        return map(self._grid.arch, self._rng.permutation(rows))

    def _bred(self) -> Iterator[Arch]:
        """Yield children of parents who won a tournament."""
        mothers, fathers = (self._survivors.winners(self._population, self._rng) for _ in "mf")
        return map(self._grid.arch, self._mutated(self._crossed(mothers, fathers)))

    def _crossed(self, mothers: Rows, fathers: Rows) -> Rows:
        swaps = self._rng.random(mothers.shape) < 0.5
        swaps &= self._rng.random((len(mothers), 1)) < self._crossover
        return np.where(swaps, fathers, mothers)

    def _mutated(self, rows: Rows) -> Rows:
        """Change some positions: half of them to a neighbor, half to any other value."""
        levels = self._grid.levels
        changed = self._rng.random(rows.shape) < self._mutation
        jumped = (rows + self._rng.integers(1, np.maximum(levels, 2), rows.shape)) % levels
        steps = rows + self._rng.choice((-1, 1), rows.shape)
        stepped = np.where((steps < 0) | (steps >= levels), 2 * rows - steps, steps)
        moved = np.where(self._rng.random(rows.shape) < 0.5, stepped, jumped)
        return np.where(changed & (levels > 1), moved, rows)


class _Grid:
    """Archs of a space as rows of positions, and back; what constraints forbid is repaired."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self.width = len(space)
        self.levels = np.array([len(choice.values) for choice in space], dtype=np.int64)
        self._last = np.maximum(self.levels - 1, 1).astype(np.float64)
        self._free = not space.constraints and not any(c.active_when for c in space)
        self._rows: dict[Arch, Rows] = {}

    def arch(self, row: Rows) -> Arch:
        """Return the arch of a row `(C,)`, or the nearest that the constraints allow."""
        arch = self.space.decode(row / self._last)
        if self._free:
            self._rows[arch] = row
        return arch

    def row(self, arch: Arch) -> Rows:
        """Return the row `(C,)` of an arch; choices that do not matter are at 0."""
        row = self._rows.pop(arch, None)
        if row is None:
            row = np.rint(self.space.encode(arch) * self._last).astype(np.int64)
        return row


class _Survivors:
    """The population; pymoo's ranking and crowding decides who stays in it."""

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
