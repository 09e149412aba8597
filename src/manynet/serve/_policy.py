"""Which member serves next: plain functions of who waits and of what the members take."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from manynet.data import load_function
from manynet.errors import InputError, did_you_mean

__all__ = [
    "POLICIES",
    "Candidate",
    "Decision",
    "Policy",
    "State",
    "Waiting",
    "in_time",
    "largest",
    "policy_of",
]


@dataclass(frozen=True)
class Candidate:
    """A member that may serve.

    Args:
        name: what replies call it: the key of its arch.
        arch: its arch as JSON values.
        quality: as the search measured it.
        costs: as the search measured them, by name.
        times_ms: the median time of a pass here, in milliseconds, by the samples in it.
    """

    name: str
    arch: Mapping[str, Any]
    quality: float
    costs: Mapping[str, float] = field(default_factory=dict)
    times_ms: Mapping[int, float] = field(default_factory=dict)

    def time_ms(self, samples: int) -> float:
        """Return the time of a pass over `samples`: measured, or on the line between two measured.

        Example:
            >>> Candidate("small", {}, 0.9, times_ms={1: 1.0, 4: 2.5}).time_ms(3)
            2.0
        """
        found = self.times_ms.get(samples)
        if found is not None:
            return found
        known = sorted(self.times_ms)
        above = next((size for size in known if size > samples), known[-1])
        below = max((size for size in known if size < above), default=0)
        low, high = self.times_ms.get(below, 0.0), self.times_ms[above]
        return low + (high - low) * (samples - below) / (above - below)


@dataclass(frozen=True)
class Waiting:
    """A request in the queue.

    Args:
        samples: how many it holds.
        left_ms: how long from now until it is late; negative if it is late already.
        target_ms: how long it may take in all, from its arrival.
    """

    samples: int
    left_ms: float
    target_ms: float


@dataclass(frozen=True)
class State:
    """What a policy looks at.

    Args:
        waiting: the requests in the queue, the most urgent first; at least one.
        members: who may serve, the best quality last.
        max_batch: the most samples of one pass.
        pace: how long passes take at present, as a multiple of the members' measured times; above
            1 while other work slows the machine.
    """

    waiting: Sequence[Waiting]
    members: Sequence[Candidate]
    max_batch: int
    pace: float = 1.0


@dataclass(frozen=True)
class Decision:
    """What a policy answers: a member by its place in `State.members`, and for how many requests.

    The requests are the first ones of `State.waiting`. The server takes fewer where they do not fit
    into a pass.
    """

    member: int
    requests: int


Policy = Callable[[State], Decision]
"""A function from `State` to `Decision`; it is asked before each pass."""

SAFETY = 0.8
"""Share of the time left that a policy plans with: medians are exceeded by every second pass."""


def in_time(state: State) -> Decision:
    """Return the best member with which everyone who waits now is answered in time.

    The queue is thought to be served by one member, pass after pass. Where no member answers
    everyone in time, the one that answers most is taken, of several the fastest, until the queue
    is shorter. A request that no member could answer in time any more does not count. Requests
    that leave time for better members are not put into a pass with a more urgent one.

    Example:
        >>> small = Candidate("small", {}, 0.90, times_ms={1: 1.0, 8: 4.0})
        >>> large = Candidate("large", {}, 0.95, times_ms={1: 4.0, 8: 16.0})
        >>> calm = State([Waiting(1, 30.0, 30.0)], [small, large], max_batch=8)
        >>> in_time(calm)
        Decision(member=1, requests=1)
        >>> in_time(State([Waiting(1, 30.0, 30.0)] * 16, [small, large], max_batch=8))
        Decision(member=0, requests=16)
    """
    members = range(len(state.members))
    first = min(sum(one.samples for one in state.waiting), state.max_batch)
    pass_ms = [state.pace * member.time_ms(first) / SAFETY for member in state.members]
    alone_ms = [state.pace * member.time_ms(1) / SAFETY for member in state.members]
    places = _passes(state)
    possible = [
        (place, one.left_ms)
        for place, one in zip(places, state.waiting, strict=True)
        if one.left_ms >= min(alone_ms)
    ]
    answered = [sum(place * pass_ms[m] <= left for place, left in possible) for m in members]
    most = max(answered)
    if most < len(state.waiting):
        fitting = [m for m in members if answered[m] == most]
        quickest = min(fitting, key=lambda m: pass_ms[m])
        return Decision(quickest, len(state.waiting))
    best = max(m for m in members if answered[m] == most)
    return Decision(best, _alike(state.waiting, alone_ms))


def largest(state: State) -> Decision:
    """Return the member of the best quality, whatever waits: serving without switching."""
    return Decision(len(state.members) - 1, len(state.waiting))


def _passes(state: State) -> list[int]:
    """Return in which pass from now each request would be served, counted from 1."""
    before, places = 0, []
    for one in state.waiting:
        before += one.samples
        places.append(math.ceil(before / state.max_batch))
    return places


def _alike(waiting: Sequence[Waiting], alone_ms: Sequence[float]) -> int:
    """Return how many of the first requests have targets that the same members meet."""

    def met(one: Waiting) -> int:
        return sum(time <= one.target_ms for time in alone_ms)

    wanted = met(waiting[0])
    return next((n for n, one in enumerate(waiting) if met(one) != wanted), len(waiting))


POLICIES: Mapping[str, Policy] = {"in_time": in_time, "largest": largest}


def policy_of(name: str) -> Policy:
    """Return a policy by its name, or the function that `FILE.py:FUNCTION` names; runs that file.

    Raises:
        InputError: there is no such policy, file or function.
    """
    if name in POLICIES:
        return POLICIES[name]
    if ".py:" not in name:
        raise InputError(
            f"there is no policy {name!r}{did_you_mean(name, POLICIES)}; one of your own is "
            "FILE.py:FUNCTION"
        )
    return load_function(name)  # type: ignore[return-value] # the server checks what it returns
