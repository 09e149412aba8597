"""`Mask` leaves out entries of a weight; `TopK` learns which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import ByArch, Operation, setting
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Mask", "TopK"]


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
    that are zero too. Of `n` scores, the `int((1 - density) * n)` smallest give zero.

    Args:
        scores: any numbers, one an entry.
        density: the share of ones.

    Reference: Ramanujan et al. 2020, arXiv 1911.13299; Wortsman et al. 2020, arXiv 2006.14769.
    """

    scores: Binding
    density: float | ByArch = 0.5

    def value(self, arch: Arch, scores: Tensor) -> Tensor:
        """Return the mask, in the type of the scores."""
        size = scores.abs()
        zeros = int((1 - float(setting(self.density, arch))) * scores.numel())
        lowest = size.detach().flatten().argsort()[:zeros]
        hard = torch.ones_like(size).flatten().index_fill(0, lowest, 0.0).view_as(size)
        return hard.detach() + (size - size.detach())
