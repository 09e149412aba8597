"""The front: what is on it, what is best, and the way to a file and back."""

from __future__ import annotations

import csv
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.errors import BudgetError, InputError, StorageError
from manynet.search import Front, Record
from manynet.search.front import hypervolume, non_dominated
from manynet.space import Arch


def record(number: int, quality: float, **costs: float) -> Record:
    return Record(Arch({"width": number, "block": "a"}), quality, costs)


RECORDS = (
    record(4, 0.90, latency_ms=8.0, bytes=400.0),
    record(1, 0.60, latency_ms=1.0, bytes=150.0),
    record(2, 0.75, latency_ms=3.0, bytes=120.0),
    record(3, 0.70, latency_ms=4.0, bytes=300.0),  # dominated by the one above
    record(5, 0.85, latency_ms=9.0, bytes=200.0),
)


@pytest.fixture
def front() -> Front:
    return Front.of(RECORDS, metric="accuracy")


def test_it_keeps_what_nothing_beats_in_the_order_of_the_first_cost(front: Front) -> None:
    assert [r.arch["width"] for r in front] == [1, 2, 4, 5]
    assert front.costs == ("latency_ms", "bytes")
    assert (front.smallest, front.largest) == (RECORDS[1], RECORDS[4])
    assert (len(front), front[1]) == (4, RECORDS[2])
    assert front.history == RECORDS


def test_less_may_be_better() -> None:
    front = Front.of(RECORDS, metric="loss", higher_is_better=False)
    assert [r.arch["width"] for r in front] == [1, 2]
    assert front.best().quality == 0.60


def test_of_equals_the_first_stays() -> None:
    twins = [record(1, 0.5, macs=1.0), record(2, 0.5, macs=1.0)]
    assert [r.arch["width"] for r in Front.of(twins)] == [1]


def test_without_costs_one_is_left() -> None:
    assert [r.quality for r in Front.of([record(1, 0.5), record(2, 0.7)])] == [0.7]


points = st.lists(st.tuples(*[st.integers(0, 6).map(float)] * 3), min_size=1, max_size=40).map(
    np.array
)


@given(points)
def test_non_dominated_is_what_its_definition_says(rows: np.ndarray) -> None:
    kept = non_dominated(rows)
    for index, row in enumerate(rows):
        beaten = ((rows <= row).all(1) & (rows < row).any(1)).any()
        before = (rows[:index] == row).all(1).any()
        assert (index in kept) == (not beaten and not before)


@given(points)
def test_hypervolume_counts_the_cells_below_the_reference(rows: np.ndarray) -> None:
    for dimensions in (1, 2, 3):
        part, reference = rows[:, :dimensions], np.full(dimensions, 7.0)
        axes = np.meshgrid(*[np.arange(7)] * dimensions, indexing="ij")
        cells = np.stack([axis.ravel() for axis in axes], axis=1)
        covered = (part[None, :, :] <= cells[:, None, :]).all(2).any(1).sum()
        assert hypervolume(part, reference) == pytest.approx(covered)


def test_hypervolume_of_a_front(front: Front) -> None:
    simple = Front.of([record(1, 0.5, macs=1.0), record(2, 0.8, macs=3.0)], metric="accuracy")
    volume = simple.hypervolume({"accuracy": 0.0, "macs": 4.0})
    assert volume == pytest.approx(0.5 * 3 + 0.3 * 1)
    assert simple.hypervolume({"accuracy": 0.9, "macs": 4.0}) == 0.0
    with pytest.raises(InputError, match="lacks bytes"):
        front.hypervolume({"accuracy": 0.0, "latency_ms": 10})
    with pytest.raises(InputError, match=r"no latency .did you mean 'latency_ms'"):
        front.hypervolume({"accuracy": 0.0, "latency": 10})


def test_best_within_budgets(front: Front) -> None:
    assert front.best().quality == 0.90
    assert front.best(latency_ms=8).quality == 0.90
    assert front.best(latency_ms=7.99).quality == 0.75
    assert front.best(latency_ms=8.5, bytes=200).quality == 0.75
    assert front.best(bytes=200).quality == 0.85


def test_best_names_the_nearest_where_nothing_fits(front: Front) -> None:
    with pytest.raises(BudgetError) as caught:
        front.best(latency_ms=0.8, bytes=1000)
    assert caught.value.nearest == RECORDS[1]
    message = str(caught.value)
    assert "latency_ms <= 0.8, bytes <= 1000" in message
    assert RECORDS[1].arch.key in message
    assert "latency_ms 1 (25 % over)" in message
    assert "bytes" not in message.split("has", 2)[2]


