"""Searches with predictors: their parts, and that they keep to the rules of every strategy."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from supernet import Supernet, data, plain, plain_space
from test_strategies import CONDITIONAL, CONSTRAINED, judged

from manynet.errors import InputError, MissingExtraError
from manynet.search import (
    MLP,
    NSGA2,
    SVR,
    BoostedTrees,
    Evolve,
    Front,
    Linas,
    Predicted,
    Pymoo,
    Ridge,
    RidgeSvr,
    Sampled,
    Stacked,
    Store,
    accuracy,
    fitted_by,
    make_strategy,
    one_shot,
    search,
    weak_nas,
)
from manynet.search.engines import make_engine
from manynet.search.front import hypervolume
from manynet.search.regressors import make_regressor
from manynet.space import Arch, Grid, Space

Reals = NDArray[np.float64]
RIDGE = Ridge((0.1, 1.0, 10.0))
QUICK = partial(Linas, regressor=RIDGE, inner=200)


def bowl(count: int = 80, noise: float = 0.0) -> tuple[Reals, Reals]:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (count, 10)).astype(float)
    y = 30 + x @ np.arange(1.0, 11.0) + 4 * x[:, 0] * x[:, 9]
    return x, y + noise * rng.normal(size=count)


# --- regressors


@pytest.mark.parametrize(
    "regressor", [Ridge(), SVR(), RidgeSvr(), Stacked(), MLP(), BoostedTrees()]
)
def test_a_regressor_predicts_what_it_has_not_seen(
    regressor: Callable[[Reals, Reals], Callable[[Reals], Reals]],
) -> None:
    x, y = bowl(160)
    predict = regressor(x[:120], y[:120])
    errors = np.abs(predict(x[120:]) - y[120:])
    assert errors.mean() < 0.3 * np.abs(y[120:] - y[:120].mean()).mean()
    assert (regressor(x[:120], y[:120])(x[120:]) == predict(x[120:])).all()


@pytest.mark.parametrize("penalty", [0.1, 3.0])
def test_ridge_is_that_of_scikit_learn(penalty: float) -> None:
    from sklearn.linear_model import Ridge as Theirs

    x, y = bowl(30)
    ours = Ridge((penalty,))(x, y)
    assert np.allclose(ours(x), Theirs(alpha=penalty).fit(x, y).predict(x), atol=1e-9)


def test_the_better_of_ridge_and_support_vectors_is_taken() -> None:
    x, y = bowl()
    both = Ridge()(x, y), SVR()(x, y)
    found = RidgeSvr()(x, y)
    assert found.error == min(one.error for one in both)
    assert found.name == min(both, key=lambda one: one.error).name
    curved = np.abs(x @ np.linspace(-1, 1, 10)) + 1
    assert RidgeSvr()(x, curved).name == "svr"


def test_values_near_zero_do_not_break_the_choice() -> None:
    x, y = bowl()
    y = y - y[0]
    assert np.isfinite(Ridge()(x, y).error)
    assert np.abs(Ridge()(x, y)(x) - y).mean() < 1.0


def test_any_estimator_and_any_function_will_do() -> None:
    from sklearn.tree import DecisionTreeRegressor

    tree = DecisionTreeRegressor(random_state=0)
    regressor = fitted_by(tree)
    x, y = bowl()
    assert np.allclose(regressor(x, y)(x), y, atol=5.0)
    assert not hasattr(tree, "tree_")
    assert make_regressor(regressor) is regressor
    with pytest.raises(InputError, match="no fit and predict"):
        fitted_by("ridge")
    with pytest.raises(InputError, match=r"no regressor 'rigde' .*did you mean 'ridge'"):
        make_regressor("rigde")
    with pytest.raises(InputError, match="is no regressor"):
        make_regressor(tree)


# --- inner searches


def objectives(count: int) -> Callable[[NDArray[np.int64]], tuple[Reals, Reals]]:
    """Return so many objectives of rows of 0 to 3; the second choice must be below 3."""

    def predict(rows: NDArray[np.int64]) -> tuple[Reals, Reals]:
        z = rows / 3
        columns = [1 - z[:, :4].mean(1), z.mean(1), np.abs(z - 0.5).mean(1)]
        return np.stack(columns[:count], axis=1), np.maximum(0.0, rows[:, 1] - 2.0)

    return predict


@pytest.mark.parametrize(
    ("engine", "count"),
    [
        ("nsga2", 1),
        ("ga", 1),
        *itertools.product(["nsga2", "pymoo-nsga2", "u-nsga3", "age-moea"], [2, 3]),
    ],
)
def test_an_engine_ends_on_the_front(engine: str, count: int) -> None:
    grid = Grid(plain_space(6))
    predicted = Predicted(objectives(count))
    run = partial(make_engine(engine), seed=3, population=20, evaluations=300)
    last = run(predicted, grid)
    assert predicted.count <= 330
    assert len(np.unique(last, axis=0)) == len(last) <= 21
    values, broken = objectives(count)(last)
    drawn, _ = objectives(count)(grid.sample(np.random.default_rng(0), 20))
    reference = np.full(count, 1.1)
    assert hypervolume(values[broken == 0], reference) > hypervolume(drawn, reference)
    assert (run(Predicted(objectives(count)), grid) == last).all()
    first = next(predicted.fronts())
    assert (objectives(count)(first)[1] == 0).all()


def test_fronts_come_in_order_and_what_is_broken_last() -> None:
    grid = Grid(plain_space(3))
    predicted = Predicted(objectives(2))
    assert len(Sampled()(predicted, grid, seed=0, population=5, evaluations=300)) == 0
    fronts = list(predicted.fronts())
    rows = np.concatenate(fronts)
    assert len(np.unique(rows, axis=0)) == len(rows)
    broken = objectives(2)(rows)[1]
    assert (np.diff(broken) >= 0).all() and broken[-1] > 0


def test_engines_keep_to_the_space() -> None:
    for space in (CONDITIONAL, CONSTRAINED):
        grid = Grid(space)
        for engine in (Evolve(), Pymoo("nsga2")):
            predicted = Predicted(lambda rows: (rows[:, :2].astype(float), np.zeros(len(rows))))
            last = engine(predicted, grid, seed=0, population=8, evaluations=100)
            for arch in grid.archs(last):
                assert arch in space
                assert space.canonical(arch) == arch


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(InputError, match=r"no inner search 'nsga' .*did you mean"):
        make_engine("nsga")
    with pytest.raises(InputError, match="pymoo has no 'moead'"):
        Pymoo("moead")
    with pytest.raises(InputError, match="'ga' is for one objective, and there are 2"):
        Pymoo("ga")(
            Predicted(objectives(2)), Grid(plain_space(4)), seed=0, population=4, evaluations=8
        )


def test_an_engine_names_the_library_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    predicted, grid = Predicted(objectives(2)), Grid(plain_space(2))
    with pytest.raises(MissingExtraError, match="numba"):
        make_engine("age-moea")(predicted, grid, seed=0, population=4, evaluations=8)


# --- the searches


@pytest.mark.parametrize("strategy", ["linas", "weak_nas", "one_shot"])
def test_by_name_it_finds_more_than_chance(strategy: str) -> None:
    def found(name: str) -> float:
        front = search(
            plain_space(), "score", costs=["cost"], evaluate=plain, strategy=name,
            evaluations=60, population=20,
        )  # fmt: skip
        assert len(front.history) == 60
        return front.hypervolume({"score": 0.0, "cost": 100.0})

    assert found(strategy) > found("random")


@pytest.mark.parametrize("space", [plain_space(4), CONDITIONAL, CONSTRAINED])
def test_valid_canonical_archs_none_twice_the_ends_first(space: Space) -> None:
    asked: list[Arch] = []

    def evaluate(arch: Arch) -> dict[str, float]:
        asked.append(arch)
        total = float(sum(float(value) for value in arch.values()))
        return {"score": total**0.5, "cost": total}

    search(space, "score", costs=["cost"], evaluate=evaluate, strategy=QUICK, population=8,
           evaluations=32)  # fmt: skip
    assert asked[:2] == [space.largest, space.smallest]
    assert len(set(asked)) == len(asked) == 32
    assert all(arch in space and space.canonical(arch) == arch for arch in asked)


def test_the_first_population_reaches_from_small_to_large() -> None:
    space = plain_space(40)

    def sizes(spread: bool) -> list[float]:
        archs = Linas(space, population=20, spread=spread).ask()
        assert len(archs) == 20
        return sorted(sum(arch.values()) / 120 for arch in archs)[1:-1]  # without the ends

    wide, narrow = sizes(True), sizes(False)
    assert wide[0] < 0.2 and wide[-1] > 0.8
    assert narrow[0] > 0.3 and narrow[-1] < 0.7
    assert sum(0.3 < size < 0.7 for size in wide) >= 10  # half are drawn as before


def test_a_space_is_used_up_and_then_nothing_is_asked() -> None:
    strategy = QUICK(CONDITIONAL, population=8)
    asked: list[Arch] = []
    while archs := strategy.ask():
        asked += archs
        strategy.tell([judged(arch) for arch in archs])
    assert len(asked) == len(set(asked)) == CONDITIONAL.count


def test_it_stays_below_a_hard_limit() -> None:
    front = search(
        plain_space(), "score", costs=["cost"], evaluate=plain, constraints={"cost": 30},
        strategy=QUICK, evaluations=100, population=20,
    )  # fmt: skip
    costs = [record.costs["cost"] for record in front.history]
    assert max(costs) <= 30
    assert len(costs) > 40  # the first population is mostly above; the later ones are not


def test_three_objectives_and_a_regressor_for_each() -> None:
    def evaluate(arch: Arch) -> dict[str, float]:
        values = plain(arch)
        return {**values, "bytes": values["cost"] ** 2 + float(arch["g0"])}

    run = partial(
        search, plain_space(), "score", costs=["cost", "bytes"], evaluate=evaluate, evaluations=60,
        population=20,
    )  # fmt: skip
    strategy = partial(Linas, regressor=[RIDGE, "ridge", RIDGE], engine="u-nsga3", inner=200)
    front = run(strategy=strategy)
    assert len(front.history) == 60
    with pytest.raises(InputError, match="2 regressors for 3 objectives"):
        run(strategy=partial(Linas, regressor=["ridge", "svr"]))


def test_it_says_how_true_its_predictions_came() -> None:
    made: list[Linas] = []

    def factory(space: Space, *, seed: int, population: int) -> Linas:
        made.append(QUICK(space, seed=seed, population=population))
        return made[0]

    search(plain_space(), "score", costs=["cost"], evaluate=plain, strategy=factory,
           evaluations=80, population=20)  # fmt: skip
    rounds = made[0].fidelity
    assert [one.samples for one in rounds] == [20, 20, 20]
    assert rounds[-1].regressors == ("ridge", "ridge")
    assert min(rounds[-1].kendall) > 0.8
    assert rounds[-1].mape[1] < 5


def test_a_family_is_searched_and_warm_started_from_a_store(tmp_path: Path) -> None:
    family = Supernet()
    judge = accuracy(data())

    def width(member: object, inputs: object) -> float:
        return float(member[0].out_features)  # type: ignore[index]

    width.name = "width"  # type: ignore[attr-defined]
    run = partial(search, family, judge, costs=[width], evaluations=10, population=5,
                  store=tmp_path / "e.sqlite")  # fmt: skip
    first = run(strategy=QUICK)
    with Store(tmp_path / "e.sqlite") as store:
        stored = Front.from_store(store, metric="accuracy", costs=["width"])
        with pytest.raises(InputError, match="no arch of the store has accuracy, depth"):
            Front.from_store(store, metric="accuracy", costs=["depth"])
    assert stored == first
    warm = Linas(family.space, warm_start=stored, population=10)
    assert {record.arch for record in stored} <= set(warm.ask())


def test_archs_that_are_one_network_are_judged_once() -> None:
    calls: list[Arch] = []

    def ordered(arch: Arch) -> Arch:
        return Arch(dict(zip(arch, sorted(arch.values()), strict=True)))

    def evaluate(arch: Arch) -> dict[str, float]:
        calls.append(arch)
        return {
            "score": float(sum(v**0.5 for v in arch.values())),
            "cost": float(sum(arch.values())),
        }

    for strategy in ("nsga2", QUICK, partial(QUICK, canonical=ordered)):
        calls.clear()
        front = search(
            plain_space(4), "score", costs=["cost"], evaluate=evaluate, strategy=strategy,
            evaluations=30, population=6, canonical=ordered,
        )  # fmt: skip
        assert len(calls) == len(set(map(ordered, calls))) == len(front.history) == 30


def test_a_search_hands_the_canonical_function_to_strategies_that_take_it() -> None:
    def ordered(arch: Arch) -> Arch:
        return Arch(dict(zip(arch, sorted(arch.values()), strict=True)))

    space, given = plain_space(4), {"seed": 0, "population": 6}
    options = {"regressor": RIDGE, "inner": 100}
    for factory in (Linas, weak_nas, partial(one_shot, evaluations=20)):
        made = make_strategy(partial(factory, **options), space, **given, canonical=ordered)
        asked = made.ask()
        assert all(ordered(arch) == arch for arch in asked)
        assert len(asked) == len(set(asked)) > 1
    assert isinstance(make_strategy("nsga2", space, **given, canonical=ordered), NSGA2)


def test_rivals_are_made_of_the_same_parts() -> None:
    space = plain_space()
    first = one_shot(space, population=10, evaluations=40, regressor=RIDGE, inner=100).ask()
    assert len(first) == 30
    assert isinstance(weak_nas(space, regressor=RIDGE), Linas)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(InputError, match=r"Linas\(population=1\)"):
        Linas(plain_space(), population=1)
    with pytest.raises(InputError, match=r"Linas\(inner=0\)"):
        Linas(plain_space(), inner=0)
