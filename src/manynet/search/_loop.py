"""The search: ask a strategy for archs, judge them, tell it, until the evaluations are spent."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from torch import nn

from manynet._inputs import evaluating
from manynet.errors import BudgetError, InputError
from manynet.search._crew import Alone, Judging, judging
from manynet.search._judge import CostLike, FamilyLike, Judge, Quality
from manynet.search._named import STRATEGIES, make_strategy
from manynet.search._setup import Bounds, make_judge
from manynet.search._view import View
from manynet.search.front import Front, Record
from manynet.search.linas import one_shot
from manynet.search.store import Store
from manynet.search.strategies import Evaluation, Strategy, StrategyFactory
from manynet.search.workers import RayWorkers, workers_of
from manynet.space import Arch, Space

__all__ = ["Progress", "search"]

Progress: TypeAlias = Callable[[int, int, Mapping[str, float]], object]

_REFUSED = 10
"""A search ends when so many archs for each evaluation broke a constraint unjudged."""
_STALE = 20
"""A search ends when a strategy has asked so many times in a row for nothing new."""


def search(
    family: FamilyLike | Space,
    quality: Quality | str,
    *,
    costs: Sequence[CostLike | str] = (),
    evaluations: int = 300,
    strategy: str | Strategy | StrategyFactory = "nsga2",
    constraints: Mapping[str, Bounds] | None = None,
    store: Store | Path | str | None = None,
    seed: int = 0,
    calibrate: Callable[[nn.Module], object] | None = None,
    evaluate: Callable[[Arch], Mapping[str, float]] | None = None,
    population: int | None = None,
    progress: Progress | None = None,
    context: str = "",
    canonical: Callable[[Arch], Arch] | None = None,
    workers: int | RayWorkers = 0,
) -> Front:
    """Return the best members for every budget: the front of quality against costs.

    The largest and the smallest arch are judged first. Costs are taken before the quality, so an
    arch whose costs break a constraint is never judged. With a `store` nothing is measured twice:
    a search that was interrupted, called again with the same arguments, takes the same course
    through what was measured and ends with the same front. A space that is no larger than
    `evaluations` is judged whole. Nothing of the family is changed.

    Args:
        family: what to search: a family, or a space for a plain function (`evaluate`).
        quality: a `Metric`, or the name of a value (more is better) that `evaluate` returns.
        costs: what is to be small; costs, or names of values that `evaluate` returns.
        evaluations: how many archs to judge, those found in the store included.
        strategy: `"nsga2"`, `"linas"` (measure few, predict many: for qualities that take long to
            measure), `"weak_nas"`, `"one_shot"`, `"coarse_to_fine"`, `"genetic"`, `"random"`,
            `"exhaustive"`, or a `Strategy` (or what makes one) of your own.
        constraints: the most that is allowed of a cost (of a quality: the least, if more is
            better), or `(least, most)` with None for no limit, by name.
        store: an evaluation store or its path; None keeps values in memory.
        seed: of the strategy.
        calibrate: called with each member before its quality is judged, to set its statistics
            (`lambda member: manynet.deploy.calibrate(member, data)`); they are put back afterwards.
        evaluate: takes an arch and returns the values that are given by name above.
        population: archs the strategy proposes at once; None suits it to `evaluations`.
        progress: called as `progress(done, total, info)` after each judged arch; `info` has
            `best` quality, `front` size, `hypervolume` (relative to the first archs judged),
            `refused` archs, `stored` values used, `workers` at work, and `seconds`.
        context: what stored qualities depend on that cannot be seen from here, such as the
            settings of `calibrate`. The weights and the data of `accuracy` are seen.
        canonical: from an arch to the one that stands for all that are the same network, where
            more than inactive choices makes them so; none of them is judged twice, and strategies
            that predict (`"linas"` and its kin) do not count them twice either.
        workers: how many archs to judge at once on this machine through Ray, or `RayWorkers` of a
            cluster; 0 judges in this process. The front is the same. What a clock measures
            (latency, energy) is measured by this process while no worker works.

    Returns:
        The front; its `history` holds everything judged.

    Raises:
        InputError: an argument does not fit, or a value is not finite.
        BudgetError: no arch keeps the constraints; `nearest` is the record that misses by least.
        StorageError: the store cannot be read or written.
        MissingExtraError: workers are asked for and Ray is not installed.
        WorkerError: workers were lost again and again, or cannot be had.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("depth", (1, 2, 3)), Choice("width", (8, 16, 32))))
        >>> def evaluate(arch):
        ...     size = arch["depth"] * arch["width"]
        ...     return {"accuracy": 1 - 1 / size, "macs": size}
        >>> front = search(space, "accuracy", costs=["macs"], evaluate=evaluate)
        >>> front.best(macs=25).arch
        Arch({'depth': 3, 'width': 8})
    """
    if evaluations < 1:
        raise InputError(f"a search needs at least one evaluation, not {evaluations}")
    population = population or max(8, min(50, evaluations // 10))
    crew = workers_of(workers)
    with _opened(store) as opened, _in_evaluation_mode(family):
        judge = make_judge(
            family,
            quality,
            costs,
            constraints=constraints or {},
            evaluate=evaluate,
            calibrate=calibrate,
            store=opened,
            context=context,
        )
        count = _count(judge.space)
        if isinstance(strategy, str) and strategy in STRATEGIES and count <= evaluations:
            strategy = "exhaustive"
        trusted = isinstance(strategy, str) and canonical is None
        if isinstance(strategy, str) and strategy == "one_shot":
            strategy = functools.partial(one_shot, evaluations=evaluations)
        proposer = make_strategy(
            strategy, judge.space, seed=seed, population=population, canonical=canonical
        )
        with judging(judge, crew) as judged_by:
            total = int(min(evaluations, count))
            run = _Run(judge, judged_by, total, progress, trusted, canonical)
            _explore(run, proposer)
        return run.front()


def _explore(run: _Run, strategy: Strategy) -> None:
    """Judge the ends of the space, then what the strategy asks for, until it is enough."""
    space = run.judge.space
    ends = (space.largest, space.smallest)[: run.total]
    run.expect(ends)
    for arch in ends:
        run.look(arch)
    stale = 0
    while not run.is_over() and stale < _STALE:
        asked = strategy.ask()
        if not asked:
            return
        run.expect(asked)
        before = len(run.seen)
        told = []
        for arch in asked:
            if run.is_over():
                return
            told.append(run.look(arch))
        strategy.tell(told)
        stale = stale + 1 if len(run.seen) == before else 0


@dataclass
class _Run:
    """The course of one search."""

    judge: Judge
    judging: Judging
    total: int
    progress: Progress | None
    trusted: bool = False
    """Whether the strategy is ours, and so asks for canonical archs only."""
    canonical: Callable[[Arch], Arch] | None = None
    seen: dict[Arch, Evaluation] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    judged: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.view = View()

    def is_over(self) -> bool:
        return self.judged >= self.total or len(self.seen) - self.judged > _REFUSED * self.total

    def expect(self, archs: Sequence[Arch]) -> None:
        """Let archs that are to be looked at be judged ahead."""
        if not isinstance(self.judging, Alone):
            expected = map(self._canonical, archs)
            self.judging.announce([arch for arch in expected if arch not in self.seen])

    def look(self, arch: Arch) -> Evaluation:
        """Return the evaluation of `arch`, judging it if that was not done before."""
        canonical = self._canonical(arch)
        evaluation = self.seen.get(canonical)
        if evaluation is None:
            evaluation = self.judging.evaluation(canonical, self.total - self.judged)
            self.seen[canonical] = evaluation
            self._note(evaluation)
        return evaluation if canonical is arch else replace(evaluation, arch=arch)

    def _canonical(self, arch: Arch) -> Arch:
        canonical = arch if self.trusted else self.judge.space.canonical(arch)
        if self.canonical is not None:
            canonical = self.judge.space.canonical(self.canonical(canonical))
        return canonical

    def _note(self, evaluation: Evaluation) -> None:
        if evaluation.record is None:
            return
        self.judged += 1
        if evaluation.feasible:
            self.records.append(evaluation.record)
        if self.progress is not None:
            if evaluation.feasible:
                self.view.add(evaluation.objectives)
            self.progress(self.judged, self.total, self._info())

    def _info(self) -> dict[str, float]:
        sign = -1.0 if self.judge.quality.higher_is_better else 1.0
        best = {} if math.isinf(self.view.best) else {"best": sign * self.view.best}
        return {
            **best,
            "front": float(len(self.view.points)),
            "hypervolume": self.view.hypervolume,
            "refused": float(len(self.seen) - self.judged),
            "stored": float(self.judge.found),
            "workers": float(self.judging.working),
            "seconds": time.perf_counter() - self.started,
        }

    def front(self) -> Front:
        if not self.records:
            raise self._nothing_fits()
        quality = self.judge.quality
        return Front.of(
            self.records, metric=quality.name, higher_is_better=quality.higher_is_better
        )

    def _nothing_fits(self) -> BudgetError:
        asked = ", ".join(f"{name} {limit}" for name, limit in self.judge.limits.items())
        nearest = min(self.seen.values(), key=lambda evaluation: evaluation.violation).arch
        record = self.judge(nearest, whole=True).record
        values = {} if record is None else {self.judge.quality.name: record.quality, **record.costs}
        misses = [
            f"{name} {values[name]:g} ({100 * limit.excess(values[name]):.3g} % off)"
            for name, limit in self.judge.limits.items()
            if limit.excess(values[name]) > 0
        ]
        return BudgetError(
            f"none of {len(self.seen)} archs has {asked}; the nearest, {nearest.key}, has "
            f"{', '.join(misses)}; loosen the constraints or let the family grow smaller members",
            record,
        )


@contextlib.contextmanager
def _opened(store: Store | Path | str | None) -> Iterator[Store | None]:
    """Open a store that is given by its path, and close it again."""
    if store is None or isinstance(store, Store):
        yield store
    else:
        with Store(store) as opened:
            yield opened


@contextlib.contextmanager
def _in_evaluation_mode(family: FamilyLike | Space) -> Iterator[None]:
    shared = getattr(family, "shared", None)
    with evaluating(shared) if isinstance(shared, nn.Module) else contextlib.nullcontext():
        yield


def _count(space: Space) -> float:
    try:
        return space.count
    except InputError:  # too entangled to count, so large enough
        return math.inf
