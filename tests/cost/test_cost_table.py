"""Latency tables: blocks found by watching, a machine whose speed is known, files, refusals."""

from __future__ import annotations

import itertools
import json
import operator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_family import ToyFamily

import manynet as mn
from manynet.cost import LatencyTable, _latency_table, _sums, _survey, latency_table
from manynet.cost._blocks import calls_of, origins_of, units_of
from manynet.cost._smooth import fit_smooth, placed
from manynet.errors import InputError, StorageError
from manynet.space import Arch


class Residual(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return x + scale * self.body(x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act = nn.Linear(8, 32), nn.ReLU()
        self.blocks = nn.Sequential(*(Residual(32, 48) for _ in range(3)))
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.act(self.stem(x))).mean(1))


@pytest.fixture(scope="module")
def family() -> mn.Family:
    return mn.elastic(Net().eval(), torch.randn(1, 5, 8), width=(0.25, 0.5, 1.0), importance=None)


def blocks(family: Any, arch: Arch) -> list[tuple[tuple[str, ...], str]]:
    inputs = family.example_inputs
    origins, units = origins_of(family, arch), units_of(family)
    calls = calls_of(family.at(arch), origins, inputs, units)
    return [(call.paths, call.label) for call in calls]


def test_blocks_are_units_of_depth_and_what_stands_around_them(family: mn.Family) -> None:
    assert blocks(family, family.space.largest) == [
        (("stem", "act"), "Linear + ReLU"),
        *(((f"blocks.{n}",), "Residual") for n in range(3)),
        (("head",), "Linear"),
    ]
    assert blocks(ToyFamily(), ToyFamily().space.largest) == [
        (("stem", "norm"), "Conv2d + BatchNorm2d"),
        (("blocks.0",), "Sequential"),
        (("blocks.1",), "Sequential"),
        (("head",), "Linear"),
    ]


def test_blocks_of_a_network_without_depth_are_those_of_its_containers() -> None:
    net = nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.Linear(8, 8), nn.ReLU())
    )
    family = mn.elastic(net, torch.randn(1, 4), width=(0.5, 1.0), depth=False, importance=None)
    assert [paths for paths, _ in blocks(family, family.space.largest)] == [("0",), ("1",)]


def test_a_block_runs_alone_as_in_the_network(family: mn.Family) -> None:
    from manynet.cost._blocks import alone

    member, x = family.at(family.space.smallest), family.example_inputs
    origins = origins_of(family, family.space.smallest)
    calls = calls_of(member, origins, x, units_of(family))
    with torch.no_grad():
        modules = [alone(call) for call in calls]
        for (module, args), (_, after) in itertools.pairwise(modules[:-1]):
            assert torch.allclose(module(*args), after[0], atol=1e-6)


def test_arguments_by_name_go_along() -> None:
    from manynet.cost._blocks import alone

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Residual(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x, scale=0.5)

    net, x = Named().eval(), torch.randn(2, 8)
    origins = {path: path for path, _ in net.named_modules()}
    (call,) = calls_of(net, origins, (x,), frozenset())
    module, args = alone(call)
    with torch.no_grad():
        assert torch.equal(module(*args), net(x))


def test_gaps_that_lists_close_do_not_move_blocks(family: mn.Family) -> None:
    depth = next(choice for choice in family.space.choices if choice.name.endswith("depth"))
    arch = Arch({**family.space.largest, depth.name: depth.values[0]})
    names = [paths[0] for paths, _ in blocks(family, arch)]
    whole = [paths[0] for paths, _ in blocks(family, family.space.largest)]
    assert len(names) < len(whole) and set(names) < set(whole)


def test_a_smooth_regressor_finds_products_of_widths(rng: np.random.Generator) -> None:
    candidates = ((16, 32, 64), (8, 16, 32, 64), (1, 3, 5))
    keys = [(a, b, c) for a in candidates[0] for b in candidates[1] for c in candidates[2]]
    places = np.array([placed(key, candidates) for key in keys])
    true = np.array([0.01 + 1e-4 * a * b * c for a, b, c in keys])
    seen = rng.permutation(len(keys)) < 24
    found = fit_smooth(places[seen], true[seen])(places[~seen])
    assert np.mean(np.abs(found - true[~seen]) / true[~seen]) < 0.05


def test_values_that_are_no_numbers_have_places() -> None:
    assert placed(("b", True, 0), (("a", "b", "c"), (False, True), (0, 2, 4))) == [0, 1, 0, 1, 0]


@pytest.fixture(scope="module")
def made() -> tuple[Any, LatencyTable]:
    """A table of a machine whose milliseconds are thousands of MACs, and a tenth for a call."""
    toy = ToyFamily()

    class Survey(_survey._Survey):
        def _ready(self, module: nn.Module, args: Any) -> Any:
            with torch.inference_mode(False):  # in it, operations are not taken apart and counted
                return mn.macs()(module, args) / 1000 + 0.1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_survey, "_Survey", Survey)
        patch.setattr(_survey, "_own", lambda clock: clock)
        patch.setattr(_survey.LatencyCost, "clock_of", lambda self, run: run)
        return toy, latency_table(toy, samples=60, time_limit_s=600)


