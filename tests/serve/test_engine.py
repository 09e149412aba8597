"""The engine: right answers of the right member, batches, overload, and an orderly end."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import torch
from served import DATA, expected, trained_toy

from manynet.errors import InputError
from manynet.run import Trained
from manynet.serve import (
    Answer,
    Batching,
    Candidate,
    Closed,
    Decision,
    Engine,
    Members,
    Overload,
    State,
)


@pytest.fixture
def trained() -> Trained:
    return trained_toy()


@pytest.fixture
def members(trained: Trained) -> Members:
    return Members(
        trained.family, tuple(trained.front), trained.example_inputs, prepare=trained.calibrated
    )


def candidates(members: Members) -> list[Candidate]:
    """Return the members with times that no clock has a part in."""
    return [
        Candidate(record.arch.key, {}, record.quality, times_ms={1: 1e-3 * (n + 1)})
        for n, record in enumerate(members.records)
    ]


def arrays(*rows: int) -> dict[str, Any]:
    return {"input": DATA[list(rows)].numpy()}


class Held:
    """A policy that waits until it is let go, then serves all with the members in turn."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.states: list[State] = []

    def __call__(self, state: State) -> Decision:
        assert self.go.wait(10)
        self.states.append(state)
        return Decision((len(self.states) - 1) % len(state.members), len(state.waiting))


def test_each_member_answers_with_statistics_of_its_own(trained: Trained, members: Members) -> None:
    for again in (False, True):
        if again:
            members.family.clear()  # every member is built anew
        for place, record in enumerate(members.records):
            with torch.no_grad():
                found = members.run(place, arrays(*range(6)))["output"]
            wanted = expected(trained, record.arch.key, DATA[:6]).numpy()
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    shared = [m for m in members.family.shared.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(bool((m.running_mean == 0).all()) for m in shared)


def test_members_hold_statistics_and_no_copies_of_the_network(members: Members) -> None:
    held = sum(t.numel() for own in members._statistics.values() for t in own.values())
    assert held == 2 * 2 * (4 + 8 + 12 + 16)


def test_requests_share_passes_and_get_their_own_rows(trained: Trained, members: Members) -> None:
    policy = Held()
    engine = Engine(
        members, candidates(members), policy=policy, batching=Batching(4, max_wait_ms=0)
    )
    engine.start()
    answers: dict[int, Future[Answer]] = {n: engine.submit(arrays(n)) for n in range(12)}
    policy.go.set()
    for n, future in answers.items():
        answer = future.result(10)
        wanted = expected(trained, answer.member.name, DATA[n : n + 1]).numpy()
        np.testing.assert_allclose(answer.outputs["output"], wanted, rtol=1e-4, atol=1e-5)
    engine.close()
    assert {future.result().batch for future in answers.values()} <= {1, 4, 3}
    assert len({future.result().member.name for future in answers.values()}) >= 3


def test_the_most_urgent_request_is_served_first(members: Members) -> None:
    policy = Held()
    engine = Engine(members, candidates(members), policy=policy, batching=Batching(1, 0))
    engine.start()
    order: list[str] = []
    first = engine.submit(arrays(0), 1000)
    while not policy.states and engine.queued == 0:
        pass
    for name, target in (("slow", 5000), ("quick", 2000), ("middle", 3000)):
        future = engine.submit(arrays(0), target)
        future.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
    policy.go.set()
    assert first.result(10)
    engine.close()
    assert order == ["quick", "middle", "slow"]


def test_a_full_queue_says_when_to_come_again(members: Members) -> None:
    policy = Held()
    engine = Engine(members, candidates(members), policy=policy, batching=Batching(2, 0, 4))
    engine.start()
    futures = [engine.submit(arrays(0, 1)) for _ in range(2)]
    with pytest.raises(Overload, match="4 samples wait already") as refused:
        engine.submit(arrays(0))
    assert refused.value.retry_after_s > 0
    policy.go.set()
    assert all(future.result(10) for future in futures)
    engine.close()
    with pytest.raises(Closed, match="shutting down"):
        engine.submit(arrays(0))


def test_those_who_wait_at_the_end_are_answered(members: Members) -> None:
    policy = Held()
    engine = Engine(members, candidates(members), policy=policy, batching=Batching(1, 0))
    engine.start()
    futures = [engine.submit(arrays(n)) for n in range(5)]
    threading.Timer(0.05, policy.go.set).start()
    engine.close()
    assert all(future.done() and future.result() for future in futures)


def test_a_request_that_fails_leaves_its_neighbors_alone(members: Members) -> None:
    policy = Held()
    engine = Engine(members, candidates(members), policy=policy, batching=Batching(8, 0))
    engine.start()
    right = engine.submit(arrays(0))
    wrong = engine.submit({"input": np.zeros((1, 2, 6), np.float32)})
    policy.go.set()
    assert right.result(10).outputs["output"].shape == (1, 3)
    with pytest.raises(InputError, match="the network cannot run on these inputs"):
        wrong.result(10)
    engine.close()


@pytest.mark.parametrize("answer", [None, Decision(9, 1), Decision(0, 0), Decision(0, 5)])
def test_a_policy_that_answers_nonsense_is_told(members: Members, answer: Any) -> None:
    engine = Engine(members, candidates(members), policy=lambda state: answer)
    engine.start()
    with pytest.raises(TypeError, match="the policy returned"):
        engine.submit(arrays(0)).result(10)
    assert engine.ready  # the next request may be luckier
    engine.close()


def test_pace_follows_the_machine(members: Members) -> None:
    engine = Engine(members, candidates(members))  # the times are far below what a pass takes
    engine.start()
    for _ in range(8):
        engine.submit(arrays(0)).result(10)
    engine.close()
    assert engine.pace > 1.5


def test_measured_times_grow_with_the_batch(members: Members) -> None:
    heard: list[Any] = []
    with members.clock.settings():
        found = members.measured(8, heard.append)
    assert [list(one.times_ms) for one in found] == [[1, 2, 4, 8]] * 4
    assert all(time > 0 for one in found for time in one.times_ms.values())
    assert [(event.done, event.total) for event in heard] == [(n, 4) for n in range(1, 5)]


def test_batching_that_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="max_batch=8, max_queue=4"):
        Batching(8, 1.0, 4)
