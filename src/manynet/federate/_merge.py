"""`merge`: the weighted mean of what clients sent, of equal, nested or any widths.

Merging is reading: ten updates are ten times as many bytes as the result. So each tensor is gone
through in blocks that stay in the cache while the updates are added up, and every byte that was
sent is read once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from manynet.bindings.axes import Index
from manynet.errors import InputError
from manynet.federate._boxes import boxes
from manynet.federate._leading import (
    Job,
    mean_compiled,
    mean_of_large,
    means_of_small,
    plan_of,
)
from manynet.federate._rows import MeanOfRows, compiled
from manynet.federate._update import Update

__all__ = ["merge"]

BLOCK = 1 << 19
"""Entries of a block: two mebibytes of floats, which stay in the last cache. The calls for smaller
blocks take longer than a nearer cache saves."""

SMALL = 1 << 14
"""Entries up to which tensors are merged many at a time: calls would take longer than sums."""


@torch.no_grad()
def merge(
    shared: Mapping[str, Tensor],
    updates: Sequence[Update],
    *,
    out: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the shared tensors with every entry the weighted mean of those who hold it.

    An entry that nobody holds stays as it is; so does a tensor that no update has. Integers, such
    as counters, become the largest sent. Sums are kept in float32 at least, and are made in the
    order of the clients' names.

    Args:
        shared: the server's tensors; they do not change.
        updates: what the clients sent, each of the whole tensors or of parts of them.
        out: tensors of the same shapes to write into, so that nothing is allocated; what they hold
            after an error is undefined.

    Raises:
        InputError: there is no update, or one has an unknown tensor, a shape that does not fit,
            or a value that is not finite; the message names the client and the tensor.

    Example:
        >>> import torch
        >>> shared = {"weight": torch.zeros(3)}
        >>> wide, narrow = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([5.0])
        >>> merge(shared, [Update({"weight": wide}, 3), Update({"weight": narrow}, 1)])
        {'weight': tensor([2., 1., 1.])}

    Reference: McMahan et al. 2017, arXiv 1602.05629 (FedAvg); for unequal widths Diao et al. 2021,
    arXiv 2010.01264 (HeteroFL).
    """
    if not updates:
        raise InputError("there is no update to merge; keep the shared weights as they are")
    ordered = sorted(updates, key=lambda update: update.client)
    for update in ordered:
        unknown = next((name for name in update.tensors if name not in shared), None)
        if unknown is not None:
            raise InputError(f"{update.label} has {unknown!r}, which the server does not share")
    mean = compiled(len(ordered) * sum(own.numel() for own in shared.values()))
    merged: dict[str, Tensor] = {}
    small: dict[tuple[int, ...], list[tuple[str, Job]]] = {}
    for name, own in shared.items():
        numbers = tuple(n for n, update in enumerate(ordered) if name in update.tensors)
        holders = [ordered[number] for number in numbers]
        target = merged[name] = torch.empty_like(own) if out is None else out[name]
        if not holders:
            target.copy_(own)
            continue
        tensors = [update.tensors[name] for update in holders]
        job = _job(name, own, holders, tensors, target)
        if job is None:
            _by_boxes(name, own, holders, tensors, target)
        elif own.numel() <= max(SMALL, 1):
            small.setdefault(numbers, []).append((name, job))
        elif not math.isfinite(_mean_of(job, mean)):
            _refuse(name, holders, tensors)
    for numbers, jobs in small.items():
        if not _finite(means_of_small([job for _, job in jobs])):
            for name, job in jobs:
                _refuse(name, [ordered[number] for number in numbers], job.tensors)
    return merged


def _mean_of(job: Job, mean: MeanOfRows | None) -> float:
    """Make the mean of one tensor, compiled where that is to be had, and return its sum."""
    total = None if mean is None else mean_compiled(job, mean)
    if total is not None:
        return total
    entries = BLOCK if job.own.device.type == "cpu" else job.own.numel()
    return float(abs(mean_of_large(job, entries)).item())


