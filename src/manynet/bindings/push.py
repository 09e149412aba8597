"""Gradients of members on their way to the shared ones.

A hook on each of a member's parameters only notes that a gradient has arrived. When the backward
pass is over, or enough has gathered, all of them are added to the shared gradients in one call.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, distributed
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from manynet.bindings.axes import Index
from manynet.bindings.lattice import Lattice
from manynet.bindings.protocol import Part

__all__ = ["Push", "Touched", "wrapped"]

GATHERED_BYTES = 1 << 19
"""How much may wait. What has just been computed is still in the processor's cache when it is
added, and its memory serves the next gradients; yet one call adds many small ones."""

_pass: Callable[[], int] = torch._C._current_graph_task_id


class Reaches(Protocol):
    """A function of shared tensors that can say which of their entries matter to it."""

    def reached(self) -> dict[str, Tensor]:
        """Return a mask for each tensor, by name."""
        ...


class Onward(Protocol):
    """Something in between, whose gradient has to go on to shared tensors."""

    def send_on(self) -> None:
        """Send the gradient on."""
        ...

    def drop(self) -> None:
        """Forget the gradient."""
        ...


class Touched:
    """What gradients have reached, and those that wait until their backward pass is over.

    `reached` is what they have reached since the last step of a guarded optimizer. `generation`
    counts gradients and `steps`, those of every optimizer: after one, shared weights may have
    changed in a way that PyTorch's version counters miss, as they do with fused optimizers.
    """

    def __init__(self) -> None:
        self.steps = 0
        self.reached: dict[Part, None] = {}
        self.computed: dict[Reaches, None] = {}
        self.generation = 0
        self.waiting: list[tuple[Push, Tensor]] = []
        self.onward: dict[Onward, None] = {}
        self.bytes = 0
        self.finishing = False
        """Whether a pass is over and what it left is being sent on."""
        self.noted = -1
        """The last backward pass at whose end `settle` will run."""
        key = id(self)
        _all[key] = weakref.ref(self, lambda _: _all.pop(key, None))

    def add(self, part: Part) -> None:
        """Note that a gradient has reached `part`."""
        self.reached[part] = None
        self.generation += 1

    @property
    def parts(self) -> dict[str, set[Part]]:
        """The parts that gradients have reached, by the name of the shared tensor."""
        parts: dict[str, set[Part]] = {}
        for part in self.reached:
            parts.setdefault(part.source, set()).add(part)
        return parts

    def add_computed(self, link: Reaches) -> None:
        """Note that a gradient has gone back through `link`, to the entries that it reaches."""
        self.computed[link] = None
        self.generation += 1

    def masks(self) -> dict[str, Tensor]:
        """Return, for each tensor that was reached through a function, which of its entries."""
        masks: dict[str, Tensor] = {}
        for link in self.computed:
            for name, mask in link.reached().items():
                masks[name] = masks[name] | mask if name in masks else mask
        return masks

    def clear(self) -> None:
        """Begin a new step."""
        self.reached.clear()
        self.computed.clear()

    def settle_after(self, number: int) -> None:
        """See to it that nothing waits when the backward pass `number`, this one, is over."""
        self.noted = number
        # `DistributedDataParallel` averages at the end of the pass too, and must come first
        _when_over(lambda: _when_over(self.finish))

    def send_on(self, between: Onward) -> None:
        """See to it that a gradient goes on when this backward pass is over."""
        self.onward[between] = None
        if self.finishing:
            return
        number = _pass()
        if self.noted != number:
            self.settle_after(number)

    def finish(self) -> None:
        """Add what waits to the shared gradients, and send on what is in between."""
        self.settle()
        self.finishing = True
        try:
            while self.onward:  # what is sent on may reach something in between again
                onward, self.onward = self.onward, {}
                for between in onward:
                    between.send_on()
        finally:
            self.finishing = False

    def settle(self) -> None:
        """Add what waits to the shared gradients."""
        waiting, self.waiting, self.bytes = self.waiting, [], 0
        self.generation += 1
        places: dict[int, Tensor] = {}
        grads: list[Tensor] = []
        for push, leaf in waiting:
            grad = leaf.grad
            if grad is None:
                continue
            leaf.grad = None
            if grad.requires_grad:  # of a pass that keeps its graph; cheaper than `no_grad`
                grad = grad.detach()
            self.reached[push.part] = None
            total = push.source.grad
            if total is None:
                total = push.source.grad = torch.zeros_like(push.source, requires_grad=False)
            if push.lattice is None:
                push.scatter(total, grad)
                continue
            key = id(total)
            if key in places:  # two members of one pass: one after the other
                _add(places, grads)
            places[key] = push.place(total)
            grads.append(grad if push.shape is None else grad.reshape(push.shape))
        _add(places, grads)

    def drop(self) -> None:
        """Forget what a backward pass that failed has left behind."""
        if _pass() == -1:
            for _, leaf in self.waiting:
                leaf.grad = None
            for between in self.onward:
                between.drop()
            self.waiting, self.onward, self.bytes = [], {}, 0


_all: dict[int, weakref.ref[Touched]] = {}


def _stepped(optimizer: Optimizer, args: object, kwargs: object) -> None:
    """Note a step; whether it moved any of a family's weights, the family cannot know."""
    for known in tuple(_all.values()):  # another thread may make a family meanwhile
        touched = known()
        if touched is not None:
            touched.steps += 1
            touched.generation += 1


