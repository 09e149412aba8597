"""How a tensor of a member stays in step with the shared tensors that it is read from.

*Pull*: the value is written into the member's own storage, in place, when a source has changed.
*Push*: a hook sees to it that the gradient of the member's parameter reaches the shared ones.
The forward pass stays the user's own, and a parameter's storage never moves.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from manynet.bindings.lattice import lattice_of
from manynet.bindings.operation import full_precision
from manynet.bindings.protocol import Computed, Part, Reading
from manynet.bindings.protocol import part_of as read
from manynet.bindings.push import Push, Touched, wrapped

__all__ = ["Derived", "Leaf", "Touched", "bind", "copied", "read"]


SHARED_ROWS_BYTES = 1 << 18
"""A matrix of less than this is copied where its rows lie apart: in a product with one or two
vectors, as when text is generated, a core's cache would hold less of it."""


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
    """Where the value is a view of a shared tensor and not one piece of it: that view, to copy from
    without a call, or `tensor` itself. It may have more dimensions than that, see `Lattice`."""


def bind(
    reading: Reading,
    shared: Mapping[str, Tensor],
    touched: Touched,
    derived: Mapping[str, Derived] | None = None,
    *,
    by_rows: bool = False,
) -> Leaf:
    """Return a tensor that reads `shared` as `reading` says, with its value up to date.

    A parameter gets a hook that carries its gradient to the shared parameters. A block that lies
    in one piece shares storage; anything else has a storage of its own, since a strided weight is
    copied by most of PyTorch's kernels in every call.

    Args:
        reading: how the tensor is read.
        shared: the shared tensors, by name.
        touched: is told when a gradient has arrived.
        derived: values in between, by name.
        by_rows: whether only matrix products and look-ups of rows take the tensor, and no gradient
            is wanted. They run about as fast on rows that lie apart; a large block shares storage.
    """
    if derived and not isinstance(reading, Computed) and reading.source in derived:
        part = reading
        reading = Computed((part.source,), lambda tensors: read(tensors[0], part), (part,))
    if isinstance(reading, Computed):
        return _bind_computed(reading, shared, touched, derived or {})
    source = shared[reading.source]
    if reading.whole:
        return Leaf(source)
    lattice = lattice_of(reading.index, source.shape)
    view = None if lattice is None else lattice.view(source.detach())
    if view is not None and (view.is_contiguous() or (by_rows and _has_long_rows(view))):
        leaf = Leaf(_like(source, view), view=None if view.is_contiguous() else view)
    else:
        value = read(source.detach(), reading)
        own = value.contiguous() if reading.block is None else copied(value)
        leaf = Leaf(_like(source, own), (source,), _CopyPart(source, reading), view)
    if leaf.tensor.requires_grad:
        push = Push(source, reading, touched, lattice, leaf.tensor.nbytes)
        leaf.tensor.register_post_accumulate_grad_hook(push)
    return leaf


def _has_long_rows(view: Tensor) -> bool:
    """Whether `view` is a large matrix each of whose rows lies in one piece."""
    return view.dim() == 2 and view.stride(1) == 1 and view.nbytes >= SHARED_ROWS_BYTES


def _like(source: Tensor, value: Tensor) -> Tensor:
    if isinstance(source, nn.Parameter):
        return nn.Parameter(value, requires_grad=source.requires_grad)
    return value


class _CopyPart:
    def __init__(self, source: Tensor, part: Part) -> None:
        self.source, self.part = source, part

    def __call__(self, target: Tensor, track: bool) -> None:
        target.copy_(read(self.source, self.part))


def _bind_computed(
    reading: Computed,
    shared: Mapping[str, Tensor],
    touched: Touched,
    derived: Mapping[str, Derived],
) -> Leaf:
    sources = tuple(derived[n].tensor if n in derived else shared[n] for n in reading.sources)
    with torch.no_grad(), full_precision(sources[0].device):
        value = reading.function(sources).detach()
    tensor = _computed_parameter(value, sources)
    through = [derived[name] for name in reading.sources if name in derived]
    if through and len(through) == len(sources):  # the shared tensors behind tell what matters
        reading = dataclasses.replace(reading, sparse=False)
    link = _Compute(sources, reading, touched, through)
    if tensor.requires_grad:
        tensor.register_post_accumulate_grad_hook(link.arrived)
    return Leaf(tensor, sources, link.pull)


def _computed_parameter(value: Tensor, sources: Sequence[Tensor]) -> nn.Parameter:
    return nn.Parameter(
        value.clone(memory_format=torch.contiguous_format),
        requires_grad=any(source.requires_grad for source in sources),
    )


class Derived:
    """A value that several leaves of a member read, and how its gradient goes on from it.

    Args:
        reading: how the value is computed from shared tensors.
        shared: those tensors, by name.
        touched: is told when a gradient has arrived, and sends it on when the pass is over.
    """

    def __init__(self, reading: Reading, shared: Mapping[str, Tensor], touched: Touched) -> None:
        assert isinstance(reading, Computed)  # only what computes is worth deriving
        sources = tuple(shared[name] for name in reading.sources)
        self.touched = touched
        self.link = _Compute(sources, reading, touched)
        value = self.link.traced(torch.is_grad_enabled())
        self.tensor = _computed_parameter(value, sources)
        self.leaf = Leaf(self.tensor, sources, self.link.pull)

    def arrived(self) -> None:
        """Note that a leaf has added to the gradient; runs within the backward pass."""
        self.touched.send_on(self)

    def send_on(self) -> None:
        """Send the gradient to the shared tensors."""
        self.link.push(self.tensor)

    def drop(self) -> None:
        """Forget the gradient of a backward pass that failed."""
        self.tensor.grad = None


