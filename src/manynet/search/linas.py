"""Search with predictors: measure a few, predict thousands, measure the best of them.

Letters in shapes: `N` archs, `C` choices, `O` objectives.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from manynet.errors import InputError
from manynet.search._breeding import Breeder, Reals, Rows
from manynet.search.engines import Engine, Predicted, Sampled, make_engine
from manynet.search.front import Front
from manynet.search.regressors import Regressor, label_factor, make_regressor
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Grid, Space

__all__ = ["Fidelity", "Linas", "one_shot", "weak_nas"]

_FEWEST = 8
"""Below so many measured archs nothing is predicted."""
_TRIALS = 100
"""So many mutations for each arch are tried before a round stays smaller."""
Function: TypeAlias = Callable[[Reals], Reals]


@dataclass(frozen=True)
class Fidelity:
    """How well one round's predictions came true, for each objective in turn.

    Args:
        samples: archs that were predicted, then measured.
        mape: mean absolute error in percent of the values; infinite where one is 0.
        rmse: root of the mean squared error, in the unit of the objective.
        kendall: rank correlation, -1 to 1.
        spearman: correlation of the ranks, -1 to 1.
        regressors: what predicted, where it says its name.
    """

    samples: int
    mape: tuple[float, ...]
    rmse: tuple[float, ...]
    kendall: tuple[float, ...]
    spearman: tuple[float, ...]
    regressors: tuple[str, ...]


class Linas:
    """Rounds of measuring a population, fitting a predictor and searching on the predictions.

    The first population is half random, half of all sizes from the smallest to the largest (after
    `warm_start`): members drawn at random are nearly all of middling size where choices are many,
    and say little of the ends of the front. After that each round fits one regressor for
    each objective to all that was measured, runs an inner search on the predictions alone, and asks
    for what it ends with. Archs that differ only in choices that do not matter are one arch, and
    none is asked for twice: where the inner search brings too few new ones, they come from the
    later fronts of all that it looked at, then from mutations of its first front.

    Args:
        space: where the archs come from.
        seed: of every random decision.
        population: archs in a round, at least 2.
        regressor: `"ridge_svr"` (ridge or support vectors, the better in cross-validation),
            `"ridge"`, `"svr"`, `"stacked"`, `"mlp"`, `"trees"`, or a `Regressor` of your own; a
            list gives each objective its own, the quality first.
        engine: the inner search: `"nsga2"` (ours), or pymoo's `"pymoo-nsga2"`, `"age-moea"`,
            `"u-nsga3"` and `"ga"` (one objective), `"sampled"`, or an `Engine` of your own.
        inner: predictions in a round; None for 400 generations of the population.
        warm_start: a front of another device, or archs, to begin with instead of chance; what is
            already in the store is not measured again.
        first: archs of the first population; `population` if None.
        spread: let half of the first population be of all sizes; False draws every choice alike, as
            the reference does.
        rounds: how many predicted rounds to make; None for as many as the search lasts.
        canonical: as `search` takes it, which hands it on.

    Attributes:
        fidelity: of each predicted round, how well its predictions came true.

    Raises:
        InputError: an argument does not fit.
        MissingExtraError: pymoo or scikit-learn is not installed.

    Reference: Sarah et al. 2022, arXiv 2202.12954. We differ in the first population (`spread`,
    and the largest and the smallest arch are in it), in that the last population is measured too,
    and in that each inner search has a seed of its own.

    Example:
        >>> from manynet.search import search
        >>> from manynet.space import Choice
        >>> space = Space(tuple(Choice(f"width{i}", (1, 2, 3, 4)) for i in range(6)))
        >>> def evaluate(arch):
        ...     return {"accuracy": sum(w**0.5 for w in arch.values()), "macs": sum(arch.values())}
        >>> front = search(
        ...     space, "accuracy", costs=["macs"], evaluate=evaluate, evaluations=60,
        ...     strategy="linas", population=20,
        ... )
        >>> len(front) > 15  # of the 19 best there are
        True
    """

    def __init__(
        self,
        space: Space,
        *,
        seed: int = 0,
        population: int = 50,
        regressor: str | Regressor | Sequence[str | Regressor] = "ridge_svr",
        engine: str | Engine = "nsga2",
        inner: int | None = None,
        warm_start: Front | Iterable[Arch] = (),
        first: int | None = None,
        spread: bool = True,
        rounds: int | None = None,
        canonical: Callable[[Arch], Arch] | None = None,
    ) -> None:
        first = population if first is None else first
        inner = 400 * population if inner is None else inner
        for name, value in {"population": population, "inner": inner, "first": first}.items():
            if value < 2:
                raise InputError(f"Linas({name}={value}): it needs at least 2")
        self._grid = Grid(space, canonical=canonical)
        several = isinstance(regressor, Sequence) and not isinstance(regressor, str)
        given = regressor if several else [regressor]
        self._regressors = [make_regressor(one) for one in given]  # type: ignore[union-attr,arg-type]
        self._engine, self._inner = make_engine(engine), inner
        self._rng = np.random.default_rng(seed)
        self._breeder = Breeder(self._grid.sizes, self._rng)
        self._population, self._first, self._rounds = population, first, rounds
        self._warm = iter(_archs_of(warm_start))
        self._spread_out = spread
        self._seen: set[Arch] = set()
        self._told: dict[Arch, Evaluation] = {}
        self._expected: dict[Arch, Reals] = {}
        self._names: tuple[str, ...] = ()
        self.fidelity: list[Fidelity] = []

    def ask(self) -> list[Arch]:
        """Return archs that were not asked for before; fewer, or none, when there are no more."""
        if len(self._seen) < self._first:
            return self._new(self._beginning(), self._first - len(self._seen))
        known = [one for one in self._told.values() if np.isfinite(one.objectives).all()]
        if len(known) < _FEWEST:
            return self._new(self._chance(), self._population)
        if self._rounds is not None:
            if not self._rounds:
                return []
            self._rounds -= 1
        return self._predicted(known)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Remember what was measured, and how it had been predicted."""
        for one in evaluations:
            self._told[self._canonical(one.arch)] = one
        pairs = [
            (self._expected[arch], one.objectives)
            for arch, one in ((self._canonical(one.arch), one) for one in evaluations)
            if arch in self._expected and np.isfinite(one.objectives).all()
        ]
        if len(pairs) > 1:
            found, wanted = (np.array(side) for side in zip(*pairs, strict=True))
            self.fidelity.append(_fidelity(found, wanted, self._names))
        self._expected.clear()

    # --- what to ask for

    def _beginning(self) -> Iterator[Arch]:
        """Yield the ends of the space, the warm start, then archs of all sizes and at random."""
        space = self._grid.space
        yield from self._archs(self._grid.rows([space.largest, space.smallest]))
        yield from self._archs(self._grid.rows(self._warm))
        half = -(-self._first // 2)
        if self._spread_out:
            sizes = self._archs(self._breeder.spread(half))
            random = self._archs(self._grid.sample(self._rng, half))
            yield from itertools.chain(*zip(sizes, random, strict=True))
        yield from self._chance()

    def _chance(self) -> Iterator[Arch]:
        for _ in range(_TRIALS):
            yield from self._archs(self._grid.sample(self._rng, self._population))

    def _archs(self, rows: Rows) -> list[Arch]:
        return self._grid.archs(self._grid.repaired(rows))

    def _canonical(self, arch: Arch) -> Arch:
        return self._archs(self._grid.rows([arch]))[0]

    def _new(self, archs: Iterable[Arch], limit: int) -> list[Arch]:
        """Return the first of the archs that were not asked for yet."""
        found: list[Arch] = []
        for arch in archs:
            if len(found) == limit:
                break
            if arch not in self._seen:
                self._seen.add(arch)
                found.append(arch)
        return found

    # --- one predicted round

    def _predicted(self, known: Sequence[Evaluation]) -> list[Arch]:
        """Return the last population of an inner search, filled up with what it came across."""
        predict = self._fitted(known)
        predicted = Predicted(predict)
        last = self._engine(
            predicted,
            self._grid,
            seed=int(self._rng.integers(2**31)),
            population=self._population,
            evaluations=self._inner,
        )
        found = self._new(self._grid.archs(last), self._population)
        fronts = predicted.fronts()
        best = last
        for number, front in enumerate(fronts):
            best = front if number == 0 else best
            if len(found) >= self._population:
                break
            found += self._spread(front, self._population - len(found))
        found += self._new(self._mutants(best), self._population - len(found))
        if found:
            objectives, _ = predict(self._grid.rows(found))
            self._expected = dict(zip(found, objectives, strict=True))
        return found

    def _spread(self, front: Rows, limit: int) -> list[Arch]:
        """Return new archs of a front, evenly along it."""
        fresh = [arch for arch in self._grid.archs(front) if arch not in self._seen]
        if len(fresh) > limit:
            places = np.linspace(0, len(fresh) - 1, limit).round().astype(int).tolist()
            fresh = [fresh[place] for place in places]
        return self._new(fresh, limit)

    def _mutants(self, rows: Rows) -> Iterator[Arch]:
        for _ in range(_TRIALS if len(rows) else 0):
            parents = rows[self._rng.integers(len(rows), size=self._population)]
            yield from self._archs(self._breeder.mutated(parents))

    def _fitted(self, known: Sequence[Evaluation]) -> Callable[[Rows], tuple[Reals, Reals]]:
        """Return what predicts the objectives and violations of rows, fitted to what is known."""
        objectives = np.array([one.objectives for one in known])
        count = objectives.shape[1]
        if len(self._regressors) not in (1, count):
            raise InputError(
                f"Linas has {len(self._regressors)} regressors for {count} objectives (quality, "
                "then costs); give one, or one for each"
            )
        features = self._features(one.arch for one in known)
        ways = self._regressors * (count if len(self._regressors) == 1 else 1)
        columns = [
            _scaled(fit, features, values) for fit, values in zip(ways, objectives.T, strict=True)
        ]
        self._names = tuple(name for _, name in columns)
        broken = self._violations(ways[0])

        def predict(rows: Rows) -> tuple[Reals, Reals]:
            x = self._grid.onehot(rows)
            return np.stack([column(x) for column, _ in columns], axis=1), broken(x)

        return predict

    def _features(self, archs: Iterable[Arch]) -> Reals:
        return self._grid.onehot(self._grid.repaired(self._grid.rows(archs)))

    def _violations(self, regressor: Regressor) -> Function:
        """Return what predicts by how much the constraints are broken; 0 where it is not sure."""
        told = list(self._told.values())
        violations = np.array([one.violation for one in told])
        if not (violations > 0).any():
            return lambda x: np.zeros(len(x))
        features = self._features(one.arch for one in told)
        column, _ = _scaled(regressor, features, violations)
        unsure = float(np.sqrt(np.mean((column(features) - violations) ** 2)))

        def function(x: Reals) -> Reals:
            found = column(x)
            return np.where(found > unsure, found, 0.0)

        return function


def weak_nas(
    space: Space,
    *,
    seed: int = 0,
    population: int = 50,
    canonical: Callable[[Arch], Arch] | None = None,
    **options: object,
) -> Linas:
    """Return a search that ranks a large random sample by prediction, and measures the best.

    Args:
        space: where the archs come from.
        seed: of every random decision.
        population: archs in a round.
        canonical: as `search` takes it, which hands it on.
        **options: of `Linas`.

    Reference: Wu et al. 2021, "Stronger NAS with Weaker Predictors", arXiv 2102.10490. With more
    than one objective the rank is that of the predicted fronts.
    """
    settings: dict[str, object] = {
        "engine": Sampled(),
        "spread": False,
        "canonical": canonical,
        **options,
    }
    return Linas(space, seed=seed, population=population, **settings)  # type: ignore[arg-type]


def one_shot(
    space: Space,
    *,
    seed: int = 0,
    population: int = 50,
    evaluations: int | None = None,
    canonical: Callable[[Arch], Arch] | None = None,
    **options: object,
) -> Linas:
    """Return a search with one predictor, fitted to random archs, and one inner search.

    Args:
        space: where the archs come from.
        seed: of every random decision.
        population: archs that the inner search ends with, measured last.
        evaluations: of the whole search; five populations if None. All but the last `population`
            are random.
        canonical: as `search` takes it, which hands it on.
        **options: of `Linas`.
    """
    first = (5 * population if evaluations is None else evaluations) - population
    settings: dict[str, object] = {
        "first": first,
        "rounds": 1,
        "spread": False,
        "canonical": canonical,
        **options,
    }
    return Linas(space, seed=seed, population=population, **settings)  # type: ignore[arg-type]


def _archs_of(start: Front | Iterable[Arch]) -> Iterator[Arch]:
    """Yield the archs to begin with: those of a front, then the rest that it was found among."""
    if not isinstance(start, Front):
        yield from start
        return
    yield from (record.arch for record in start)
    yield from (record.arch for record in reversed(start.history))


def _scaled(regressor: Regressor, features: Reals, values: Reals) -> tuple[Function, str]:
    """Fit to values between 10 and 100; return what predicts in the unit given, and its name."""
    factor = label_factor(values)
    fitted = regressor(features, values / factor)
    name = str(getattr(fitted, "name", getattr(regressor, "__name__", "own")))
    return lambda x: np.asarray(fitted(x)) * factor, name


def _fidelity(found: Reals, wanted: Reals, names: tuple[str, ...]) -> Fidelity:
    from scipy import stats

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # constant values have no ranks
        shares = np.nan_to_num(np.abs((found - wanted) / wanted), nan=0.0, posinf=np.inf)
        columns = list(zip(found.T, wanted.T, strict=True))
        return Fidelity(
            len(found),
            tuple(float(100 * column.mean()) for column in shares.T),
            tuple(float(np.sqrt(np.mean((a - b) ** 2))) for a, b in columns),
            tuple(float(stats.kendalltau(a, b).statistic) for a, b in columns),
            tuple(float(stats.spearmanr(a, b).statistic) for a, b in columns),
            names,
        )