def test_nearest_is_the_one_with_the_smallest_relative_excess(front: Front) -> None:
    with pytest.raises(BudgetError) as caught:
        front.best(latency_ms=2.5, bytes=110)  # 20 % and 36 % over, against 9 % at worst
    assert caught.value.nearest == RECORDS[2]


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"latency": 4}, "no cost called latency .did you mean 'latency_ms'"),
        ({"energy": 4}, "known: bytes, latency_ms"),
        ({"bytes": 0}, "must be a positive number"),
        ({"bytes": math.nan}, "must be a positive number"),
        ({"bytes": "4 MB"}, "must be a positive number"),
        ({"bytes": True}, "must be a positive number"),
    ],
)
def test_budgets_that_make_no_sense(front: Front, budget: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        front.best(**budget)


def test_pick_spreads_over_the_first_cost() -> None:
    records = [record(n, n, macs=cost) for n, cost in enumerate((1.0, 1.1, 1.2, 1.3, 50.0, 99.0))]
    front = Front.of(records)
    assert [r.costs["macs"] for r in front.pick(3)] == [1.0, 50.0, 99.0]
    assert [r.costs["macs"] for r in front.pick(2)] == [1.0, 99.0]
    assert front.pick(1) == (records[3],)
    assert front.pick(10) == tuple(records)
    assert len(set(front.pick(5))) == 5
    with pytest.raises(InputError, match="at least one"):
        front.pick(0)


def test_pick_leaves_out_what_is_worse_and_no_cheaper_in_the_first_cost() -> None:
    front = Front.of(
        [
            record(0, 0.5, macs=1.0, bytes=9.0),
            record(1, 0.9, macs=2.0, bytes=9.0),
            record(2, 0.7, macs=2.5, bytes=5.0),
            record(3, 0.4, macs=3.0, bytes=1.0),
        ]
    )
    assert len(front) == 4
    assert [r.quality for r in front.pick(2)] == [0.5, 0.9]
    assert len(front.pick(3)) == 3  # two are not enough, so all are asked


def test_json_there_and_back(front: Front, tmp_path: Path) -> None:
    front.to_json(tmp_path / "front.json")
    assert Front.from_json(tmp_path / "front.json") == front
    first = json.loads((tmp_path / "front.json").read_text())[0]
    assert first == {
        "arch": {"width": 1, "block": "a"},
        "quality": 0.6,
        "metric": "accuracy",
        "higher_is_better": True,
        "latency_ms": 1.0,
        "bytes": 150.0,
    }


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(finite, finite, finite), min_size=1, max_size=10), st.booleans())
def test_json_is_exact(tmp_path_factory: pytest.TempPathFactory, rows: list, better: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "front.json"
    records = [record(i, q, macs=m, bytes=b) for i, (q, m, b) in enumerate(rows)]
    front = Front.of(records, metric="score", higher_is_better=better)
    front.to_json(path)
    assert Front.from_json(path) == front


def test_csv_has_a_line_for_each_record(front: Front, tmp_path: Path) -> None:
    front.to_csv(tmp_path / "front.csv")
    with (tmp_path / "front.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["key", "accuracy", "latency_ms", "bytes", "arch"]
    for row, found in zip(rows, front, strict=True):
        assert row["key"] == found.arch.key
        assert float(row["accuracy"]) == found.quality
        assert float(row["bytes"]) == found.costs["bytes"]
        assert Arch.from_json(json.loads(row["arch"])) == found.arch


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", "3", '[{"quality": 1}]', '[{"arch": 3, "quality": 1, "metric": "a"}]', "[[1]]",
     '[{"arch": {"w": 1}, "quality": "high", "metric": "a"}]',
     '[{"arch": {"w": 1}, "quality": NaN, "metric": "a"}]', "not json"],
)  # fmt: skip
def test_files_that_are_no_front(tmp_path: Path, text: str) -> None:
    (tmp_path / "front.json").write_text(text)
    with pytest.raises(StorageError, match=r"front\.json is not"):
        Front.from_json(tmp_path / "front.json")


def test_a_front_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        Front.from_json(tmp_path / "front.json")


def test_records_that_do_not_fit_together() -> None:
    with pytest.raises(InputError, match="at least one record"):
        Front.of([])
    with pytest.raises(InputError, match="the same costs"):
        Front.of([record(1, 0.5, macs=1.0), record(2, 0.5, bytes=1.0)])
    with pytest.raises(InputError, match="cannot be called quality"):
        Front.of([Record(Arch({"width": 1}), 0.5, {"quality": 1.0})])
    with pytest.raises(InputError, match="not finite"):
        Front.of([record(1, math.nan, macs=1.0)])


def test_records_are_values(front: Front) -> None:
    assert pickle.loads(pickle.dumps(front)) == front
    assert len({record(1, 0.5, macs=1.0), record(1, 0.5, macs=1.0)}) == 1
    with pytest.raises(TypeError):
        RECORDS[0].costs["bytes"] = 1.0  # type: ignore[index]
