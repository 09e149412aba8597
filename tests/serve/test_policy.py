"""Policies are functions: who waits and what members take goes in, a member comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.errors import InputError
from manynet.serve import Candidate, Decision, State, Waiting, in_time, largest, policy_of

MEMBERS = [
    Candidate("small", {}, 0.90, times_ms={1: 1.0, 2: 1.0, 4: 2.0, 8: 4.0}),
    Candidate("medium", {}, 0.93, times_ms={1: 2.0, 2: 2.0, 4: 4.0, 8: 8.0}),
    Candidate("large", {}, 0.95, times_ms={1: 4.0, 2: 4.0, 4: 8.0, 8: 16.0}),
]


def state(*left_ms: float, pace: float = 1.0, samples: int = 1) -> State:
    waiting = [Waiting(samples, left, left) for left in sorted(left_ms)]
    return State(waiting, MEMBERS, max_batch=8, pace=pace)


@pytest.mark.parametrize(
    ("left_ms", "member"), [(100.0, 2), (5.0, 2), (4.9, 1), (2.5, 1), (2.4, 0), (1.3, 0)]
)
def test_a_lone_request_gets_the_best_member_for_its_target(left_ms: float, member: int) -> None:
    assert in_time(state(left_ms)) == Decision(member, 1)


@pytest.mark.parametrize(("count", "member"), [(1, 2), (4, 2), (8, 2), (16, 1), (32, 0)])
def test_the_longer_the_queue_the_smaller_the_member(count: int, member: int) -> None:
    assert in_time(state(*[25.0] * count)) == Decision(member, count)


def test_a_slower_machine_gets_smaller_members() -> None:
    assert in_time(state(6.0)).member == 2
    assert in_time(state(6.0, pace=2.0)).member == 1
    assert in_time(state(6.0, pace=4.0)).member == 0


def test_samples_count_and_not_requests() -> None:
    assert in_time(state(21.0)).member == 2
    assert in_time(state(21.0, 21.0, samples=8)).member == 1


def test_an_urgent_request_does_not_drag_a_patient_one_along() -> None:
    assert in_time(state(2.0, 100.0)) == Decision(0, 1)
    assert in_time(state(100.0, 110.0)) == Decision(2, 2)


def test_overload_is_worked_off_by_the_fastest() -> None:
    assert in_time(state(*[10.0] * 100)) == Decision(0, 100)
    assert in_time(state(-5.0, 100.0)) == Decision(0, 2)


@given(
    lefts=st.lists(st.floats(-50, 500), min_size=1, max_size=40),
    samples=st.integers(1, 8),
    pace=st.floats(0.5, 4.0),
)
def test_every_decision_is_one_that_the_server_can_follow(
    lefts: list[float], samples: int, pace: float
) -> None:
    decision = in_time(state(*lefts, samples=samples, pace=pace))
    assert 0 <= decision.member < len(MEMBERS)
    assert 1 <= decision.requests <= len(lefts)


@given(left=st.floats(0.1, 500), more=st.floats(0, 100), count=st.integers(1, 30))
def test_more_time_never_means_a_worse_member(left: float, more: float, count: int) -> None:
    hurried, patient = state(*[left] * count), state(*[left + more] * count)
    if count * 4.0 / 0.8 <= left:  # else the fastest works the queue off, however late it is
        assert in_time(patient).member >= in_time(hurried).member


def test_without_switching_the_best_serves() -> None:
    assert largest(state(0.1, 0.2)) == Decision(2, 2)


def test_times_between_and_beyond_the_measured_ones_are_on_a_line() -> None:
    small = MEMBERS[0]
    assert small.time_ms(8) == 4.0
    assert small.time_ms(6) == pytest.approx(3.0)
    assert small.time_ms(10) == pytest.approx(5.0)


def test_policies_by_name(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert policy_of("largest") is largest
    with pytest.raises(InputError, match="did you mean 'in_time'"):
        policy_of("intime")
    file = tmp_path / "mine.py"
    file.write_text(
        "from manynet.serve import Decision\n"
        "def smallest(state):\n    return Decision(0, len(state.waiting))\n"
    )
    assert policy_of(f"{file}:smallest")(state(9.0)) == Decision(0, 1)
