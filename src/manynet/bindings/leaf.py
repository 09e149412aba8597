"""How a tensor of a member stays in step with the shared tensors that it is read from.

*Pull*: the value is written into the member's own storage, in place, when a source has changed.
*Push*: a hook takes the gradient that arrives at the member's parameter and adds it to the shared
gradients. The forward pass stays the user's own, and a parameter's storage never moves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from manynet.bindings.axes import Index
from manynet.bindings.protocol import Computed, Part, Reading

__all__ = ["Leaf", "Touched", "bind", "read"]


class Touched:
    """What gradients have reached since the last step of a guarded optimizer.

    `generation` counts the gradients that arrived, whoever steps: after one, shared weights may
    change in a way that PyTorch's version counters miss, as they do with fused optimizers.
    """

    def __init__(self) -> None:
        self.parts: dict[str, set[Part]] = {}
        self.generation = 0

    def add(self, part: Part) -> None:
        """Note that a gradient has reached `part`."""
        self.parts.setdefault(part.source, set()).add(part)
        self.generation += 1


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


def add_to(total: Tensor, part: Part, value: Tensor) -> None:
    """Add `value` to `part` of `total`, in place."""
    block = part.block
    if block is not None:
        total[block].add_(value)
        return
    view = total[tuple(i if isinstance(i, slice) else slice(None) for i in part.index)]
    grid = _grid(view, part.index)
    view[grid] = view[grid] + value  # a member never reads a position twice


def _grid(view: Tensor, index: tuple[Index, ...]) -> tuple[Tensor, ...]:
    ranges = [
        np.arange(n) if isinstance(i, slice) else i for i, n in zip(index, view.shape, strict=True)
    ]
    return tuple(torch.from_numpy(axis).to(view.device) for axis in np.ix_(*ranges))


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
    """Where the value is a block of a shared tensor: that block, to copy from without a call."""


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
    value = read(source.detach(), reading)
    view = value if reading.block is not None else None
    if view is not None and view.is_contiguous():
        leaf = Leaf(_like(source, view))
    else:
        tensor = _like(source, value if view is None else view.clone())
        leaf = Leaf(tensor, (source,), _CopyPart(source, reading), view)
    if leaf.tensor.requires_grad:
        leaf.tensor.register_post_accumulate_grad_hook(_PushPart(source, reading, touched, view))
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


class _PushPart:
    """Carries a gradient to a part of one shared parameter. Runs once a parameter and pass."""

    def __init__(self, source: Tensor, part: Part, touched: Touched, view: Tensor | None) -> None:
        self.source, self.part, self.touched = source, part, touched
        self.stride = source.stride()
        self.place: tuple[tuple[int, ...], tuple[int, ...], int] | None = None
        if view is not None:
            start = int(view.storage_offset()) - int(source.storage_offset())
            self.place = (tuple(view.shape), view.stride(), start)

    def __call__(self, leaf: Tensor) -> None:
        grad = leaf.grad
        if grad is None:
            return
        leaf.grad = None
        if torch.is_grad_enabled():  # a second derivative is asked for
            grad = grad.detach()
        total = self.source.grad
        if total is None:
            total = self.source.grad = torch.zeros_like(self.source, requires_grad=False)
        if self.place is not None and total.stride() == self.stride:
            total.as_strided(*self.place).add_(grad)  # a third of the time of indexing
        else:
            add_to(total, self.part, grad)
        self.touched.add(self.part)


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
