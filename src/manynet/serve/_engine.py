"""The engine: a queue of requests, and one thread that answers them pass by pass."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError, ManynetError
from manynet.serve._members import Members
from manynet.serve._policy import Candidate, Decision, Policy, State, Waiting, in_time

__all__ = ["Answer", "Batching", "Closed", "Engine", "Overload", "Watcher"]

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Batching:
    """How requests are put together.

    Args:
        max_batch: the most samples of one pass.
        max_wait_ms: how long a request may wait for others to share a pass with.
        max_queue: the most samples that wait; a request beyond is refused.
    """

    max_batch: int = 16
    max_wait_ms: float = 1.0
    max_queue: int = 512

    def __post_init__(self) -> None:
        if self.max_batch < 1 or self.max_queue < self.max_batch or self.max_wait_ms < 0:
            raise InputError(
                f"max_batch={self.max_batch}, max_queue={self.max_queue}, max_wait_ms="
                f"{self.max_wait_ms:g}: a pass needs at least 1 sample, the queue room for one "
                "pass, and the wait may not be negative"
            )


@dataclass(frozen=True)
class Answer:
    """What came out for one request.

    Args:
        outputs: of the network, by name, one row a sample.
        member: who has served.
        batch: samples in the pass.
        waited_ms: from the arrival to the pass.
        compute_ms: of the pass.
        target_ms: how long it was to take in all.
    """

    outputs: Arrays
    member: Candidate
    batch: int
    waited_ms: float
    compute_ms: float
    target_ms: float

    @property
    def in_time(self) -> bool:
        """Whether the request was answered within its target."""
        return self.waited_ms + self.compute_ms <= self.target_ms


class Overload(ManynetError):
    """The queue is full; `retry_after_s` says when there may be room."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Closed(ManynetError):
    """The engine takes no requests: it has not started, or it is shutting down."""


class Watcher(Protocol):
    """Hears what an engine does, on the engine's thread."""

    def passed(self, member: Candidate, samples: int, compute_ms: float) -> None:
        """A pass is done."""
        ...

    def queued(self, samples: int) -> None:
        """The queue has become longer or shorter."""
        ...


class _Silent:
    def passed(self, member: Candidate, samples: int, compute_ms: float) -> None: ...

    def queued(self, samples: int) -> None: ...


@dataclass(order=True)
class _Job:
    late: float
    arrived: float
    target_ms: float = field(compare=False)
    arrays: Arrays = field(compare=False)
    future: Future[Answer] = field(compare=False)

    @property
    def samples(self) -> int:
        return len(next(iter(self.arrays.values())))


