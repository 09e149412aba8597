"""`Mask` leaves out entries of a weight; `TopK` learns which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manynet.bindings.operation import ByArch, Operation, setting
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
        return weight * keep


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

    again: ClassVar[bool] = True
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
    last = _smallest(size.flatten(), count)
    if size.device.type == "cpu":  # where counting makes nobody wait
        above = size > last
        if int(above.count_nonzero()) == size.numel() - count:
            return above
    below, equal = size < last, size == last
    rank = equal.flatten().cumsum(0, dtype=torch.int32).view_as(size)
    return ~(below | (equal & (rank <= count - below.sum())))


def _smallest(values: Tensor, count: int) -> Tensor:
    """Return the `count`-th smallest; NumPy finds it several times faster on the CPU."""
    if values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64):
        found = np.partition(values.numpy(), count - 1)[count - 1]
        return torch.as_tensor(found, dtype=values.dtype)
    return values.kthvalue(count).values
