"""Inner searches: they look for a front of predicted values, and measure nothing.

Letters in shapes: `N` archs, `C` choices, `O` objectives.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError, MissingExtraError, did_you_mean
from manynet.search._breeding import Breeder, Reals, Rows, Survivors
from manynet.search.front import non_dominated
from manynet.space import Grid

__all__ = ["ENGINES", "Engine", "Evolve", "Predicted", "Pymoo", "Sampled", "make_engine"]

_MATINGS = 10
"""How often pymoo mates again in a generation when children are there already."""
Predict: TypeAlias = Callable[[Rows], tuple[Reals, Reals]]


@dataclass
class Predicted:
    """What an inner search asks for values; it remembers all that was asked.

    Args:
        predict: from rows `(N, C)` to objectives `(N, O)` and violations `(N,)`.
    """

    predict: Predict
    _rows: list[Rows] = field(default_factory=list)
    _values: list[Reals] = field(default_factory=list)

    def __call__(self, rows: Rows) -> tuple[Reals, Reals]:
        """Return the predicted objectives `(N, O)` and violations `(N,)` of rows `(N, C)`."""
        objectives, violations = self.predict(rows)
        self._rows.append(rows)
        self._values.append(np.column_stack([violations, objectives]))
        return objectives, violations

    @property
    def count(self) -> int:
        """How many predictions were made."""
        return sum(map(len, self._rows))

    def fronts(self) -> Iterator[Rows]:
        """Yield the rows that were looked at, each once, front by front, along the first objective.

        What breaks a constraint comes last, what breaks it by less before what breaks it by more.
        """
        if not self._rows:
            return
        rows, first = np.unique(np.concatenate(self._rows), axis=0, return_index=True)
        values = np.concatenate(self._values)[first]
        broken = values[:, 0] > 0
        left, points = rows[~broken], values[~broken, 1:]
        while len(left):
            front = np.array(non_dominated(points))
            yield left[front[np.argsort(points[front, 0], kind="stable")]]
            left, points = np.delete(left, front, axis=0), np.delete(points, front, axis=0)
        yield from rows[broken][np.argsort(values[broken, 0], kind="stable")][:, None]


class Engine(Protocol):
    """What searches among predictions."""

    def __call__(
        self, predicted: Predicted, grid: Grid, /, *, seed: int, population: int, evaluations: int
    ) -> Rows:
        """Return a last population, `(N, C)`, canonical rows.

        Args:
            predicted: what to ask for the values of rows.
            grid: the space; `grid.repaired` must be the last to touch a row.
            seed: of every random decision.
            population: how many rows to return about.
            evaluations: how many predictions to make about.
        """
        ...


@dataclass(frozen=True)
class Evolve:
    """Our own NSGA-II.

    Args:
        mutation: the probability that a choice of a child is changed; None means one choice a
            child in the mean.
        crossover: the probability that two parents exchange choices.
    """

    mutation: float | None = None
    crossover: float = 0.9

    def __call__(
        self, predicted: Predicted, grid: Grid, /, *, seed: int, population: int, evaluations: int
    ) -> Rows:
        """Evolve a population that begins at random."""
        rng = np.random.default_rng(seed)
        breeder = Breeder(grid.sizes, rng, self.mutation, self.crossover)
        survivors = Survivors(population, seed)
        rows = grid.sample(rng, population)
        for _ in range(max(1, round(evaluations / population))):
            if survivors:
                pairs = (survivors.winners(population, rng) for _ in "mf")
                rows = grid.repaired(breeder.children(*pairs))
            rows = _unlike(rows, survivors.rows)
            if len(rows):
                survivors.update(rows, *predicted(rows))
        return survivors.rows


@dataclass(frozen=True)
class Pymoo:
    """An algorithm of pymoo over whole numbers: real-coded crossover and mutation, rounded.

    Args:
        algorithm: `"nsga2"`, `"age-moea"`, `"u-nsga3"`, or `"ga"` for one objective.
        crossover: the probability that two parents are crossed.
        crossover_eta: how near children stay to their parents.
        mutation: the probability that a choice of a child is changed; None means one choice a
            child in the mean (0.02 for the 45 of the reference).
        mutation_eta: how near it stays.

    Raises:
        InputError: there is no such algorithm; when called: `"ga"` has more than one objective.
        MissingExtraError: pymoo is not installed, or numba, which its AGE-MOEA needs.

    Reference: the operators are those of Sarah et al. 2022, arXiv 2202.12954; the algorithms are
    Deb et al. 2002 (NSGA-II), Panichella 2019 (AGE-MOEA), Seada and Deb 2016 (U-NSGA-III).
    """

    algorithm: str
    crossover: float = 0.9
    crossover_eta: float = 15.0
    mutation: float | None = None
    mutation_eta: float = 20.0

    def __post_init__(self) -> None:
        """Check the name."""
        if self.algorithm not in _PYMOO:
            raise InputError(
                f"pymoo has no {self.algorithm!r} here{did_you_mean(self.algorithm, _PYMOO)}"
            )

    def __call__(
        self, predicted: Predicted, grid: Grid, /, *, seed: int, population: int, evaluations: int
    ) -> Rows:
        """Run it from a random population."""

        def repair(problem: object, asked: Any, **options: object) -> Any:
            rows = np.clip(np.rint(asked.get("X").astype(float)), 0, grid.sizes - 1)
            asked.set("X", grid.repaired(rows.astype(np.int64)))
            return asked

        def tell(asked: Any) -> None:
            objectives, violations = predicted(asked.get("X").astype(np.int64))
            asked.set("F", objectives, "G", violations[:, None])
            algorithm.tell(infills=asked)

        sampling = grid.sample(np.random.default_rng(seed), population)
        objectives = predicted.predict(sampling[:1])[0].shape[1]
        algorithm = self._made(
            objectives, population, grid.width, sampling=sampling, repair=repair, seed=seed
        )
        problem = _pymoo("core.problem").Problem(
            grid.width, n_obj=objectives, n_ieq_constr=1, xl=0, xu=grid.sizes - 1, vtype=int
        )
        algorithm.mating.n_max_iterations = _MATINGS
        algorithm.setup(problem)
        while predicted.count < evaluations:
            asked = algorithm.ask()
            if asked is None or not len(asked):
                break
            tell(asked)
        return np.unique(algorithm.pop.get("X").astype(np.int64), axis=0)

    def _made(self, objectives: int, population: int, choices: int, **options: Any) -> Any:
        module, name = _PYMOO[self.algorithm]
        if self.algorithm == "ga" and objectives > 1:
            raise InputError(
                f"the inner search 'ga' is for one objective, and there are {objectives}; try "
                "'nsga2', or 'u-nsga3' for three and more"
            )
        if self.algorithm == "u-nsga3":
            options["ref_dirs"] = _directions(objectives, population)
            tournament = _pymoo("operators.selection.tournament").TournamentSelection
            options["selection"] = tournament(func_comp=_of_one_niche)
        rate = 1 / choices if self.mutation is None else self.mutation
        real: dict[str, Any] = {"vtype": float}
        operators = {
            "crossover": _pymoo("operators.crossover.sbx").SBX(
                prob=self.crossover, eta=self.crossover_eta, **real
            ),
            "mutation": _pymoo("operators.mutation.pm").PM(
                prob=1.0, prob_var=rate, eta=self.mutation_eta, **real
            ),
        }
        return getattr(_pymoo(module), name)(
            pop_size=population,
            eliminate_duplicates=True,
            output=None,
            termination=_pymoo("core.termination").NoTermination(),
            **operators,
            **options,
        )


@dataclass(frozen=True)
class Sampled:
    """No search at all: the best of a large random sample (as in WeakNAS)."""

    def __call__(
        self, predicted: Predicted, grid: Grid, /, *, seed: int, population: int, evaluations: int
    ) -> Rows:
        """Predict a random sample; there is no last population, only fronts."""
        predicted(grid.sample(np.random.default_rng(seed), evaluations))
        return np.empty((0, grid.width), dtype=np.int64)


_PYMOO = {
    "age-moea": ("algorithms.moo.age", "AGEMOEA"),
    "ga": ("algorithms.soo.nonconvex.ga", "GA"),
    "nsga2": ("algorithms.moo.nsga2", "NSGA2"),
    "u-nsga3": ("algorithms.moo.unsga3", "UNSGA3"),
}
ENGINES: dict[str, Callable[[], Engine]] = {
    "age-moea": lambda: Pymoo("age-moea"),
    "ga": lambda: Pymoo("ga"),
    "nsga2": Evolve,
    "pymoo-nsga2": lambda: Pymoo("nsga2"),
    "sampled": Sampled,
    "u-nsga3": lambda: Pymoo("u-nsga3"),
}


def make_engine(engine: str | Engine) -> Engine:
    """Return the engine of that name, or the one given.

    Raises:
        InputError: there is none of that name, or what was given cannot be called.
    """
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise InputError(f"there is no inner search {engine!r}{did_you_mean(engine, ENGINES)}")
        return ENGINES[engine]()
    if not callable(engine):
        raise InputError(f"{engine!r} is no inner search; see manynet.search.Engine")
    return engine


def _unlike(rows: Rows, others: Rows) -> Rows:
    """Return those of the rows that are not among the others, each once."""
    known = {row.tobytes() for row in others}
    fresh = {row.tobytes(): number for number, row in reversed(list(enumerate(rows)))}
    return rows[sorted(number for key, number in fresh.items() if key not in known)]


def _of_one_niche(
    population: Any, pairs: NDArray[np.int64], random_state: np.random.Generator, **options: object
) -> NDArray[np.int64]:
    """Return the winners `(pairs, 1)` of U-NSGA-III's tournaments.

    Less violation wins, else in one niche the lower rank, then the nearer to its direction, else
    chance: pymoo's own breaks ties by a chance that has no seed.
    """

    def values(one: Any, other: Any) -> tuple[Any, Any]:
        if one.CV[0] > 0 or other.CV[0] > 0:
            return one.CV[0], other.CV[0]
        if one.get("niche") != other.get("niche"):
            return 0, 0
        first, second = ((p.get("rank"), p.get("dist_to_niche")) for p in (one, other))
        return first, second

    won = pairs[np.arange(len(pairs)), random_state.integers(0, 2, len(pairs))]
    for number, (a, b) in enumerate(pairs):
        first, second = values(population[a], population[b])
        if first != second:
            won[number] = a if first < second else b
    return won[:, None]


def _directions(objectives: int, population: int) -> Reals:
    """Return as many reference directions as the population can serve, `(D, O)`."""
    parts = population - 1
    while parts > 1 and math.comb(parts + objectives - 1, objectives - 1) > population:
        parts -= 1
    made = _pymoo("util.ref_dirs").get_reference_directions
    return np.asarray(made("das-dennis", objectives, n_partitions=max(1, parts)))


def _pymoo(module: str) -> Any:
    """Return a module of pymoo. Raises `MissingExtraError`."""
    if module.endswith(".age"):
        _import("numba", "numba")  # pymoo raises a bare Exception without it
    return _import(f"pymoo.{module}", "pymoo")


def _import(module: str, library: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(library, "search") from error
