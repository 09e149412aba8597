"""`Shard`: a weight put together from rows of a pool that many layers draw from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Shard", "assemble", "draw_index"]


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
        return assemble(pool, index, self.shape)


def assemble(pool: Tensor, index: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor of `shape` whose entries are those of the drawn rows, one after another.

    Args:
        pool: `(rows, entries of a row)`.
        index: which rows, integers of any shape.
        shape: what to make; surplus entries at the end are left out.

    Raises:
        InputError: the drawn rows hold too few entries.

    Example:
        >>> pool = torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]])
        >>> assemble(pool, torch.tensor([2, 0, 3, 1]), (2, 4)).tolist()
        [[5, 6, 1, 2], [7, 8, 3, 4]]
    """
    size = math.prod(shape)
    drawn = pool.index_select(0, index.flatten()).flatten()
    if len(drawn) < size:
        raise InputError(
            f"{index.numel()} rows of {pool.shape[1]} numbers are drawn for a weight of {size:,}; "
            "draw more rows, or give the pool longer ones"
        )
    return (drawn if len(drawn) == size else drawn[:size]).view(*shape)


def draw_index(
    generator: torch.Generator, drawn: int, *, public: int, private: Sequence[int] = ()
) -> Tensor:
    """Return which rows of a pool a weight reads: some at random, then those that it alone has.

    Args:
        generator: of the random numbers, on the CPU.
        drawn: how many of the public rows; none comes twice unless there are too few, and then all
            come before one comes again.
        public: rows that every weight may draw, the first ones of the pool.
        private: rows of this weight alone.

    Returns:
        64-bit integers of shape `(drawn + len(private),)`.

    Raises:
        InputError: there is no public row to draw, or a private row is a public one.

    Example:
        >>> index = draw_index(torch.Generator().manual_seed(0), 3, public=6, private=(8, 9))
        >>> sorted(index[:3].tolist())[-1] < 6, index[3:].tolist()
        (True, [8, 9])
    """
    if drawn > 0 and public < 1:
        raise InputError(f"{drawn} rows are to be drawn from a pool without public ones")
    shared = [row for row in private if row < public]
    if shared:
        raise InputError(f"row {shared[0]} is private, and among the first {public}, all public")
    rounds = -(-drawn // public) if drawn else 0
    order = [torch.randperm(public, generator=generator) for _ in range(rounds)]
    some = torch.cat([*order, torch.empty(0, dtype=torch.long)])[:drawn]
    return torch.cat([some, torch.tensor(list(private), dtype=torch.long)])
