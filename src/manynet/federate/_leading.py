"""Means of updates that are leading blocks of the shared tensors, as those of nested widths are.

Every tensor that was sent is added whole, in one go, to the block of the result that it covers.
Where some do not reach, the sum is mended afterwards, while it is still in the cache. Which boxes
those are depends on shapes alone, and is found once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.federate._boxes import Block, boxes
from manynet.federate._rows import MeanOfRows, matrices_of, means_by_rows

__all__ = ["Job", "Plan", "mean_compiled", "mean_of_large", "means_of_small", "plan_of"]

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """What shapes alone say about a mean.

    Args:
        order: the holders, the largest tensors first.
        covered: whether the first of them holds everything.
        mends: boxes that not all hold, and who does.
    """

    order: tuple[int, ...]
    covered: bool
    mends: tuple[tuple[Block, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Job:
    """A mean to make: of `tensors`, with `weights`, into `target`, which is `own` where none is."""

    own: Tensor
    target: Tensor
    tensors: Sequence[Tensor]
    weights: Sequence[float]
    plan: Plan

    @functools.cached_property
    def shares(self) -> list[float]:
        """The share of each tensor, where all take part."""
        total = sum(self.weights)
        return [weight / total for weight in self.weights]


@functools.lru_cache(maxsize=4096)
def plan_of(shape: Shape, sent: tuple[Shape, ...]) -> Plan | None:
    """Return the plan for tensors of the shapes `sent`; None where one is no leading block."""
    for own in sent:
        if len(own) != len(shape) or any(n > size for n, size in zip(own, shape, strict=True)):
            return None
    sizes = [torch.Size(own).numel() for own in sent]
    order = sorted(range(len(sent)), key=lambda number: -sizes[number])
    parts = [tuple(slice(0, size) for size in own) for own in sent]
    joined: list[tuple[Block, tuple[int, ...]]] = []
    for box in boxes(shape, parts):
        numbers = tuple(number for number, _ in box.holders)
        last = joined[-1] if joined else None
        wider = None if last is None or last[1] != numbers else _joined(last[0], box.block)
        if wider is not None:
            joined[-1] = (wider, numbers)
        else:
            joined.append((box.block, numbers))
    mends = tuple(box for box in joined if len(box[1]) < len(sent))
    return Plan(tuple(order), tuple(sent[order[0]]) == tuple(shape), mends)


def _joined(first: Block, second: Block) -> Block | None:
    """Return one block for two that lie side by side in one dimension; None for others."""
    differing = [
        dim
        for dim, pair in enumerate(zip(first, second, strict=True))
        if len({*map(str, pair)}) > 1
    ]
    if len(differing) != 1 or first[differing[0]].stop != second[differing[0]].start:
        return None
    dim = differing[0]
    return (*first[:dim], slice(first[dim].start, second[dim].stop), *first[dim + 1 :])


def means_of_small(jobs: Sequence[Job]) -> Tensor:
    """Make the means of many small tensors, sent by the same clients, and return their sum.

    One call for each client adds all that it sent.
    """
    shares = jobs[0].shares
    targets = [job.target for job in jobs]
    torch._foreach_zero_(targets)
    views = [_views(job) for job in jobs]
    for number, share in enumerate(shares):
        places = [own[number] for own in views]
        torch._foreach_add_(places, [job.tensors[number] for job in jobs], alpha=share)
    scaled: list[Tensor] = []
    factors: list[float] = []
    for job in jobs:
        for block, numbers in job.plan.mends:
            factor = _mend(job, block, numbers)
            if factor is not None:
                scaled.append(job.target[block])
                factors.append(factor)
    if scaled:
        torch._foreach_mul_(scaled, factors)
    return torch.cat([target.reshape(-1) for target in targets]).sum()


def mean_of_large(job: Job, entries: int) -> Tensor:
    """Make the mean of one tensor in blocks of about `entries`, and return its sum.

    A block stays in the cache of one core while the tensors are added up, mended and checked.
    """
    first, *others = job.plan.order
    rows = max(1, entries * len(job.target) // job.target.numel())
    flat = not job.plan.mends and all(t.is_contiguous() for t in (job.target, *job.tensors))

    def cut(tensor: Tensor) -> Sequence[Tensor]:
        pieces: Sequence[Tensor]
        pieces = tensor.view(-1).split(entries) if flat else tensor.split(rows)
        return pieces

    blocks = cut(job.target)
    start = cut(job.tensors[first]) if job.plan.covered else None
    known = {tuple(job.target.shape): blocks}
    added = [] if job.plan.covered else [first]
    parts = []
    for number in [*added, *others]:
        tensor = job.tensors[number]
        shape = tuple(tensor.shape)
        if shape not in known:
            known[shape] = job.target[tuple(slice(0, size) for size in shape)].split(rows)
        parts.append((known[shape], cut(tensor), job.shares[number]))
    sums = []
    for place, block in enumerate(blocks):
        if start is None:
            block.zero_()
        else:
            torch.mul(start[place], job.shares[first], out=block)
        for views, sent, share in parts:
            if place < len(sent):
                views[place].add_(sent[place], alpha=share)
        for region, numbers in _within(job.plan, place * rows, (place + 1) * rows):
            factor = _mend(job, region, numbers)
            if factor is not None:
                job.target[region].mul_(factor)
        sums.append(block.sum())
    return torch.stack(sums).sum()


def mean_compiled(job: Job, mean: MeanOfRows) -> float | None:
    """Make the mean of one tensor with a compiled loop, and return its sum.

    Returns:
        None, with nothing done, where the updates have no form for it.
    """
    matrices = matrices_of(job)
    if matrices is None:
        return None
    for block, numbers in job.plan.mends:
        if not numbers:
            _mend(job, block, numbers)
    return means_by_rows(mean, matrices, [job.weights[number] for number in job.plan.order])


def _views(job: Job) -> list[Tensor]:
    """Return the block of the target that each tensor covers."""
    whole = job.target.shape
    known: dict[Shape, Tensor] = {whole: job.target}
    for tensor in job.tensors:
        if tensor.shape not in known:
            known[tensor.shape] = job.target[tuple(slice(0, size) for size in tensor.shape)]
    return [known[tensor.shape] for tensor in job.tensors]


def _within(plan: Plan, start: int, stop: int) -> Iterator[tuple[Block, tuple[int, ...]]]:
    """Yield what lies in some rows of the boxes to mend."""
    for block, numbers in plan.mends:
        low, high = max(block[0].start, start), min(block[0].stop, stop)
        if low < high:
            yield (slice(low, high), *block[1:]), numbers


def _mend(job: Job, block: Block, numbers: Sequence[int]) -> float | None:
    """Write what a single holder has, or nobody; for others return what to multiply by."""
    if len(numbers) > 1:
        return sum(job.weights) / sum(job.weights[number] for number in numbers)
    source = job.tensors[numbers[0]] if numbers else job.own
    job.target[block].copy_(source[block])
    return None
