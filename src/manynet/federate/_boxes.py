"""Boxes: the parts of a tensor that are held by the same clients throughout.

Clients of unequal width hold leading blocks, or any index sets, of a shared tensor. Cut along
every dimension where a client begins or ends, it falls into boxes, in each of which the same
clients take part and every one of them holds a plain block of its own tensor. A weighted mean then
needs no count of who holds which entry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from manynet.bindings.axes import Index

__all__ = ["Box", "boxes"]

Block = tuple[slice, ...]


@dataclass(frozen=True)
class Box:
    """A block of the shared tensor, and the block of each holder's tensor that goes there."""

    block: Block
    holders: tuple[tuple[int, Block], ...]


@dataclass(frozen=True)
class _Run:
    """Positions `start` to `stop` of a dimension; each holder has them from `own` on."""

    start: int
    stop: int
    holders: dict[int, int]


def boxes(shape: Sequence[int], parts: Sequence[tuple[Index, ...]]) -> Iterator[Box]:
    """Yield the boxes of a tensor of `shape`, of which each of `parts` is a holder's positions.

    Boxes that nobody holds are among them.
    """
    dims = [_runs(size, [part[dim] for part in parts]) for dim, size in enumerate(shape)]
    for runs in itertools.product(*dims):
        holders = tuple(
            (
                number,
                tuple(slice(at := r.holders[number], at + r.stop - r.start) for r in runs),
            )
            for number in range(len(parts))
            if all(number in run.holders for run in runs)
        )
        yield Box(tuple(slice(run.start, run.stop) for run in runs), holders)


def _runs(size: int, indices: Sequence[Index]) -> list[_Run]:
    """Cut a dimension into runs, within which nobody's positions begin, end or jump."""
    segments = [_segments(index, size) for index in indices]
    cuts = sorted({0, size, *(cut for own in segments for part in own for cut in part[:2])})
    runs = [_Run(start, stop, {}) for start, stop in itertools.pairwise(cuts)]
    places = {run.start: number for number, run in enumerate(runs)}
    for holder, own in enumerate(segments):
        for start, stop, at in own:
            for run in runs[places[start] :]:
                if run.start >= stop:
                    break
                run.holders[holder] = at + run.start - start
    return runs


def _segments(index: Index, size: int) -> list[tuple[int, int, int]]:
    """Return `index` as runs of following positions: start, stop, and where the holder has them."""
    if isinstance(index, slice):
        start, stop, _ = index.indices(size)
        return [(start, stop, 0)] if stop > start else []
    jumps = np.flatnonzero(np.diff(index) != 1) + 1
    begins = [0, *jumps.tolist()] if len(index) else []
    ends = [*begins[1:], len(index)]
    return [(int(index[a]), int(index[b - 1]) + 1, a) for a, b in zip(begins, ends, strict=False)]
