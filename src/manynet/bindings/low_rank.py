"""`LowRank`: a weight as the product of two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["LowRank"]


@dataclass(frozen=True)
class LowRank(Operation, kind="low_rank"):
    """The product of `left` and `right`, as many columns of the one as rows of the other.

    As the `shift` of a `Tie` it is a correction to another weight.

    Args:
        left: of shape `(outputs, rank)`.
        right: of shape `(rank, inputs)`, or more dimensions for a kernel.
    """

    left: Binding
    right: Binding

    def value(self, arch: Arch, left: Tensor, right: Tensor) -> Tensor:
        """Return the product."""
        return (left @ right.flatten(1)).view(len(left), *right.shape[1:])
