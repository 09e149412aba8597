"""Means of large tensors by a compiled loop, which takes four updates at a time.

PyTorch adds one tensor at a time to a block, which is read and written again for each. Where numba
is installed it compiles a loop over rows that reads four of them at once, while the row of the
result stays in the nearest cache.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from manynet.federate._leading import Job

__all__ = ["MeanOfRows", "compiled", "matrices_of", "mean_of_rows", "means_by_rows"]

Array = np.ndarray[Any, np.dtype[Any]]
Shares = tuple[Any, ...]
MeanOfRows = Callable[[Array, tuple[Array, ...], tuple[Shares, ...]], float]
"""`mean_of_rows`, as it is or compiled."""

LEAST = 1 << 24
"""Entries of the shared tensors, times the updates, from which on it pays to load numba and to
compile, once a process."""

MOST = 32
"""Updates at most: the loop is compiled anew for every four more."""

ROW = 1 << 12
"""Entries of a row of tensors that are all of one shape: 16 kibibytes of floats."""


def compiled(entries: int) -> MeanOfRows | None:
    """Return a compiled `mean_of_rows`; None for fewer `entries` than pay, or without numba."""
    return _compiled() if entries >= LEAST else None


@functools.cache
def _compiled() -> MeanOfRows | None:
    try:
        import numba
    except ImportError:
        return None
    mean: MeanOfRows = numba.njit(fastmath={"contract", "reassoc"}, nogil=True)(mean_of_rows)
    return mean


def means_by_rows(
    mean: MeanOfRows, matrices: Sequence[Sequence[Array]], weights: Sequence[float]
) -> float:
    """Write means with `mean`, as far as updates reach, and return the sum of the results.

    Args:
        mean: from `compiled`.
        matrices: from `matrices_of`.
        weights: of the updates, in their order.
    """
    shares = _shares(tuple(weights), matrices[0][0].dtype.name)
    return sum(
        mean(out, (*sent, *[np.empty((0, 0), out.dtype)] * (-len(sent) % 4)), shares)
        for out, *sent in matrices
    )


def matrices_of(job: Job) -> list[list[Array]] | None:
    """Return the target and what was sent, the largest first, as matrices that share memory.

    Returns:
        One such list; two where the end of tensors of one shape makes no whole row; None where
        they have no such form: too many, on an accelerator, of several types, not contiguous, cut
        in more than the first two dimensions, or none within the other.
    """
    everything = [job.target, *(job.tensors[number] for number in job.plan.order)]
    kind = job.target.dtype
    if len(everything) > MOST + 1 or kind not in (torch.float32, torch.float64):
        return None
    if any(t.device.type != "cpu" or t.dtype != kind or not t.is_contiguous() for t in everything):
        return None
    if len({t.shape for t in everything}) == 1:
        flat = [t.view(-1).numpy() for t in everything]
        whole = flat[0].size // ROW * ROW
        parts = ([a[:whole].reshape(-1, ROW) for a in flat], [a[None, whole:] for a in flat])
        return [part for part in parts if part[0].size]
    if job.target.dim() < 2 or len({t.shape[2:] for t in everything}) > 1:
        return None
    found = [t.view(len(t), -1).numpy() for t in everything]
    for larger, smaller in itertools.pairwise(found):
        if smaller.shape[0] > larger.shape[0] or smaller.shape[1] > larger.shape[1]:
            return None
    return [found]


@functools.lru_cache(maxsize=64)
def _shares(weights: tuple[float, ...], kind: str) -> tuple[Shares, ...]:
    """Return, for every four updates, what `mean_of_rows` multiplies by.

    That is, for the mean of the first one of them, then of two, three and four: the share of what
    came before, and of each.
    """
    found, before = list[Shares](), 0.0
    for start in range(0, len(weights), 4):
        four = [*weights[start : start + 4], *[1.0] * 3][:4]
        shares: list[float] = []
        for many in range(1, 5):
            total = before + sum(four[:many])
            shares += [before / total, *(weight / total for weight in four[:many])]
        found.append(tuple(map(np.dtype(kind).type, shares)))
        before += sum(four)
    return tuple(found)


def mean_of_rows(out: Array, sent: tuple[Array, ...], shares: tuple[Shares, ...]) -> float:
    """Write the mean of matrices into `out`, row by row, and return the sum of `out`.

    None of them has more rows or columns than the one before it, so an entry is held by the first
    few of every four. What none of them holds stays.

    Args:
        out: the result.
        sent: the matrices; their number is a multiple of four.
        shares: for every four, what the mean so far and they are multiplied by.
    """
    total = 0.0
    for row in range(out.shape[0]):
        own = out[row]
        for group in range(len(shares)):
            a, b, c, d = (
                sent[4 * group], sent[4 * group + 1], sent[4 * group + 2], sent[4 * group + 3],
            )  # fmt: skip
            o1, a1, o2, a2, b2, o3, a3, b3, c3, o4, a4, b4, c4, d4 = shares[group]
            first, nil = group == 0, o1 - o1  # `own` may hold no number yet
            a_size = a.shape[1] if row < a.shape[0] else 0
            b_size = b.shape[1] if row < b.shape[0] else 0
            c_size = c.shape[1] if row < c.shape[0] else 0
            d_size = d.shape[1] if row < d.shape[0] else 0
            for n in range(b_size, a_size):
                own[n] = (nil if first else o1 * own[n]) + a1 * a[row, n]
            for n in range(c_size, b_size):
                own[n] = (nil if first else o2 * own[n]) + a2 * a[row, n] + b2 * b[row, n]
            for n in range(d_size, c_size):
                own[n] = (
                    (nil if first else o3 * own[n])
                    + a3 * a[row, n] + b3 * b[row, n] + c3 * c[row, n]
                )  # fmt: skip
            for n in range(d_size):
                own[n] = (
                    (nil if first else o4 * own[n])
                    + a4 * a[row, n] + b4 * b[row, n] + c4 * c[row, n] + d4 * d[row, n]
                )  # fmt: skip
        total += own.sum()
    return total
