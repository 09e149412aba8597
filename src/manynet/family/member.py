"""A built member: its module, and what keeps it in step with the shared weights."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from manynet.bindings.leaf import Leaf, Touched
from manynet.family._writes import Writes

__all__ = ["Member", "caches_tensors"]

Buffers = list[tuple[nn.Module, str, Tensor]]


class Member:
    """A built member: its module, and what keeps its tensors up to date.

    Args:
        module: the member.
        parts: its modules, by the path of each in the whole network.
        leaves: its bound tensors.
        touched: tells when gradients have arrived, so that weights may be about to change.
    """

    def __init__(
        self,
        module: nn.Module,
        parts: Mapping[str, nn.Module],
        leaves: Sequence[Leaf],
        touched: Touched,
    ) -> None:
        self.module, self.parts = module, parts
        own = [leaf for leaf in leaves if leaf.pull is not None]
        self.fresh = Freshness(own, touched) if own else None
        self.bytes = sum(leaf.tensor.nbytes for leaf in own)
        self.in_place = any(leaf.pull is None and leaf.view is not None for leaf in leaves)
        """Whether some weights are rows of shared ones that lie apart."""
        self.recent = True
        self.buffers: Buffers = [
            (part, name, tensor)
            for part in parts.values()
            for name, tensor in part._buffers.items()
            if tensor is not None
        ]
        if self.fresh is not None:
            module.register_forward_pre_hook(self.fresh)
        forget = Forget(parts.values())
        if forget.places:
            module.register_forward_pre_hook(forget)


class Forget:
    """Empties what forward passes have cached in dictionaries: the weights may have changed since.

    It is the forward pre-hook of a member whose modules hold empty dictionaries. Those that later
    hold tensors are caches, of a table of biases for example. It does not keep the modules alive:
    a member that nobody holds any more is to go at once, with its weights.
    """

    def __init__(self, parts: Iterable[nn.Module]) -> None:
        self.places = [
            (weakref.ref(part), name)
            for part in parts
            for name, value in vars(part).items()
            if type(value) is dict and not value and name not in _OWN
        ]

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if not torch.compiler.is_compiling():
            for place, name in self.places:
                part = place()
                if part is not None and caches_tensors(part.__dict__.get(name)):
                    part.__dict__[name] = {}

    def __deepcopy__(self, memo: object) -> _Unbound:
        return _Unbound()

    def __reduce__(self) -> tuple[type[_Unbound], tuple[()]]:
        return _Unbound, ()


_OWN = frozenset(vars(nn.Module()))
"""The attributes that every module has."""


def caches_tensors(value: object) -> bool:
    """Whether an attribute of a module is a plain dictionary of tensors only, and not empty."""
    return (
        type(value) is dict
        and bool(value)
        and all(isinstance(item, Tensor) for item in value.values())
    )


class Freshness:
    """Brings the tensors of one member up to date when a source of theirs has changed.

    It is also the member's forward pre-hook, so that a member someone holds on to is never run
    with old weights. Under `torch.compile` the hook is traced to nothing; `Family.at` looks at
    `generation` and `version` then, which tell of every change that reaches all weights.
    """

    def __init__(self, leaves: Sequence[Leaf], touched: Touched) -> None:
        self.touched = touched
        sources = {id(source): source for leaf in leaves for source in leaf.sources}
        self.sources = tuple(sources.values())
        # a step moves parameters and leaves buffers, such as an encoding, as they are
        self.first = next((s for s in self.sources if s.requires_grad), self.sources[0])
        blocks = [leaf for leaf in leaves if leaf.view is not None]
        self._views = [leaf.view for leaf in blocks if leaf.view is not None]
        # a detached tensor shares the version counter, `data` does not
        self._targets = [_shaped(leaf.tensor.detach(), leaf.view) for leaf in blocks]
        self._silent = [_shaped(leaf.tensor.data, leaf.view) for leaf in blocks]
        self._writes = Writes(self._views, self._silent, touched)
        self._others = [leaf for leaf in leaves if leaf.view is None]
        self._note()

    def _note(self) -> None:
        self.versions = [source._version for source in self.sources]
        self.version = self.first._version
        self.generation = self.touched.generation

    def refresh(self) -> None:
        changed = [source._version for source in self.sources] != self.versions
        if not changed and self.generation == self.touched.generation:
            return
        track = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        with torch.no_grad():
            if self._views and (changed or self._writes.possible()):
                # where a source only may have changed, autograd is not told of the write
                torch._foreach_copy_(self._targets if changed else self._silent, self._views)
                self._writes.seen()
            for leaf in self._others:
                assert leaf.pull is not None
                leaf.pull(leaf.tensor if changed else leaf.tensor.data, track)
        self._note()

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if not torch.compiler.is_compiling():
            if self.touched.waiting or self.touched.onward:
                self.touched.drop()
            self.refresh()

    def __deepcopy__(self, memo: object) -> _Unbound:
        return _Unbound()

    def __reduce__(self) -> tuple[type[_Unbound], tuple[()]]:
        return _Unbound, ()


def _shaped(tensor: Tensor, like: Tensor | None) -> Tensor:
    return tensor if like is None or tensor.shape == like.shape else tensor.view(like.shape)


class _Unbound:
    """What the hook becomes in a copy of a member, which is bound to nothing."""

    def __call__(self, module: nn.Module, inputs: object) -> None:
        return None