def true_ms(family: Any, arch: Arch) -> float:
    return mn.macs()(family.at(arch), family.example_inputs) / 1000 + 0.1


def test_a_machine_that_is_regular_is_predicted(made: tuple[Any, LatencyTable]) -> None:
    family, table = made
    assert (table.name, table.unit, table.predicted) == ("latency_ms", "ms", True)
    assert table.samples == 60 and table.held_out == 12
    assert table.mape < 3 and table.tau > 0.97
    off = []
    for arch in family.space.enumerate():
        off.append(abs(table.predict(arch) / true_ms(family, arch) - 1))
        assert table.of_arch(family, arch) == table.predict(arch)
        low, high = table.bounds(arch)
        assert low < table.predict(arch) < high
    assert np.mean(off) < 0.03
    assert "unseen members of 60 measured" in str(table)
    assert {row["path"] for row in table.rows()} == {"stem", "blocks.0", "blocks.1", "head"}


def test_a_block_that_is_left_out_costs_nothing(made: tuple[Any, LatencyTable]) -> None:
    family, table = made
    without = Arch({**family.space.largest, "depth": 0}).ordered(tuple(table.touch))
    sites = {
        site.path: look[operator.itemgetter(*look.positions)(without)]
        for site, look in zip(table.sites, table._looks(), strict=True)
    }
    assert sites["blocks.0"] == sites["blocks.1"] == 0 < sites["stem"]


def test_a_table_comes_back_from_its_file(made: tuple[Any, LatencyTable], tmp_path: Path) -> None:
    family, table = made
    table.save(tmp_path / "table.json")
    again = LatencyTable.load(tmp_path / "table.json")
    for arch in family.space.enumerate():
        assert again.predict(arch) == pytest.approx(table.predict(arch), rel=1e-9)
    assert again.rows() == table.rows()
    assert str(again) == str(table)
    assert again.reference == table.reference


def test_combinations_too_many_to_list_are_worked_out_when_asked_for(
    made: tuple[Any, LatencyTable], monkeypatch: pytest.MonkeyPatch
) -> None:
    family, table = made
    monkeypatch.setattr(_latency_table, "_LOOKED_UP", 0)
    monkeypatch.setattr(_sums, "_LISTED", 0)
    again = LatencyTable.from_json(json.loads(json.dumps(table.to_json())))
    for arch in (family.space.largest, family.space.smallest):
        assert again.predict(arch) == pytest.approx(table.predict(arch), rel=1e-9)


def test_what_a_table_does_not_know_is_said(made: tuple[Any, LatencyTable]) -> None:
    family, table = made
    with pytest.raises(InputError, match="has other choices than"):
        table.predict(Arch({"other": 1}))
    with pytest.raises(InputError, match="no place in the family of this table"):
        table.predict(Arch({**family.space.largest, "stem.width": 5}))
    with pytest.raises(InputError, match="knows the archs of its family and no other networks"):
        table(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(InputError, match="built on the machine that it is of"):
        latency_table(family, device="http://127.0.0.1:9")


@pytest.mark.parametrize("damage", [{"format": "x"}, {"sites": [{}]}, {"times": 3}, {"rates": []}])
def test_a_foreign_file_is_refused(
    made: tuple[Any, LatencyTable], tmp_path: Path, damage: dict[str, Any]
) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps(made[1].to_json() | damage))
    with pytest.raises(StorageError, match="build it again"):
        LatencyTable.load(path)


def test_it_runs_on_this_machine(family: mn.Family) -> None:
    shares: list[float] = []
    family.train()
    table = latency_table(family, samples=20, time_limit_s=0.5, progress=shares.append)
    assert table.samples >= 8
    assert family.training
    assert table.predict(family.space.largest) > 0
    assert table.conditions["runtime"] == "torch"
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert not torch.is_inference_mode_enabled()


def test_exported_blocks_are_timed_too(family: mn.Family) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: see the extra onnx")
    table = latency_table(family, samples=8, runtime="onnx", time_limit_s=1.0)
    assert table.conditions["runtime"] == "onnx"
    assert table.predict(family.space.smallest) > 0


def test_a_quickly_exported_network_computes_the_same() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed: see the extra onnx")
    from manynet.deploy import onnx_session, to_onnx_quickly

    net, x = Net().eval(), torch.randn(1, 5, 8)
    session = onnx_session(to_onnx_quickly(net, (x,)))
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    with torch.no_grad():
        assert np.allclose(found, net(x).numpy(), atol=1e-5)


def test_layers_that_move_up_where_a_list_closes_a_gap_are_looked_up() -> None:
    from manynet.cost._table import LayerTable

    net = nn.Sequential(nn.Linear(8, 32), Residual(32, 48), Residual(32, 64), nn.Linear(32, 4))
    family = mn.elastic(net, torch.randn(1, 8), width=(0.5, 1.0), importance=None)
    moved = family.origins(family.space.smallest)
    assert any(path != whole for path, whole in moved.items())
    assert LayerTable(family, family.example_inputs).exact
