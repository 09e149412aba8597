from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toy_family import ToyFamily

from manynet.cost import LatencyPredictor, _predictor, fit_latency
from manynet.cost._products import completed
from manynet.cost._regression import fit, held_out, kendall_tau, nonnegative_least_squares
from manynet.cost._table import COLUMNS, LayerTable, Lookup
from manynet.errors import InputError, StorageError


def test_rates_are_found_again(rng: np.random.Generator) -> None:
    work = rng.uniform(1, 100, (60, 3))
    onehot = np.eye(2)[rng.integers(2, size=60)]
    times = 5.0 + work @ np.array([0.1, 0.0, 0.02])
    model = fit(work, onehot, times)
    assert np.allclose(model.rates, [5.0, 0.1, 0.0, 0.02], atol=1e-4)
    assert np.allclose(held_out(work, onehot, times), times, rtol=1e-4)


def test_what_a_choice_does_beyond_its_work_is_found(rng: np.random.Generator) -> None:
    work = rng.uniform(50, 100, (200, 1))
    value = rng.integers(2, size=200)
    times = 0.1 * work[:, 0] * np.where(value == 1, 1.3, 1.0)
    found = held_out(work, np.eye(2)[value], times)
    assert np.mean(np.abs(found - times) / times) < 0.02


@given(st.lists(st.floats(0.1, 10), min_size=4, max_size=4), st.integers(0, 2**31), st.booleans())
def test_least_squares_stay_above_zero_and_are_best(
    true: list[float], seed: int, flip: bool
) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(12, 4))
    wanted = matrix @ (np.array(true) * (-1 if flip else 1)) + rng.normal(size=12)
    found = nonnegative_least_squares(matrix, wanted)
    slope = matrix.T @ (wanted - matrix @ found)
    assert (found >= 0).all()
    assert (slope <= 1e-6).all()  # the conditions of Karush, Kuhn and Tucker
    assert np.allclose(slope[found > 0], 0, atol=1e-6)


def test_kendall_tau_is_scipys(rng: np.random.Generator) -> None:
    stats = pytest.importorskip("scipy.stats")
    a, b = rng.integers(8, size=(2, 30)).astype(float)
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b)[0])
    assert kendall_tau(a, a) == pytest.approx(1)
    assert kendall_tau(a, -a) == pytest.approx(-1)
    assert kendall_tau(a, np.zeros(30)) == 0


@pytest.fixture(scope="module")
def family() -> Any:
    return ToyFamily()


@pytest.fixture(scope="module")
def fitted(family: Any) -> LatencyPredictor:
    """A predictor of a machine whose milliseconds are thousands of MACs and one for the start."""

    def visit(member: Any, reference: Any) -> tuple[float, float]:
        return member.macs / 1000 + 1, 1.0

    class Bench(_predictor._Bench):
        def _run(self, arch: Any) -> Any:
            return SimpleNamespace(macs=self.table.figures(arch)[2])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_predictor, "_visit", visit)
        patch.setattr(_predictor, "_Bench", Bench)
        patch.setattr(_predictor.LatencyCost, "clock_of", lambda self, run: run)
        return fit_latency(family, samples=60, time_limit_s=600)


def test_a_machine_that_is_regular_is_predicted(fitted: LatencyPredictor, family: Any) -> None:
    assert fitted.mape < 1
    assert fitted.tau > 0.98
    assert fitted.noise == 0
    assert fitted.samples == 60 == len(fitted.measured_ms)
    assert (fitted.name, fitted.unit, fitted.predicted) == ("latency_ms", "ms", True)
    assert fitted.conditions == {"device": "cpu", "runtime": "torch", "threads": 1, "batch": 1}
    assert "60 measured" in str(fitted)
    for arch in [family.space.largest, family.space.smallest]:
        wanted = sum(layer_macs(family, arch)) / 1000 + 1
        assert fitted.predict(arch) == pytest.approx(wanted, rel=0.03)
        assert fitted.of_arch(family, arch) == fitted.predict(arch)
        assert fitted(family.at(arch), family.example_inputs) == pytest.approx(wanted, rel=0.03)


def layer_macs(family: Any, arch: Any) -> list[int]:
    from manynet.cost import by_layer

    return [layer.macs for layer in by_layer(family.at(arch), family.example_inputs)]


def test_a_predictor_comes_back_from_its_file(
    fitted: LatencyPredictor, family: Any, tmp_path: Path
) -> None:
    path = tmp_path / "latency.json"
    fitted.save(path)
    alone, attached = LatencyPredictor.load(path), LatencyPredictor.load(path, family)
    for arch, _, _ in fitted.measured_ms:
        assert alone.predict(arch) == pytest.approx(fitted.predict(arch), rel=1e-12)
        assert attached.predict(arch) == pytest.approx(fitted.predict(arch), rel=1e-12)
    assert (alone.mape, alone.tau, alone.measured_ms) == (
        fitted.mape,
        fitted.tau,
        fitted.measured_ms,
    )
    for arch in family.space.enumerate():
        assert attached.predict(arch) > 0