register_optimizer_step_post_hook(_stepped)


def _when_over(function: Callable[[], None]) -> None:
    torch.autograd.Variable._execution_engine.queue_callback(function)


def _add(places: dict[int, Tensor], grads: list[Tensor]) -> None:
    if grads:
        torch._foreach_add_(list(places.values()), grads)
        places.clear()
        grads.clear()


class _Places(dict[str, Tensor]):
    """Views of a shared gradient, kept with it so that they go when it goes.

    They are made of a detached tensor: a view keeps its base alive, and the gradient keeps them.
    """

    def __init__(self, total: Tensor) -> None:
        self.pointer, self.base = total.data_ptr(), total.detach()

    def __deepcopy__(self, memo: object) -> None:
        return None

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return OrderedDict, ()  # which `torch.load` trusts


class Push:
    """Carries the gradients of one leaf to a part of one shared parameter."""

    def __init__(
        self, source: Tensor, part: Part, touched: Touched, lattice: Lattice | None, size: int
    ) -> None:
        self.source, self.part, self.touched, self.lattice = source, part, touched, lattice
        self.shape = lattice.shape if lattice is not None and lattice.split else None
        self.key = repr(lattice)  # a string keeps its hash
        self.bytes = size

    def __call__(self, leaf: Tensor) -> None:
        """Note that the gradient of `leaf` has arrived; runs within the backward pass."""
        touched = self.touched
        touched.waiting.append((self, leaf))
        touched.bytes += self.bytes
        number = _pass()
        if touched.noted != number:
            touched.settle_after(number)
        if touched.bytes > GATHERED_BYTES and not wrapped():
            touched.settle()

    def place(self, total: Tensor) -> Tensor:
        """Return the view of the shared gradient that the leaf's is added to."""
        assert self.lattice is not None
        known = total.__dict__.get("_places")
        if type(known) is not _Places or known.pointer != total.data_ptr():
            known = total.__dict__["_places"] = _Places(total)
        place = known.get(self.key)
        if place is None:
            place = known[self.key] = self.lattice.view(known.base)
        return place

    @torch.no_grad()
    def scatter(self, total: Tensor, grad: Tensor) -> None:
        """Add `grad` to positions that no view can have."""
        index = self.part.index
        view = total[tuple(i if isinstance(i, slice) else slice(None) for i in index)]
        grid = _grid(view, index)
        view[grid] = view[grid] + grad  # a member never reads a position twice


def _grid(view: Tensor, index: tuple[Index, ...]) -> tuple[Tensor, ...]:
    ranges = [
        np.arange(n) if isinstance(i, slice) else i for i, n in zip(index, view.shape, strict=True)
    ]
    return tuple(torch.from_numpy(axis).to(view.device) for axis in np.ix_(*ranges))


def wrapped() -> bool:
    """Whether something may still want the gradients of the member itself."""
    return distributed.is_available() and distributed.is_initialized()
