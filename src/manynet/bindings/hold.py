"""`Hold` lets training move some entries of a weight, and no others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Hold"]


@dataclass(frozen=True)
class Hold(Operation, kind="hold", sparse=True):
    """A weight that members read whole, and that they train only where it is free.

    Steps of a guarded optimizer leave the other entries as they are, whatever its momentum and its
    weight decay: members that read nothing else stay the same, bit for bit.

    Args:
        weight: the weight.
        free: truth values, or ones and zeros, that broadcast to its shape.

    Reference: Yadav and Bansal 2023, arXiv 2210.10209 (the exclusive sets of ExSSNeT).
    """

    weight: Binding
    free: Binding

    def value(self, arch: Arch, weight: Tensor, free: Tensor) -> Tensor:
        """Return the weight."""
        return torch.where(free.bool(), weight, weight.detach())
