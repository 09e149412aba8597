"""`Shard`: a weight put together from rows of a pool that many layers draw from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard(Operation, kind="shard", sparse=True):
    """The rows of a pool that an index names, one after another, in the weight's shape.

    Rows of the pool that the index leaves out do not move in training.

    Args:
        pool: `(rows, entries of a row)`.
        index: which rows, a shared buffer of 64-bit integers; a row may come twice.
        shape: the weight's; its entries are those of the drawn rows, but for surplus at the end.

    Reference: Wang et al. 2025, arXiv 2410.00938 (mixture of shards).
    """

    pool: Binding
    index: Binding
    shape: tuple[int, ...]

    def value(self, arch: Arch, pool: Tensor, index: Tensor) -> Tensor:
        """Return the weight."""
        size = 1
        for length in self.shape:
            size *= length
        drawn = pool.index_select(0, index.flatten()).flatten()
        return (drawn if len(drawn) == size else drawn[:size]).view(self.shape)
