"""The slider picks what `Front.best` picks."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from manynet.report._budget import stops
from manynet.report._read import Record, cost_names
from manynet.search import Front
from manynet.search import Record as Judged
from manynet.space import Arch

POINTS = st.lists(
    st.tuples(st.integers(1, 9), st.floats(0.25, 3, width=16), st.sampled_from([0.5, 0.7, 0.9])),
    min_size=1,
    max_size=12,
)


def front_of(points: list[tuple[int, float, float]], higher_is_better: bool) -> Front:
    records = [
        Judged(Arch({"n": place}), quality, {"macs": float(macs), "latency_ms": latency})
        for place, (macs, latency, quality) in enumerate(points)
    ]
    return Front.of(records, metric="quality", higher_is_better=higher_is_better)


@given(POINTS, st.booleans(), st.sampled_from(["macs", "latency_ms"]))
def test_every_stop_is_what_the_budget_gives(
    points: list[tuple[int, float, float]], higher_is_better: bool, cost: str
) -> None:
    front = front_of(points, higher_is_better)
    records = [
        Record(
            arch=dict(one.arch),
            quality=one.quality,
            costs=dict(one.costs),
            higher_is_better=higher_is_better,
        )
        for one in front
    ]
    found = stops(records, cost)
    for stop in found:
        best = front.best(**{cost: stop.limit})
        assert best.quality == records[stop.member].quality
        assert best == front[stop.member]
    limits = [stop.cost for stop in found]
    assert limits == sorted(set(limits))
    assert max(one.quality if higher_is_better else -one.quality for one in records) == (
        records[found[-1].member].quality * (1 if higher_is_better else -1)
    )


def test_a_cost_that_some_records_lack_is_no_budget() -> None:
    records = [
        Record(arch={}, quality=1.0, costs={"macs": 2, "latency_ms": 1}),
        Record(arch={}, quality=1.0, costs={"macs": 3}),
    ]
    assert cost_names(records) == ["macs"]


def test_the_last_stop_may_round_up_freely() -> None:
    records = [Record(arch={}, quality=0.9, costs={"macs": 1_234_567})]
    (stop,) = stops(records, "macs")
    assert (stop.cost, stop.limit) == (1_234_567, 1_240_000)
    assert math.isfinite(stop.limit)
