"""The search as a whole: what it evaluates, what it keeps, and how it goes on where it stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from supernet import Supernet, data, plain, plain_space
from torch import nn

from manynet.errors import BudgetError, InputError
from manynet.search import (
    Evaluation,
    Front,
    Linas,
    Metric,
    Record,
    Ridge,
    Store,
    StrategyFactory,
    accuracy,
    metric,
    search,
)
from manynet.space import Arch, Choice, Space

QUICK_LINAS = partial(Linas, regressor=Ridge((0.1, 1.0)), inner=60)


@dataclass
class Size:
    """A cost that counts how often it was asked."""

    name: str = "parameters"
    fingerprint: str = ""
    calls: list[nn.Module] = field(default_factory=list)

    def __call__(self, member: nn.Module, example_inputs: tuple[Any, ...]) -> float:
        assert not member.training
        assert example_inputs[0].shape == (1, 5)
        self.calls.append(member)
        return float(sum(parameter.numel() for parameter in member.parameters()))


@dataclass
class OfArch:
    """A cost that needs no member."""

    name: str = "width"

    def of_arch(self, family: object, arch: Arch) -> float:
        assert isinstance(family, (Supernet, Space))
        return float(sum(float(value) for value in arch.values()))

    def __call__(self, member: nn.Module, example_inputs: tuple[Any, ...]) -> float:
        raise AssertionError("of_arch is there to be used")


def counted(limit: int | None = None) -> tuple[Metric, list[nn.Module]]:
    """Return an accuracy that counts its calls, and stops the search after `limit` of them."""
    inner, calls = accuracy(data()), []

    class Counted:
        fingerprint = inner.fingerprint

        def __call__(self, member: nn.Module) -> float:
            if limit is not None and len(calls) >= limit:
                raise KeyboardInterrupt
            calls.append(member)
            return inner(member)

    return Metric("accuracy", Counted()), calls


def test_a_family_gives_a_front(tmp_path: Path) -> None:
    family, size = Supernet(), Size()
    judge, calls = counted()
    front = search(family, judge, costs=[size, OfArch()], evaluations=10, population=4)
    assert isinstance(front, Front)
    assert len(calls) == len(size.calls) == len(front.history) == 10
    assert front.costs == ("parameters", "width")
    assert front.metric == "accuracy"
    assert [record.arch for record in front.history[:2]] == [
        family.space.largest,
        family.space.smallest,
    ]
    for record in front.history:
        member = family.at(record.arch).eval()
        assert record.quality == judge(member)
        assert record.costs["parameters"] == size(member, family.example_inputs)
    assert front == Front.of(front.history, metric="accuracy")


def test_a_small_space_is_judged_whole_and_no_more() -> None:
    for strategy in ("nsga2", "random", "exhaustive"):
        front = search(plain_space(2), "score", costs=["cost"], evaluate=plain, strategy=strategy)
        archs = [record.arch for record in front.history]
        assert sorted(archs) == sorted(plain_space(2).enumerate())


@pytest.mark.parametrize("strategy", ["nsga2", "random"])
def test_the_same_seed_gives_the_same_course(strategy: str) -> None:
    def run(seed: int) -> Front:
        return search(
            plain_space(), "score", costs=["cost"], evaluate=plain, evaluations=60, seed=seed,
            strategy=strategy,
        )  # fmt: skip

    assert run(1).history == run(1).history
    assert run(1).history != run(2).history


@pytest.mark.parametrize("strategy", ["nsga2", "random", QUICK_LINAS])
@pytest.mark.parametrize("stop", [0, 1, 3, 17, 29])
def test_an_interrupted_search_goes_on_to_the_same_front(
    tmp_path: Path, strategy: str | StrategyFactory, stop: int
) -> None:
    def run(store: str, limit: int | None = None) -> tuple[Front, int]:
        calls = 0

        def evaluate(arch: Arch) -> Mapping[str, float]:
            nonlocal calls
            if calls == limit:
                raise KeyboardInterrupt
            calls += 1
            return plain(arch)

        front = search(
            plain_space(), "score", costs=["cost"], evaluations=30, strategy=strategy, seed=5,
            evaluate=evaluate, store=tmp_path / store, constraints={"cost": 60},
        )  # fmt: skip
        return front, calls

    whole, paid = run("whole.sqlite")
    with pytest.raises(KeyboardInterrupt):
        run("part.sqlite", limit=stop)
    resumed, rest = run("part.sqlite")
    assert resumed == whole
    assert resumed.history == whole.history
    assert stop + rest == paid
    assert run("part.sqlite", limit=0) == (whole, 0)
    connection = sqlite3.connect(tmp_path / "part.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_an_interrupted_search_of_a_family_pays_for_nothing_twice(tmp_path: Path) -> None:
    def run(store: str, limit: int | None) -> tuple[Front, int]:
        judge, calls = counted(limit)
        size = Size()
        front = search(
            Supernet(), judge, costs=[size], evaluations=12, population=4, store=tmp_path / store,
            calibrate=recalibrate,
        )  # fmt: skip
        return front, len(calls)

    whole, paid = run("whole.sqlite", None)
    assert paid == 12
    with pytest.raises(KeyboardInterrupt):
        run("part.sqlite", 5)
    resumed, rest = run("part.sqlite", None)
    assert (resumed.history, rest) == (whole.history, 7)
    assert run("part.sqlite", 0)[0] == whole


def recalibrate(member: nn.Module) -> None:
    """Set the statistics from random batches: the chance in it must not depend on the course."""
    member.train()
    with torch.no_grad():
        for _ in range(2):
            member(torch.randn(16, 5))


def test_a_member_is_calibrated_first_and_left_as_it_was() -> None:
    family = Supernet()
    norms: list[torch.Tensor] = []

    @metric("mean")
    def mean(member: nn.Module) -> float:
        assert not member.training
        norms.append(member[1].running_mean.clone())  # type: ignore[index, operator, union-attr]
        return float(norms[-1].abs().sum())

    shared = {name: tensor.clone() for name, tensor in family.shared.state_dict().items()}
    search(family, mean, evaluations=3, calibrate=recalibrate)
    assert len(norms) == 3
    assert all(norm.abs().sum() > 0 for norm in norms)
    for record_arch in list(family.built):
        assert family.at(record_arch)[1].running_mean.abs().sum() == 0  # type: ignore[index]
        assert family.at(record_arch)[1].num_batches_tracked == 0  # type: ignore[index]
    for name, tensor in family.shared.state_dict().items():
        assert torch.equal(tensor, shared[name])


def test_chance_in_a_metric_depends_on_the_arch_alone() -> None:
    @metric("noise")
    def noise(member: nn.Module) -> float:
        return float(torch.rand(()))

    family = Supernet()
    members = [family.at(arch) for arch in family.space.enumerate()]  # building them draws, too
    assert len(members) == 16
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = search(family, noise, evaluations=5)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert search(family, noise, evaluations=5).history == first.history


def test_modes_of_the_family_are_left_as_they_were() -> None:
    family = Supernet()
    family.shared.train()
    family.shared[1].eval()
    search(family, accuracy(data()), costs=[Size()], evaluations=3)
    assert family.shared.training
    assert not family.shared[1].training


def test_a_forbidden_cost_is_never_judged() -> None:
    family, size = Supernet(), Size()
    judge, calls = counted()
    limit = 120
    front = search(
        family, judge, costs=[OfArch(), size], evaluations=6, constraints={"parameters": limit}
    )
    assert len(calls) == 6
    for member in calls:
        assert sum(parameter.numel() for parameter in member.parameters()) <= limit
    assert all(record.costs["parameters"] <= limit for record in front.history)
    assert front.costs == ("width", "parameters")


@pytest.mark.parametrize(
    ("constraints", "kept"),
    [
        ({"cost": (20, 40)}, lambda v: 20 <= v["cost"] <= 40),
        ({"cost": (None, 40), "score": (30, None)}, lambda v: v["cost"] <= 40 and v["score"] >= 30),
        ({"score": 35}, lambda v: v["score"] >= 35),
    ],
)
def test_constraints_hold(
    constraints: dict[str, Any], kept: Callable[[Mapping[str, float]], bool]
) -> None:
    front = search(
        plain_space(), "score", costs=["cost"], evaluate=plain, evaluations=80,
        constraints=constraints,
    )  # fmt: skip
    assert len(front) > 3
    for record in front.history:
        assert kept({"score": record.quality, **record.costs})


def test_less_quality_may_be_better() -> None:
    def evaluate(arch: Arch) -> dict[str, float]:
        return {"error": -plain(arch)["score"], "cost": plain(arch)["cost"]}

    front = search(
        plain_space(), Metric("error", higher_is_better=False), costs=["cost"], evaluate=evaluate,
        evaluations=50, constraints={"error": 0},
    )  # fmt: skip
    assert front.best().arch == plain_space().largest
    assert not front.higher_is_better


def test_nothing_fits_and_the_nearest_is_named() -> None:
    judge, calls = counted()
    family = Supernet()
    smallest = float(sum(p.numel() for p in family.at(family.space.smallest).parameters()))
    with pytest.raises(BudgetError) as caught:
        search(family, judge, costs=[Size()], constraints={"parameters": smallest / 2})
    nearest = caught.value.nearest
    assert isinstance(nearest, Record)
    assert nearest.arch == family.space.smallest
    assert nearest.costs == {"parameters": smallest}
    assert len(calls) == 1, "only the nearest is judged, so that its quality can be shown"
    message = str(caught.value)
    assert f"none of 16 archs has parameters <= {smallest / 2:g}" in message
    assert nearest.arch.key in message
    assert "(100 % off)" in message


def test_an_impossible_constraint_ends_in_a_large_space() -> None:
    with pytest.raises(BudgetError, match="cost <= -1"):
        search(
            plain_space(20), "score", costs=["cost"], evaluate=plain, evaluations=10,
            constraints={"cost": -1},
        )  # fmt: skip


def test_values_of_other_weights_data_or_settings_are_not_reused(tmp_path: Path) -> None:
    def paid(family: Supernet, **more: Any) -> tuple[int, int]:
        judge, calls = counted()
        size = more.pop("size", Size())
        judge = more.pop("judge", judge)
        search(family, judge, costs=[size], evaluations=4, store=tmp_path / "e.sqlite", **more)
        return len(calls), len(size.calls)

    family = Supernet()
    assert paid(family) == (4, 4)
    assert paid(Supernet()) == (0, 0), "the same weights in another process"
    assert paid(family, context="other calibration data") == (4, 0)
    assert paid(family, calibrate=recalibrate) == (4, 0)
    assert paid(family, size=Size(fingerprint="another device")) == (0, 4)
    with torch.no_grad():
        family.shared[0].weight[7, 4] += 1
    assert paid(family) == (4, 0), "other weights: new quality, old costs"
    family.example_inputs = (torch.zeros(1, 5, dtype=torch.float64),)
    assert paid(family)[1] == 4, "other inputs: new costs"


def test_costs_of_one_name_and_other_settings_are_measured_apart(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Timer:
        threads: int
        clock: Callable[[], float] = lambda: 0.0
        name: str = "latency_ms"
        calls: list[int] = field(default_factory=list, repr=False)

        def __call__(self, member: nn.Module, example_inputs: tuple[Any, ...]) -> float:
            self.calls.append(1)
            return 1.0 / self.threads

    found = []
    for timer in (Timer(1), Timer(1), Timer(2)):
        front = search(
            Supernet(), accuracy(data()), costs=[timer], evaluations=3, store=tmp_path / "e.sqlite"
        )
        found.append((len(timer.calls), front[0].costs["latency_ms"]))
    assert found == [(3, 1.0), (0, 1.0), (3, 0.5)]


def test_other_data_is_another_context(tmp_path: Path) -> None:
    family = Supernet()
    for samples, total in ((40, 4), (40, 4), (39, 8)):
        search(family, accuracy(data(samples)), evaluations=4, store=tmp_path / "e.sqlite")
        with Store(tmp_path / "e.sqlite") as store:
            assert len(store) == total


def test_two_searches_share_an_open_store(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        for strategy in ("nsga2", "random"):
            search(
                plain_space(), "score", costs=["cost"], evaluate=plain, evaluations=20,
                strategy=strategy, store=store,
            )  # fmt: skip
        assert 40 < len(store) <= 2 * (20 + 20 - 2)


def test_a_value_that_another_process_stored_first_is_the_one_that_counts(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"

    def evaluate(arch: Arch) -> dict[str, float]:
        with Store(path) as other:
            other.add(arch, {"latency_ms": 1.0})
        return {"score": plain(arch)["score"], "latency_ms": 2.0}

    front = search(
        plain_space(), "score", costs=["latency_ms"], evaluate=evaluate, evaluations=5, store=path
    )
    assert {record.costs["latency_ms"] for record in front.history} == {1.0}


def test_progress_is_told() -> None:
    told: list[tuple[int, int, dict[str, float]]] = []

    def progress(done: int, total: int, info: Mapping[str, float]) -> None:
        told.append((done, total, dict(info)))

    front = search(
        plain_space(), "score", costs=["cost"], evaluate=plain, evaluations=40, progress=progress
    )
    assert [done for done, _, _ in told] == list(range(1, 41))
    assert {total for _, total, _ in told} == {40}
    last = told[-1][2]
    assert last["best"] == front.best().quality
    assert last["front"] == len(front)
    assert (last["refused"], last["stored"]) == (0, 0)
    volumes = [info["hypervolume"] for _, _, info in told[1:]]
    assert volumes == sorted(volumes)
    assert volumes[-1] > volumes[0]
    assert last["seconds"] > 0


def test_a_strategy_of_ones_own() -> None:
    told: list[Evaluation] = []

    class UpTheHill:
        """Ask for the neighbors of the best so far."""

        def __init__(self, space: Space, *, seed: int, population: int) -> None:
            self.space, self.best = space, Evaluation(space.smallest, (0.0, 0.0))

        def ask(self) -> Sequence[Arch]:
            return list(self.space.neighbors(self.best.arch, steps=1))

        def tell(self, evaluations: Sequence[Evaluation]) -> None:
            told.extend(evaluations)
            self.best = min([self.best, *evaluations], key=lambda e: e.objectives[0])

    front = search(
        plain_space(5), "score", costs=["cost"], evaluate=plain, strategy=UpTheHill,
        evaluations=500,
    )  # fmt: skip
    assert front.best().arch == plain_space(5).largest
    assert len(front.history) < 200, "it ended when it asked for nothing new"
    for evaluation in told:
        assert evaluation.record is not None
        assert evaluation.objectives == (
            -evaluation.record.quality,
            evaluation.record.costs["cost"],
        )


def test_archs_that_differ_in_inactive_choices_are_judged_once() -> None:
    space = Space(
        (Choice("depth", (1, 2)), Choice("width", (8, 16, 32), active_when={"depth": (2,)}))
    )
    calls: list[Arch] = []

    def evaluate(arch: Arch) -> dict[str, float]:
        calls.append(arch)
        return {"score": float(arch["depth"])}

    class Insists:
        def ask(self) -> list[Arch]:
            return [Arch({"depth": 1, "width": width}) for width in (8, 16, 32)]

        def tell(self, evaluations: Sequence[Evaluation]) -> None:
            assert [evaluation.arch["width"] for evaluation in evaluations] == [8, 16, 32]

    search(space, "score", evaluate=evaluate, strategy=Insists(), evaluations=4)
    assert calls == [space.largest, space.smallest]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"evaluations": 0}, "at least one evaluation, not 0"),
        ({"population": 2, "evaluations": 9}, "at least 4, not 2"),
        ({"strategy": "annealing"}, "no search strategy 'annealing'"),
        ({"costs": ["cost", "cost"]}, "two of quality and costs are called cost"),
        ({"costs": ["score"]}, "two of quality and costs are called score"),
        ({"costs": ["metric"]}, "a cost cannot be called metric"),
        ({"evaluate": None}, "nothing measures score, cost: hand in evaluate="),
        ({"costs": ["cots"]}, r"evaluate returned no cots .did you mean 'cost'"),
        ({"costs": ["cost", Size()]}, "a space alone has no members"),
        ({"constraints": {"cots": 3}}, r"the constraint cots is no cost .did you mean 'cost'"),
        ({"constraints": {"cost": (5, 3)}}, "leaves nothing: least is above most"),
        ({"constraints": {"cost": float("nan")}}, "leaves nothing"),
        ({"constraints": {"cost": "small"}}, r"must be a number or \(least, most\)"),
        ({"constraints": {"cost": (1, 2, 3)}}, r"must be a number or \(least, most\)"),
        ({"evaluate": lambda arch: 3.0}, "must return values by name, and returned a float"),
        ({"evaluate": lambda arch: {"score": float("nan"), "cost": 1}}, "score of arch .* is nan"),
        ({"evaluate": lambda arch: {"score": 1, "cost": "x"}}, "cost of arch .* is a str"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    given = {"costs": ["cost"], "evaluate": plain, "evaluations": 9} | arguments
    with pytest.raises(InputError, match=message):
        search(plain_space(), "score", **given)


def test_a_member_that_gives_nan_is_named_and_what_was_measured_is_kept(tmp_path: Path) -> None:
    family = Supernet()
    with torch.no_grad():
        family.shared[5].bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite; its weights may have diverged"):
        search(family, accuracy(data()), costs=[Size()], evaluations=3, store=tmp_path / "e.sqlite")
    with Store(tmp_path / "e.sqlite") as store:
        assert [entry.metric for entry in store] == ["parameters"]
