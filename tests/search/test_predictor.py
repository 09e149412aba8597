"""A quality predictor and the genetic search that it feeds."""

from __future__ import annotations

import numpy as np
import pytest

from manynet.errors import InputError
from manynet.search import Genetic, fit_quality, search
from manynet.space import Arch, Choice, Space

SPACE = Space(
    (*(Choice(f"{n}.bits", (2, 3, 4, 6, 8)) for n in range(8)), Choice("form", ("a", "b", "c")))
)
RNG = np.random.default_rng(0)
GAINS = {name: RNG.uniform(0.2, 1) for name in SPACE.names}


def quality(arch: Arch) -> float:
    bits = sum(GAINS[n] * (1 - 2.0 ** -int(arch[n])) for n in SPACE.names if n != "form")
    return float(bits + {"a": 0.0, "b": 0.3, "c": -0.2}[str(arch["form"])])


def mean(arch: Arch) -> float:
    return float(np.mean([int(arch[n]) for n in SPACE.names if n != "form"]))


def test_a_predictor_orders_archs_that_it_has_not_seen() -> None:
    rng = np.random.default_rng(1)
    archs = [SPACE.sample(rng, by="choice") for _ in range(150)]
    made = fit_quality(SPACE, archs, [quality(a) for a in archs], features=lambda a: (mean(a),))
    others = [SPACE.sample(rng, by="choice") for _ in range(200)]
    found, true = made.predict(others), np.array([quality(a) for a in others])
    assert np.corrcoef(found, true)[0, 1] > 0.9
    assert made.agreement > 0.8
    assert made(others[0]) == pytest.approx(found[0], abs=1e-5)
    again = fit_quality(SPACE, archs, [quality(a) for a in archs], features=lambda a: (mean(a),))
    assert np.array_equal(again.predict(others), found)


def test_chance_is_not_taken_for_skill() -> None:
    rng = np.random.default_rng(2)
    archs = [SPACE.sample(rng, by="choice") for _ in range(150)]
    made = fit_quality(SPACE, archs, list(rng.normal(size=150)))
    assert made.agreement < 0.7


def test_too_few_archs_are_refused() -> None:
    with pytest.raises(InputError, match="at least 8"):
        fit_quality(SPACE, [SPACE.largest] * 3, [1.0] * 3)
    with pytest.raises(InputError, match="10 archs and 9"):
        fit_quality(SPACE, [SPACE.largest] * 10, [1.0] * 9)


def test_the_genetic_search_beats_chance_under_a_constraint() -> None:
    best = {}
    for name in ("genetic", "random"):
        front = search(
            SPACE,
            "quality",
            evaluate=lambda arch: {"quality": quality(arch), "bits": mean(arch)},
            costs=["bits"],
            constraints={"bits": 4.0},
            strategy=name,
            population=40,
            evaluations=400,
            seed=3,
        )
        assert all(record.costs["bits"] <= 4.0 for record in front.history)
        best[name] = max(record.quality for record in front.history)
    assert best["genetic"] > best["random"] + 0.05


def test_no_arch_is_asked_for_twice_and_a_small_space_ends() -> None:
    small = Space((Choice("a", (1, 2, 3)), Choice("b", (1, 2))))
    strategy = Genetic(small, population=4)
    asked = strategy.ask()
    assert len(set(asked)) == 4
    asked += strategy.ask()
    assert len(asked) == len(set(asked)) == 6
    assert strategy.ask() == []


@pytest.mark.parametrize("wrong", [{"population": 1}, {"parents": 2.0}, {"mutation": -0.1}])
def test_settings_that_do_not_fit_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="Genetic"):
        Genetic(SPACE, **wrong)  # type: ignore[arg-type]