def test_what_it_never_met_is_said(fitted: LatencyPredictor, family: Any, tmp_path: Path) -> None:
    data = json.loads(json.dumps(fitted.to_json()))
    for group in data["lookup"]["groups"]:
        group["known"] = group["known"][:1]
    alone = LatencyPredictor.from_json(data)
    with pytest.raises(InputError, match="give it the family"):
        for arch in family.space.enumerate():
            alone.predict(arch)
    with pytest.raises(InputError, match="no place in the family"):
        fitted.predict(type(family.space.largest)({"other": 1}))


@pytest.mark.parametrize("damage", [{"format": "x"}, {"lookup": {}}, {"rates": 3}])
def test_a_foreign_file_is_refused(
    fitted: LatencyPredictor, tmp_path: Path, damage: dict[str, Any]
) -> None:
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(fitted.to_json() | damage))
    with pytest.raises(StorageError):
        LatencyPredictor.load(path)


def test_a_family_that_is_too_small_is_measured_instead(family: Any) -> None:
    with pytest.raises(InputError, match=r"measure each with latency\(\)"):
        fit_latency(family, samples=4)


def test_it_runs_on_this_machine() -> None:
    family, shares = ToyFamily(), []
    family.net = type("Training", (family.net,), {"eval": lambda self: self.train(True)})
    made = fit_latency(family, samples=16, time_limit_s=1.0, progress=shares.append)
    assert made.samples >= 8
    assert all(ms > 0 for _, ms, _ in made.measured_ms)
    assert made.predict(family.space.largest) > 0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert not torch.is_inference_mode_enabled()


@pytest.mark.slow
def test_exported_members_are_predicted_too(family: Any) -> None:
    pytest.importorskip("onnxruntime")
    made = fit_latency(family, samples=9, runtime="onnx", time_limit_s=60.0)
    assert made.conditions["runtime"] == "onnx"
    assert made.predict(family.space.largest) > 0
    assert isinstance(family.at(family.space.largest), nn.Module)


def test_a_query_counts_no_member_even_where_a_layer_was_never_met(
    fitted: LatencyPredictor, family: Any
) -> None:
    assert "_quick" in vars(fitted)  # worked out while it was fitted
    met = {arch for arch, _, _ in fitted.measured_ms}
    before = family.asked
    others = [arch for arch in family.space.enumerate() if arch not in met]
    found = [fitted.predict(arch) for arch in others]
    assert family.asked == before
    assert len(others) > 30
    assert found == pytest.approx([fitted._predicted(arch) for arch in others], rel=1e-9)


def test_a_layer_whose_figures_follow_no_product_is_counted_when_asked_for() -> None:
    class Odd(ToyFamily):
        def at(self, arch: Any) -> Any:
            odd = (7 * arch["stem.width"] * arch["block.width"]) % 11
            return super().at({**arch, "block.kernel": 1 + 2 * odd})

    family = Odd()
    table = LayerTable(family, family.example_inputs)
    lookup = Lookup(table, [1.0] + [0.0] * (len(COLUMNS) - 1))
    candidates = {choice.name: choice.values for choice in family.space.choices}
    assert not all(whole for *_, whole in lookup.completed(candidates))


@given(st.integers(0, 2**31), st.booleans())
def test_products_of_widths_are_found_from_some_of_them(seed: int, squared: bool) -> None:
    rng = np.random.default_rng(seed)
    candidates = [(1, 2, 3, 4), (8, 12, 32), (False, True), ("a", "b", "c")]
    keys = list(itertools.product(*candidates))
    rates = dict(zip("abc", rng.uniform(1, 2, 3), strict=True))
    true = {
        key: key[2] * rates[key[3]] * key[0] * key[1] ** (2 if squared else 1) + key[0]
        for key in keys
    }
    spare = rng.choice(len(keys) // 2, 9, replace=False) + len(keys) // 4  # where key[0] is 2 or 3
    known = {key: true[key] for n, key in enumerate(keys) if key[0] in (1, 4) or n in spare}
    found = completed(candidates, known)
    assert found is not None
    assert found == pytest.approx(true, rel=1e-6)
    assert completed(candidates, {key: rng.normal() for key in known}) in (None, known)
    told = [key for key in keys if key[::2] == (1, True) or rng.random() < 0.4]  # every width once
    few = completed(candidates, {key: true[key] for key in told})
    assert few is None or few == pytest.approx(true, rel=1e-6)


def test_layers_that_are_left_out_cost_nothing_whatever_their_widths() -> None:
    candidates = [(8, 16, 32, 48), (1, 2, 3), (0, 1, 2, 3)]
    true = {(a, b, c): float(a * b * (c > 1)) for a, b, c in itertools.product(*candidates)}
    known = {key: true[key] for key in true if key[2] > 1 and key[0] != 16}
    known |= {(8, 1, 0): 0.0, (8, 1, 1): 0.0}  # a width that does not matter is the least
    assert completed(candidates, known) == pytest.approx(true)
    assert completed(candidates, dict.fromkeys(known, 0.0)) == dict.fromkeys(true, 0.0)