class Engine:
    """Answers requests with the members of a family, on a thread of its own.

    All passes, and the building of members, happen on that thread; handing in a request and
    waiting for its answer are safe from any. Requests wait in the order in which they become late.

    Args:
        members: who may serve.
        candidates: the same, as `Members.measured` describes them.
        policy: decides before each pass who serves.
        batching: how requests are put together.
        latency_ms: the target of a request that names none; None for twice what the largest member
            takes for a full pass, and the wait.
        watcher: hears of passes and of the queue.
    """

    def __init__(
        self,
        members: Members,
        candidates: Sequence[Candidate],
        *,
        policy: Policy = in_time,
        batching: Batching | None = None,
        latency_ms: float | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.members, self.candidates, self.policy = members, tuple(candidates), policy
        self.batching = batching or Batching()
        full = self.candidates[-1].time_ms(self.batching.max_batch)
        self.latency_ms = latency_ms or 2 * full + self.batching.max_wait_ms
        self.watcher: Watcher = watcher or _Silent()
        self.pace = 1.0
        self._queue: list[_Job] = []
        self._samples = 0
        self._changed = threading.Condition()
        self._open = False
        self._thread = threading.Thread(target=self._work, name="manynet-engine", daemon=True)

    # -- from any thread ---------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return self._open and self._thread.is_alive()

    @property
    def queued(self) -> int:
        """How many samples wait."""
        return self._samples

    def start(self) -> None:
        """Begin to take requests."""
        self._open = True
        self._thread.start()

    def close(self) -> None:
        """Take no more requests, answer those that wait, and end the thread."""
        with self._changed:
            self._open = False
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def submit(self, arrays: Arrays, latency_ms: float | None = None) -> Future[Answer]:
        """Put a request into the queue and return its answer to be.

        Args:
            arrays: the samples, by the names of the network's inputs.
            latency_ms: how long it may take in all.

        Raises:
            Overload: the queue is full.
            Closed: the engine takes no requests.
        """
        now, target = time.monotonic(), latency_ms or self.latency_ms
        job = _Job(now + target / 1e3, now, target, arrays, Future())
        with self._changed:
            if not self.ready:
                raise Closed("the server is starting or shutting down; try again later")
            if self._samples + job.samples > self.batching.max_queue:
                raise Overload(
                    f"{self._samples} samples wait already and the queue takes "
                    f"{self.batching.max_queue}; try again later",
                    self._drained_s(),
                )
            bisect.insort(self._queue, job)
            self._count(job.samples)
            self._changed.notify()
        return job.future

    def _drained_s(self) -> float:
        """Return the time in which the fastest member would empty the queue."""
        full = self.batching.max_batch
        quickest = min(one.time_ms(full) for one in self.candidates)
        return self.pace * quickest * self._samples / full / 1e3

    def _count(self, samples: int) -> None:
        self._samples += samples
        self.watcher.queued(self._samples)

    # -- on the engine's thread --------------------------------------------------------------

    def _work(self) -> None:
        with self.members.clock.settings():
            while self._wait():
                try:
                    place, jobs = self._take()
                except Exception as error:  # the policy may be the user's
                    self._fail_all(error)
                    continue
                self._answer(place, jobs)

    def _wait(self) -> bool:
        """Wait until a pass should begin; False when all is answered and the engine closed."""
        with self._changed:
            while self._open and not self._queue:
                self._changed.wait()
            while self._open and self._samples < self.batching.max_batch:
                oldest = min(job.arrived for job in self._queue)
                left = oldest + self.batching.max_wait_ms / 1e3 - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return bool(self._queue)

    def _take(self) -> tuple[int, list[_Job]]:
        """Ask the policy, and take the requests that it means out of the queue."""
        with self._changed:
            now = time.monotonic()
            waiting = [Waiting(j.samples, 1e3 * (j.late - now), j.target_ms) for j in self._queue]
            state = State(waiting, self.candidates, self.batching.max_batch, self.pace)
        decision = _checked(self.policy(state), state)
        with self._changed:
            # what has come meanwhile may stand before those that the policy saw
            jobs = _fitting(self._queue[: decision.requests], self.batching.max_batch)
            del self._queue[: len(jobs)]
            self._count(-sum(job.samples for job in jobs))
        return decision.member, [job for job in jobs if job.future.set_running_or_notify_cancel()]

    def _answer(self, place: int, jobs: list[_Job]) -> None:
        """Run a pass and hand out its rows; where it fails, each request runs alone."""
        if not jobs:
            return
        began = time.monotonic()
        try:
            outputs = self.members.run(place, _joined([job.arrays for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(_refused(error))
                return
            for job in jobs:
                self._answer(place, [job])
            return
        compute_ms = 1e3 * (time.monotonic() - began)
        samples, member = sum(job.samples for job in jobs), self.candidates[place]
        self._keep_pace(compute_ms / (member.time_ms(samples) or 1.0))
        self.watcher.passed(member, samples, compute_ms)
        row = 0
        for job in jobs:
            rows = {name: array[row : row + job.samples] for name, array in outputs.items()}
            row += job.samples
            waited_ms = 1e3 * (began - job.arrived)
            job.future.set_result(
                Answer(rows, member, samples, waited_ms, compute_ms, job.target_ms)
            )

    def _keep_pace(self, ratio: float) -> None:
        """Follow the machine's speed; one pass that other work has cut in two says little."""
        self.pace += _MEMORY * (min(max(ratio, 0.5), 4.0) - self.pace)

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            jobs, self._queue = self._queue, []
            self._count(-self._samples)
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(error)


_MEMORY = 0.1
"""Weight of the last pass in the average that `pace` is."""


def _checked(decision: object, state: State) -> Decision:
    if (
        isinstance(decision, Decision)
        and 0 <= decision.member < len(state.members)
        and 1 <= decision.requests <= len(state.waiting)
    ):
        return decision
    raise TypeError(
        f"the policy returned {decision!r}; it should be a Decision with a member from 0 to "
        f"{len(state.members) - 1} and 1 to {len(state.waiting)} requests"
    )


def _fitting(jobs: Sequence[_Job], max_batch: int) -> list[_Job]:
    """Return the first requests that fit into a pass together; at least one."""
    count, samples = 0, 0
    for job in jobs:
        samples += job.samples
        if count and samples > max_batch:
            break
        count += 1
    return list(jobs[:count])


def _joined(parts: Sequence[Arrays]) -> Arrays:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _refused(error: Exception) -> Exception:
    """Return the error of a request that the network does not take."""
    if isinstance(error, ManynetError):
        return error
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return InputError(f"the network cannot run on these inputs: {first}")
