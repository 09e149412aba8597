"""A built member: its module, and what keeps it in step with the shared weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manynet.bindings.leaf import Leaf, Touched

__all__ = ["Member"]

Buffers = list[tuple[nn.Module, str, Tensor]]


class Member:
    """A built member: its module, and the tensors that must be kept up to date."""

    def __init__(
        self, module: nn.Module, leaves: Sequence[Leaf], buffers: Buffers, touched: Touched
    ) -> None:
        self.module = module
        self.stale = Stale([leaf for leaf in leaves if leaf.pull is not None], touched)
        self.buffers = buffers
        self.bytes = sum(leaf.tensor.nbytes for leaf in leaves if leaf.pull is not None)


class Stale:
    """Brings the tensors of one member up to date when a source of theirs has changed.

    It is also the member's forward pre-hook, so that a member someone holds on to is never run
    with old weights. Under `torch.compile` the hook is traced to nothing; `Family.at` refreshes.
    """

    def __init__(self, leaves: Sequence[Leaf], touched: Touched) -> None:
        self.leaves = tuple(leaves)
        self.touched = touched
        self.generation = touched.generation
        sources = {id(source): source for leaf in leaves for source in leaf.sources}
        self.sources = tuple(sources.values())
        order = {key: number for number, key in enumerate(sources)}
        self.reads = tuple(tuple(order[id(s)] for s in leaf.sources) for leaf in leaves)
        self.versions = [source._version for source in self.sources]

    def refresh(self) -> None:
        versions = [source._version for source in self.sources]
        known = versions != self.versions
        if not known and self.generation == self.touched.generation:
            return
        changed = [new != old for new, old in zip(versions, self.versions, strict=True)]
        possible = self.generation != self.touched.generation
        for leaf, reads in zip(self.leaves, self.reads, strict=True):
            certain = known and any(changed[i] for i in reads)
            if (certain or possible) and leaf.pull is not None:
                leaf.pull(certain)
        self.versions, self.generation = versions, self.touched.generation

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if not torch.compiler.is_compiling():
            self.refresh()

    def __deepcopy__(self, memo: object) -> _Unbound:
        return _Unbound()

    def __reduce__(self) -> tuple[type[_Unbound], tuple[()]]:
        return _Unbound, ()


class _Unbound:
    """What the hook becomes in a copy of a member, which is bound to nothing."""

    def __call__(self, module: nn.Module, inputs: object) -> None:
        return None
