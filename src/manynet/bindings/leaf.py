"""How a tensor of a member stays in step with the shared tensors that it is read from.

*Pull*: the value is written into the member's own storage, in place, when a source has changed.
*Push*: a hook sees to it that the gradient of the member's parameter reaches the shared ones.
The forward pass stays the user's own, and a parameter's storage never moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manynet.bindings.lattice import lattice_of
from manynet.bindings.protocol import Computed, Part, Reading
from manynet.bindings.push import Push, Touched

__all__ = ["Leaf", "Touched", "bind", "copied", "read"]


def read(tensor: Tensor, part: Part) -> Tensor:
    """Return `part` of `tensor`: a view where it is a block, else a copy."""
    block = part.block
    if block is not None:
        return tensor[block]
    for dim, index in enumerate(part.index):
        if isinstance(index, slice):
            tensor = tensor if index == slice(None) else tensor[(slice(None),) * dim + (index,)]
        else:
            tensor = tensor.index_select(dim, torch.from_numpy(index).to(tensor.device))
    return tensor


def copied(block: Tensor) -> Tensor:
    """Return a copy of `block` with no stride left over from the tensor that it was cut from."""
    if block.is_contiguous():  # also where a dimension of one has a stride of the larger tensor
        return block.clone(memory_format=torch.contiguous_format)
    return block.clone()


@dataclass(eq=False)
class Leaf:
    """One tensor of a member, and what it takes to bring it up to date.

    Args:
        tensor: what the member's module holds.
        sources: the shared tensors whose change makes it stale; empty for one that shares their
            storage.
        pull: writes the current value into the tensor that it is given; the second argument says
            whether a gradient may come back through it. Gradients are off while it runs.
    """

    tensor: Tensor
    sources: tuple[Tensor, ...] = ()
    pull: Callable[[Tensor, bool], None] | None = None
    view: Tensor | None = None
    """Where the value is a view of a shared tensor: that view, to copy from without a call. It may
    have more dimensions than `tensor`, see `Lattice`."""


def bind(reading: Reading, shared: Mapping[str, Tensor], touched: Touched) -> Leaf:
    """Return a tensor that reads `shared` as `reading` says, with its value up to date.

    A parameter gets a hook that carries its gradient to the shared parameters. A block that lies
    in one piece shares storage; anything else has a storage of its own, since a strided weight is
    copied by PyTorch's kernels in every call.
    """
    if isinstance(reading, Computed):
        return _bind_computed(reading, shared, touched)
    source = shared[reading.source]
    if reading.whole:
        return Leaf(source)
    lattice = lattice_of(reading.index, source.shape)
    view = None if lattice is None else lattice.view(source.detach())
    if view is not None and view.is_contiguous():
        leaf = Leaf(_like(source, view))
    else:
        value = read(source.detach(), reading)
        own = value.contiguous() if reading.block is None else copied(value)
        leaf = Leaf(_like(source, own), (source,), _CopyPart(source, reading), view)
    if leaf.tensor.requires_grad:
        push = Push(source, reading, touched, lattice, leaf.tensor.nbytes)
        leaf.tensor.register_post_accumulate_grad_hook(push)
    return leaf


def _like(source: Tensor, value: Tensor) -> Tensor:
    if isinstance(source, nn.Parameter):
        return nn.Parameter(value, requires_grad=source.requires_grad)
    return value


class _CopyPart:
    def __init__(self, source: Tensor, part: Part) -> None:
        self.source, self.part = source, part

    def __call__(self, target: Tensor, track: bool) -> None:
        target.copy_(read(self.source, self.part))


def _bind_computed(reading: Computed, shared: Mapping[str, Tensor], touched: Touched) -> Leaf:
    sources = tuple(shared[name] for name in reading.sources)
    with torch.no_grad():
        value = reading.function(sources).detach()
    tensor = nn.Parameter(
        value.clone(memory_format=torch.contiguous_format),
        requires_grad=any(source.requires_grad for source in sources),
    )
    link = _Compute(sources, reading, touched)
    if tensor.requires_grad:
        tensor.register_post_accumulate_grad_hook(link.push)
    return Leaf(tensor, sources, link.pull)


class _Compute:
    """Builds a computed value once after each change, and sends its gradient back through it."""

    def __init__(self, sources: tuple[Tensor, ...], reading: Computed, touched: Touched) -> None:
        self.sources, self.reading, self.touched = sources, reading, touched
        self.graph: Tensor | None = None

    def pull(self, target: Tensor, track: bool) -> None:
        with torch.set_grad_enabled(track):
            value = self.reading.function(self.sources)
        self.graph = value if track else None
        target.copy_(value.detach())

    def push(self, leaf: Tensor) -> None:
        grad, leaf.grad = leaf.grad, None
        if grad is None:
            return
        if self.graph is None:
            with torch.enable_grad():
                self.graph = self.reading.function(self.sources)
        torch.autograd.backward(self.graph, grad, retain_graph=True)
        for part in self.reading.parts:
            self.touched.add(part)