def _job(
    name: str, own: Tensor, holders: Sequence[Update], tensors: Sequence[Tensor], target: Tensor
) -> Job | None:
    """Return the job of a tensor of which leading blocks were sent; None for others.

    Types whose sums are kept in another one, and integers, are none.
    """
    exact = own.dtype.itemsize >= torch.float32.itemsize
    if not exact or not (own.dtype.is_floating_point or own.dtype.is_complex):
        return None
    if any(name in update.parts for update in holders):
        return None
    plan = plan_of(own.shape, tuple(tensor.shape for tensor in tensors))
    if plan is None:
        return None
    here = [t if t.device == own.device else t.to(own.device) for t in tensors]
    return Job(own, target, here, [update.weight for update in holders], plan)


def _by_boxes(
    name: str, own: Tensor, holders: Sequence[Update], tensors: Sequence[Tensor], target: Tensor
) -> None:
    """Merge a tensor of which any positions were sent."""
    parts = [_part(name, own, u, t) for u, t in zip(holders, tensors, strict=True)]
    for box in boxes(own.shape, parts):
        region = target[box.block]
        if not box.holders:
            region.copy_(own[box.block])
            continue
        sent = [tensors[number][block] for number, block in box.holders]
        total = sum(holders[number].weight for number, _ in box.holders)
        shares = [holders[number].weight / total for number, _ in box.holders]
        for block, pieces in _blocks(region, sent):
            if not own.dtype.is_floating_point and not own.dtype.is_complex:
                _largest(block, pieces)
            elif not _mean(block, pieces, shares):
                _refuse(name, holders, tensors)


def _mean(block: Tensor, pieces: Sequence[Tensor], shares: Sequence[float]) -> bool:
    """Write the mean into `block`; return whether it is finite."""
    exact = block.dtype.itemsize >= torch.float32.itemsize
    total = block if exact else torch.empty_like(block, dtype=torch.float32)
    first, *others = (piece.to(total) for piece in pieces)
    torch.mul(first, shares[0], out=total)
    for piece, share in zip(others, shares[1:], strict=True):
        total.add_(piece, alpha=share)
    if total is not block:
        block.copy_(total)
    return _finite(total.sum())


def _finite(total: Tensor) -> bool:
    return math.isfinite(abs(total.item()))


def _largest(block: Tensor, pieces: Sequence[Tensor]) -> None:
    block.copy_(pieces[0])
    for piece in pieces[1:]:
        torch.maximum(block, piece.to(block), out=block)


def _blocks(region: Tensor, sent: Sequence[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Yield pieces of a region with what was sent for them; on an accelerator the region whole."""
    if region.numel() <= BLOCK or region.device.type != "cpu":
        yield region, list(sent)
    elif all(tensor.is_contiguous() for tensor in (region, *sent)):
        flat = (tensor.view(-1).split(BLOCK) for tensor in (region, *sent))
        for block, *pieces in zip(*flat, strict=True):
            yield block, pieces
    elif (rows := BLOCK * len(region) // region.numel()) > 0:
        for block, *pieces in zip(*(tensor.split(rows) for tensor in (region, *sent)), strict=True):
            yield block, pieces
    else:
        for block, *pieces in zip(region, *sent, strict=True):
            yield from _blocks(block, pieces)


def _part(name: str, own: Tensor, update: Update, tensor: Tensor) -> tuple[Index, ...]:
    """Return which positions of the shared tensor an update's tensor is of."""
    part = update.parts.get(name) or tuple(slice(0, size) for size in tensor.shape)
    if len(part) != own.dim() or not _fits(part, own.shape, tensor.shape):
        raise InputError(
            f"{update.label} has {name!r} of shape {tuple(tensor.shape)}, which does not fit the "
            f"shared shape {tuple(own.shape)}; send a leading block of it, or name the positions "
            "in parts"
        )
    return part


def _fits(part: Sequence[Index], shared: Sequence[int], sent: Sequence[int]) -> bool:
    for index, size, length in zip(part, shared, sent, strict=True):
        if isinstance(index, slice):
            start, stop, step = index.indices(size)
            if step != 1 or stop - start != length or (index.stop or 0) > size:
                return False
        elif len(index) != length or not all(0 <= int(position) < size for position in index):
            return False
    return True


def _refuse(name: str, holders: Sequence[Update], tensors: Sequence[Tensor]) -> None:
    """Raise for the first update with a value that is not finite.

    There is none where the sum that raised the suspicion has merely overflowed.
    """
    for holder, tensor in zip(holders, tensors, strict=True):
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(
                f"{holder.label} holds NaN or infinity in {name!r}; merge the others without it"
            )
