"""`Mask` leaves out entries of a weight; `TopK` learns which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manynet.bindings.operation import ByArch, Operation, resolved, setting
from manynet.bindings.pack import pack, unpack
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Mask", "TopK", "all_but_smallest"]


@dataclass(frozen=True)
class Mask(Operation, kind="mask", sparse=True):
    """A weight, and zero where its mask is zero. What is masked does not move in training.

    Args:
        weight: the weight.
        keep: ones and zeros, or truth values, that broadcast to its shape: a shared buffer for a
            fixed mask, `TopK` for a learned one, `Route` for one for each task.
    """

    weight: Binding
    keep: Binding

    def value(self, arch: Arch, weight: Tensor, keep: Tensor) -> Tensor:
        """Return the masked weight."""
        if not isinstance(resolved(self.keep, arch), TopK):
            return weight * keep
        masked: Tensor = _Masked.apply(weight, keep)
        return masked


class _Masked(torch.autograd.Function):
    """A weight times ones and zeros, of which a bit each is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(weight, pack(keep, 1))
        ctx.shape = keep.shape
        return weight * keep

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, bits = ctx.saved_tensors
        of_weight, of_keep = ctx.needs_input_grad
        by_weight = by_keep = None
        if of_weight:
            keep = unpack(bits, 1, ctx.shape.numel()).view(ctx.shape)
            by_weight = (grad * keep.to(grad.dtype)).sum_to_size(weight.shape)
        if of_keep:
            by_keep = (grad * weight).sum_to_size(ctx.shape)
        return by_weight, by_keep


@dataclass(frozen=True)
class TopK(Operation, kind="top_k"):
    """One for the largest scores by magnitude, zero for the others.

    The gradient passes straight through: a score gets that of its entry, times its sign, entries
    that are zero too. Of `n` scores, the `int((1 - density) * n)` smallest give zero, where the
    product is rounded first: (1 - 0.9) * 10 is one, and not 0.99…; of equal ones the first.

    Args:
        scores: any numbers, one an entry.
        density: the share of ones.

    Reference: Ramanujan et al. 2020, arXiv 1911.13299; Wortsman et al. 2020, arXiv 2006.14769.
    """

    scores: Binding
    density: float | ByArch = 0.5

    def value(self, arch: Arch, scores: Tensor) -> Tensor:
        """Return the mask, in the type of the scores."""
        share = float(setting(self.density, arch))
        count = int(round((1 - share) * scores.numel(), 6))
        hard = all_but_smallest(scores.detach().abs(), count)
        kept: Tensor = _Straight.apply(scores, hard)
        return kept


class _Straight(torch.autograd.Function):
    """A mask whose gradient goes to the scores by their signs; nothing but these is kept for it."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, hard: Tensor) -> Tensor:
        ctx.save_for_backward(scores)
        return hard.to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (scores,) = ctx.saved_tensors
        return scores.sign().mul_(grad), None


def all_but_smallest(size: Tensor, count: int) -> Tensor:
    """Return which entries are not among the `count` smallest, without sorting and waiting."""
    if not count:
        return torch.ones_like(size, dtype=torch.bool)
    if size.device.type == "cpu" and size.dtype in (torch.float32, torch.float64):
        values = size.numpy()  # which compares and counts several times faster
        smallest = _smallest(values.ravel(), count)
        above = np.asarray(values > smallest)
        if np.count_nonzero(above) == values.size - count:
            return torch.from_numpy(above)
        last = torch.as_tensor(smallest, dtype=size.dtype)
    else:
        last = size.flatten().kthvalue(count).values
    below, equal = size < last, size == last
    rank = equal.flatten().cumsum(0, dtype=torch.int32).view_as(size)
    return ~(below | (equal & (rank <= count - below.sum())))


def _smallest(values: NDArray[np.floating], count: int) -> np.floating:
    """Return the `count`-th smallest.

    Every 32nd value tells between which two it very likely lies, and few lie between them.

    Reference: Floyd and Rivest 1975, doi 10.1145/360680.360691, with one sample and no recursion.
    """
    some = np.sort(values[::32])
    place, reach = len(some) * count / len(values), 1.5 * math.sqrt(len(some))
    low, high = some[max(0, int(place - reach))], some[min(len(some) - 1, int(place + reach))]
    near = values.compress((values >= low) & (values <= high))
    rank = count - 1 - int(np.count_nonzero(values < low))
    if not 0 <= rank < len(near):  # it lies elsewhere after all
        near, rank = values, count - 1
    found: np.floating = np.partition(near, rank)[rank]
    return found
