"""Copies of a module tree that hold other tensors: what a member is, apart from its weights.

A deep copy walks every object anew. A `Skeleton` looks once at what the modules hold; each build
then copies what may change and shares what cannot.
"""

from __future__ import annotations

import copy
import inspect
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["Skeleton"]

_ATOMS = (
    *(int, float, complex, str, bytes, bool, type(None)),
    *(type, types.FunctionType, types.BuiltinFunctionType),
    *(torch.dtype, torch.device, torch.memory_format, torch.layout),
)


@dataclass
class _Node:
    path: str
    module: nn.Module
    opaque: bool
    atoms: dict[str, Any] = field(default_factory=dict)
    containers: list[tuple[str, Callable[[Any], Any]]] = field(default_factory=list)
    deep: list[str] = field(default_factory=list)
    parameters: list[tuple[str, str | None]] = field(default_factory=list)
    buffers: list[tuple[str, str | None]] = field(default_factory=list)
    children: list[tuple[str, str | None]] = field(default_factory=list)


class Skeleton:
    """The module tree of `model`, to be built again with other tensors, as often as one likes.

    Args:
        model: the tree; its own tensors are not copied and not changed.
        caches: paths and attributes of dictionaries that copies get empty.
    """

    def __init__(self, model: nn.Module, caches: Collection[tuple[str, str]] = ()) -> None:
        self._caches = frozenset(caches)
        self.names = _names_of_tensors(model)
        own = [*model.named_parameters(), *model.named_buffers()]
        self.tensors: dict[str, Tensor] = dict(own)
        self._paths = {id(module): path for path, module in model.named_modules()}
        self.nodes = {path: self._look(path, module) for path, module in model.named_modules()}

    def _look(self, path: str, module: nn.Module) -> _Node:
        node = _Node(path, module, opaque=hasattr(module, "__deepcopy__"))
        for key, value in module.__dict__.items():
            match key:
                case "_parameters":
                    node.parameters = [(name, self.names.get(id(t))) for name, t in value.items()]
                case "_buffers":
                    node.buffers = [(name, self.names.get(id(t))) for name, t in value.items()]
                case "_modules":
                    node.children = [(name, self._paths.get(id(m))) for name, m in value.items()]
                case _ if (path, key) in self._caches:
                    node.containers.append((key, _empty))
                case _ if _is_atom(value):
                    node.atoms[key] = value
                case _ if _is_flat(value):
                    node.containers.append((key, type(value)))
                case _:
                    node.deep.append(key)
        return node

    def build(
        self,
        tensors: Mapping[str, Tensor],
        *,
        dropped: Collection[str] = (),
        closed: Collection[str] = (),
        training: bool | None = None,
    ) -> tuple[nn.Module, dict[str, nn.Module]]:
        """Return a copy of the tree that holds `tensors`, and its modules by their first path.

        Args:
            tensors: what to put in the place of each parameter and buffer, by its first name.
            dropped: paths of modules to leave out. A `Sequential` closes the gap; anywhere else an
                `Identity` takes the place, or a graph that returns its first argument of several.
            closed: paths of lists that close the gap too.
            training: the mode of every module; the tree's own where None.
        """
        build = _Build(self, tensors, frozenset(dropped), frozenset(closed), training)
        root = build.module("")
        build.finish()
        return root, build.built


class _Build:
    """One build: what has been copied so far."""

    def __init__(
        self,
        skeleton: Skeleton,
        tensors: Mapping[str, Tensor],
        dropped: frozenset[str],
        closed: frozenset[str],
        training: bool | None,
    ) -> None:
        self.nodes = skeleton.nodes
        self.tensors = tensors
        self.dropped = dropped
        self.closed = closed
        self.training = training
        self.built: dict[str, nn.Module] = {}
        self.memo: dict[int, Any] = {
            key: tensors[name] for key, name in skeleton.names.items() if name in tensors
        }

    def module(self, path: str) -> nn.Module:
        node = self.nodes[path]
        seen: nn.Module | None = self.memo.get(id(node.module))
        if seen is not None:
            return seen
        if node.opaque:
            copied = _opaque_copy(node, self.memo, self.training)
            for inner, part in copied.named_modules():
                self.built[f"{path}.{inner}" if path and inner else path or inner] = part
            return copied
        new = node.module.__class__.__new__(node.module.__class__)
        self.memo[id(node.module)] = new
        self.built[path] = new
        state, source, tensors = new.__dict__, node.module.__dict__, self.tensors
        state.update(node.atoms)
        for key, kind in node.containers:
            state[key] = kind(source[key])
        state["_parameters"] = {n: None if t is None else tensors[t] for n, t in node.parameters}
        state["_buffers"] = {n: None if t is None else tensors[t] for n, t in node.buffers}
        state["_modules"] = self.children(node)
        if self.training is not None:
            state["training"] = self.training
        return new

    def children(self, node: _Node) -> dict[str, nn.Module | None]:
        children: dict[str, nn.Module | None] = {}
        for name, child in node.children:
            if child is None:
                children[name] = None
            elif child not in self.dropped:
                children[name] = self.module(child)
            elif not closes_gaps(node.module) and node.path not in self.closed:
                children[name] = _stand_in(self.nodes[child].module)
        if len(children) < len(node.children) and all(name.isdigit() for name in children):
            return {str(number): child for number, child in enumerate(children.values())}
        return children

    def finish(self) -> None:
        """Copy what holds references to other objects, now that every module has its copy."""
        for path, module in self.built.items():
            node = self.nodes[path]
            for key in node.deep:
                module.__dict__[key] = copy.deepcopy(node.module.__dict__[key], self.memo)


def closes_gaps(container: nn.Module) -> bool:
    """Whether a child of `container` can simply be absent: it runs whatever children it has."""
    return type(container).forward is nn.Sequential.forward


def _stand_in(block: nn.Module) -> nn.Module:
    """Return a module of PyTorch's own that takes what `block` takes, and returns the first."""
    if len(inspect.signature(block.forward).parameters) == 1:
        return nn.Identity()
    graph = fx.Graph()
    first = graph.placeholder("input")
    graph.placeholder("*args")
    graph.placeholder("**kwargs")
    graph.output(first)
    return fx.GraphModule({}, graph, "Skipped")


def _empty(_: object) -> dict[Any, Any]:
    return {}


def _names_of_tensors(model: nn.Module) -> dict[int, str]:
    names: dict[int, str] = {}
    for name, tensor in [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]:
        names.setdefault(id(tensor), name)
    return names


def _opaque_copy(node: _Node, memo: dict[int, Any], training: bool | None) -> nn.Module:
    new: nn.Module = copy.deepcopy(node.module, memo)
    return new if training is None else new.train(training)


def _is_atom(value: object) -> bool:
    if isinstance(value, tuple | frozenset) and type(value) in (tuple, frozenset, torch.Size):
        return all(_is_atom(item) for item in value)
    return isinstance(value, _ATOMS)


def _is_flat(value: object) -> bool:
    if type(value) in (list, set):
        return all(_is_atom(item) for item in value)  # type: ignore[attr-defined]
    if type(value).__name__ in ("dict", "OrderedDict"):
        assert isinstance(value, dict)
        return all(_is_atom(key) and _is_atom(item) for key, item in value.items())
    return False
