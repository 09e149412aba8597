"""Which member the page's slider picks: the best one within each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from manynet.report._format import round_up
from manynet.report._read import Record

__all__ = ["Stop", "rank", "stops"]


@dataclass(frozen=True)
class Stop:
    """A budget at which a better member becomes affordable.

    Args:
        cost: what that member costs.
        limit: the roundest budget that this member, and no better one, fits.
        member: its place in the front.
    """

    cost: float
    limit: float
    member: int


def stops(front: Sequence[Record], cost: str) -> list[Stop]:
    """Return the members worth having when `cost` is the only budget, cheapest first.

    Example:
        >>> def record(macs, quality):
        ...     return Record(arch={}, quality=quality, costs={"macs": macs})
        >>> found = stops([record(9030, 0.9), record(5011, 0.7), record(7000, 0.6)], "macs")
        >>> [(stop.cost, stop.limit, stop.member) for stop in found]
        [(5011.0, 5020, 1), (9030.0, 9030, 0)]
    """
    ranked = sorted(range(len(front)), key=lambda i: (front[i].costs[cost], -rank(front[i])))
    kept: list[int] = []
    for index in ranked:
        if not kept or rank(front[index]) > rank(front[kept[-1]]):
            kept.append(index)
    return [_stop(front, cost, index) for index in kept]


def _stop(front: Sequence[Record], cost: str, index: int) -> Stop:
    """Round the budget up, but not to where `Front.best` could return another member."""
    own = front[index].costs[cost]
    rivals = [one.costs[cost] for one in front if rank(one) >= rank(front[index])]
    below = min((rival for rival in rivals if rival > own), default=math.inf)
    return Stop(own, round_up(own, below), index)


def rank(record: Record) -> float:
    """Return the record's quality, turned round where less is better."""
    return record.quality if record.higher_is_better else -record.quality
