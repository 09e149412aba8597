"""LINAS: its exact checks, on small spaces with known answers."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import manynet as mn
from manynet.data import canonical_graph, nas_bench_graph
from manynet.errors import StorageError
from manynet.search import Linas, Ridge, RidgeSvr, Store, search
from manynet.search.regressors import label_factor
from manynet.space import Arch, Choice, Grid, Space
from manynet.systems.hardware_aware_search import SYSTEM, Table, graph_space, hardware_aware_search

Reals = NDArray[np.float64]
STAGES = Space(
    tuple(Choice(f"depth{s}", (1, 2, 3)) for s in range(3))
    + tuple(
        Choice(f"kernel{s}{b}", (3, 5, 7), active_when={f"depth{s}": tuple(range(b + 1, 4))})
        for s in range(3)
        for b in range(3)
    )
)
SMALL = Space(tuple(Choice(f"gene{n}", (0, 1, 2)) for n in range(6)))
QUICK = {"regressor": Ridge((0.1, 1.0, 10.0)), "inner": 300}


def staged(arch: Arch) -> dict[str, float]:
    """Return a quality and two costs that depend on what is active alone."""
    size = sum(int(arch[name]) for name in STAGES.active(arch))
    macs = sum(int(arch[name]) ** 2 for name in STAGES.active(arch) if name.startswith("kernel"))
    return {"accuracy": 100 * size / (size + 40), "macs": 1e6 * macs, "latency": 1 + macs / 50}


def small(arch: Arch) -> dict[str, float]:
    levels = [int(value) for value in arch.values()]
    gain = sum((3 + n) * level**0.5 for n, level in enumerate(levels))
    return {"accuracy": gain, "cost": float(sum((1 + n % 3) * v for n, v in enumerate(levels)))}


def test_archs_that_differ_in_inactive_genes_are_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = mn.build("manynet:small_cnn")
    family = mn.elastic(network, torch.zeros(2, 1, 8, 8), width=(0.5, 1.0))
    space, grid = family.space, Grid(family.space)
    conditional = [choice for choice in space.choices if choice.active_when]
    shallow = {choice.name: choice.values[0] for choice in space.choices}
    first = Arch(shallow)
    other = first.replace({choice.name: choice.values[-1] for choice in conditional})
    assert first != other
    assert space.canonical(first) == space.canonical(other)
    assert space.canonical(space.canonical(other)) == space.canonical(other)
    assert (grid.onehot(grid.rows([first])) == grid.onehot(grid.rows([other]))).all()
    x = torch.randn(4, 1, 8, 8)
    outputs = [family.at(arch).eval()(x) for arch in (first, other)]
    assert torch.allclose(*outputs, atol=1e-6)
    calls = []

    class Both:
        def ask(self) -> list[Arch]:
            return [] if calls else [first, other]

        def tell(self, evaluations: object) -> None:
            calls.append(evaluations)

    with Store(tmp_path / "e.sqlite") as store:
        front = search(
            space, "accuracy", evaluate=lambda arch: {"accuracy": 1.0}, strategy=Both(), store=store
        )
        assert len(store) == len(front.history) == 2  # the largest, and this one


def test_exactly_the_budget_is_measured_and_the_inner_search_measures_nothing() -> None:
    asked: list[Arch] = []
    at_predict: list[int] = []

    def evaluate(arch: Arch) -> dict[str, float]:
        asked.append(arch)
        return staged(arch)

    def regressor(features: Reals, values: Reals) -> Callable[[Reals], Reals]:
        predict = QUICK["regressor"](features, values)  # type: ignore[operator]

        def counted(x: Reals) -> Reals:
            at_predict.append(len(asked))
            return np.asarray(predict(x))

        return counted

    strategy = partial(Linas, regressor=regressor, inner=500)
    front = search(STAGES, "accuracy", costs=["macs"], evaluate=evaluate, strategy=strategy,
                   evaluations=250, population=50)  # fmt: skip
    assert len(asked) == len(set(asked)) == len(front.history) == 250
    assert set(at_predict) == {50, 100, 150, 200}


@pytest.mark.parametrize(
    ("largest", "factor"), [(76.7, 1.0), (3.2e8, 1e7), (0.05, 1e-3), (0.0, 1.0)]
)
def test_labels_lie_between_ten_and_a_hundred(largest: float, factor: float) -> None:
    assert label_factor(np.array([largest / 2, -largest])) == pytest.approx(factor, rel=1e-12)


def test_predictions_are_in_the_original_unit() -> None:
    made: list[Linas] = []

    def factory(space: Space, *, seed: int, population: int) -> Linas:
        made.append(Linas(space, seed=seed, population=population, **QUICK))  # type: ignore[arg-type]
        return made[0]

    search(STAGES, "accuracy", costs=["macs"], evaluate=staged, strategy=factory,
           evaluations=150, population=50)  # fmt: skip
    assert [max(one.mape) < 25 for one in made[0].fidelity] == [True, True]
    assert made[0].fidelity[-1].rmse[1] > 1e4  # of millions of MACs


def test_a_planted_linear_cost_is_learned_by_ridge() -> None:
    rng = np.random.default_rng(0)
    grid = Grid(STAGES)
    rows = grid.sample(rng, 300)
    x = grid.onehot(rows)
    y = 50 + x @ rng.uniform(0.5, 2, x.shape[1])
    predict = RidgeSvr()(x[:100], y[:100])
    assert predict.name == "ridge"
    assert np.mean(np.abs(predict(x[100:]) / y[100:] - 1)) < 0.01


def test_perfect_predictors_find_the_whole_front_in_one_round() -> None:
    grid = Grid(SMALL)
    archs = list(SMALL.enumerate())
    known = {
        row.tobytes(): small(a) for row, a in zip(grid.onehot(grid.rows(archs)), archs, strict=True)
    }

    def perfect(name: str, sign: float) -> Callable[[Reals, Reals], Callable[[Reals], Reals]]:
        def regressor(features: Reals, values: Reals) -> Callable[[Reals], Reals]:
            factor = label_factor(values)
            return lambda x: np.array([sign * known[row.tobytes()][name] for row in x]) / factor

        return regressor

    run = partial(search, SMALL, "accuracy", costs=["cost"], evaluate=small)
    whole = run(strategy="exhaustive", evaluations=3**6)
    regressors = [perfect("accuracy", -1.0), perfect("cost", 1.0)]
    found = run(strategy=partial(Linas, regressor=regressors), population=50, evaluations=100)
    assert len(whole) <= 50
    assert [(r.quality, r.costs) for r in found] == [(r.quality, r.costs) for r in whole]


def test_a_second_device_measures_its_latency_alone(tmp_path: Path) -> None:
    judged: list[str] = []
    torch.manual_seed(0)
    family = mn.elastic(mn.build("manynet:small_cnn"), torch.zeros(2, 1, 8, 8), width=(0.5, 1.0))

    @mn.metric("accuracy")
    def accuracy(member: torch.nn.Module) -> float:
        judged.append("accuracy")
        return float(sum(p.numel() for p in member.parameters())) ** 0.5

    def device(name: str) -> mn.Cost:
        @mn.cost(name, unit="ms")
        def latency(member: torch.nn.Module, inputs: object) -> float:
            judged.append(name)
            return float(sum(p.numel() for p in member.parameters())) / 1000

        return latency

    run = partial(
        search, family, accuracy, evaluations=12, population=12, store=tmp_path / "e.sqlite"
    )
    first = run(costs=[device("a_ms")], strategy=partial(Linas, **QUICK))
    judged.clear()
    run(costs=[device("b_ms")], strategy=partial(Linas, warm_start=first, **QUICK))
    assert judged == ["b_ms"] * 12


def test_the_best_quality_is_on_the_front_and_the_hypervolume_never_falls() -> None:
    volumes: list[float] = []

    def progress(done: int, total: int, info: Mapping[str, float]) -> None:
        volumes.append(info["hypervolume"])

    front = hardware_aware_search(
        STAGES, "accuracy", costs=["latency"], evaluate=staged, evaluations=60, population=20,
        progress=progress, **QUICK,
    )  # fmt: skip
    assert max(r.quality for r in front) == max(r.quality for r in front.history)
    assert max(r.quality for r in front) == staged(STAGES.largest)["accuracy"]
    assert (np.diff(volumes[2:]) >= -1e-12).all()


@pytest.mark.parametrize("stop", [1, 20, 27, 45])
def test_killed_and_resumed_it_asks_for_the_same_archs(tmp_path: Path, stop: int) -> None:
    def run(path: str, limit: int | None = None) -> list[Arch]:
        calls: list[Arch] = []

        def evaluate(arch: Arch) -> dict[str, float]:
            if len(calls) == limit:
                raise KeyboardInterrupt
            calls.append(arch)
            return staged(arch)

        front = hardware_aware_search(
            STAGES, "accuracy", costs=["macs"], evaluate=evaluate, evaluations=60, population=20,
            store=tmp_path / path, inner=300,
        )  # fmt: skip
        return [record.arch for record in front.history]

    with pytest.raises(KeyboardInterrupt):
        run("part.sqlite", stop)
    assert run("part.sqlite") == run("whole.sqlite")


def test_the_table_has_a_row_for_each_canonical_graph() -> None:
    table = nas_bench_graph("cora")
    graphs = itertools.product(range(9), repeat=5)
    canonical = {canonical_graph(graph) for graph in graphs if graph[1:] != (8,) * 4}
    assert canonical == set(table)
    assert len(canonical) == 26_206
    assert graph_space().count == 59_040
    arch = graph_space().largest
    assert Table("cora")(arch) == Table("cora")(Table.canonical(arch))


def test_a_file_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manynet.data import _graph_table

    (tmp_path / "light").mkdir()
    (tmp_path / "light" / "cora.bench").write_bytes(pickle.dumps({1: print}))
    monkeypatch.setattr(_graph_table, "_package", lambda: tmp_path)
    with pytest.raises(StorageError, match="no table of numbers"):
        nas_bench_graph("cora")


def test_the_proof_compares_at_equal_measurements() -> None:
    assert (SYSTEM.ours, SYSTEM.baseline, SYSTEM.margin) == ("linas", "nsga2", 0.02)