@dataclass(frozen=True, eq=False)
class _Late:
    """A leaf whose gradient is sent on when the backward pass is over."""

    link: _Compute
    leaf: Tensor

    def send_on(self) -> None:
        self.link.push(self.leaf)

    def drop(self) -> None:
        self.leaf.grad = None


class _Compute:
    """Builds a computed value once after each change, and sends its gradient back through it.

    The function takes stand-ins that share the sources' storage, so that its gradients are added
    to the shared ones without a trace in the graphs that others make of the sources.
    """

    def __init__(
        self,
        sources: tuple[Tensor, ...],
        reading: Computed,
        touched: Touched,
        through: Sequence[Derived] = (),
    ) -> None:
        self.sources, self.reading, self.touched = sources, reading, touched
        self.through = through
        self.stand_ins = [s.detach().requires_grad_(s.requires_grad) for s in sources]
        self.trained = [n for n, source in enumerate(sources) if source.requires_grad]
        self.graph: GradientEdge | Tensor | None = None
        """Where gradients enter; the value itself is given up, the member's leaf has it."""
        self.like = torch.empty(0)
        self.versions: list[int] = []
        """Of the sources, when the graph was built."""

    def value(self) -> Tensor:
        with full_precision(self.sources[0].device):
            return self.reading.function(self.stand_ins)

    def pull(self, target: Tensor, track: bool) -> None:
        target.copy_(self.traced(track))

    def traced(self, track: bool) -> Tensor:
        """Return the value without its graph, which is kept for the gradient if `track`."""
        self.graph = None
        track = track and not self.reading.again
        with torch.set_grad_enabled(track):
            value = self.value()
        self._keep(value if track and value.requires_grad else None)
        return value.detach()

    def arrived(self, leaf: Tensor) -> None:
        """Send a gradient on; in several processes not before all have averaged it."""
        if wrapped():
            self.touched.send_on(_Late(self, leaf))
        else:
            self.push(leaf)

    def push(self, leaf: Tensor) -> None:
        grad, leaf.grad = leaf.grad, None
        if grad is None:
            return
        reached = set()
        storages = _Storages(grad)
        for source, own in zip(self.trained, self.gradients(grad), strict=True):
            if own is not None:
                reached.add(self.reading.sources[source])
                shared = self.sources[source]
                if shared.grad is None:
                    shared.grad = storages.own(own)
                else:
                    shared.grad.add_(own)
        for derived in self.through:
            derived.arrived()
        if self.reading.sparse:
            self.touched.add_computed(self)
        else:
            for part in self.reading.parts:
                if part.source in reached:  # an operand may be read and yet not used
                    self.touched.add(part)

    def _keep(self, value: Tensor | None) -> None:
        self.versions = [source._version for source in self.sources]
        self.graph = value
        if value is not None:
            self.like = torch.empty_like(value, device="meta")
            if value.grad_fn is not None:
                self.graph = get_gradient_edge(value)

    def _built(self) -> GradientEdge | Tensor:
        """Return the graph of the value, built anew only where the last one is gone."""
        if self.graph is None:
            with torch.enable_grad():
                self._keep(self.value())
        assert self.graph is not None
        return self.graph

    def gradients(self, grad: Tensor) -> tuple[Tensor | None, ...]:
        graph = self._built()
        inputs = [self.stand_ins[n] for n in self.trained]
        found = torch.autograd.grad(graph, inputs, grad, retain_graph=True, allow_unused=True)
        if self.reading.again:
            self.graph = None
        return found

    def reached(self) -> dict[str, Tensor]:
        """Return which entries of each source a gradient can reach now: those that matter.

        A gradient of random numbers is zero where the function's derivative is.
        """
        if self.graph is not None and self.versions != [s._version for s in self.sources]:
            self.graph = None
        self._built()
        device = self.sources[0].device
        generator = torch.Generator(device).manual_seed(0)
        like = self.like
        probe = torch.rand(like.shape, generator=generator, device=device, dtype=like.dtype)
        found = zip(self.trained, self.gradients(probe + 0.5), strict=True)
        return {self.reading.sources[n]: grad != 0 for n, grad in found if grad is not None}


class _Storages:
    """Gives each shared gradient memory of its own, and copies only what another one has too.

    The gradient that arrived is nobody's any more, so that where the binding passes it on as it is
    it need not be copied; in several processes it may be memory that they exchange.
    """

    def __init__(self, arrived: Tensor) -> None:
        self.taken = {_storage(arrived)} if wrapped() else set()

    def own(self, grad: Tensor) -> Tensor:
        """Return `grad`, or a copy where its memory is taken, larger, or in another order."""
        storage = _storage(grad)
        free = storage not in self.taken and grad.untyped_storage().nbytes() == grad.nbytes
        if not (free and grad.is_contiguous()):
            return grad.clone(memory_format=torch.contiguous_format)
        self.taken.add(storage)
        return grad


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
