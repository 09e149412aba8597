"""Turns the nodes of a finished run into the lasting axes: names them, shares them, lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from manynet.bindings.axes import Axis, Concat, Dim
from manynet.elastic._axes import Extent, Node, flatten, is_frozen, leaves, size_of
from manynet.elastic._origins import Attribute
from manynet.elastic._run import Run
from manynet.elastic.adapters import adapter_of

__all__ = ["Resolver"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FOLLOWERS = {"in_channels", "in_features", "input_size", "embed_dim", "kdim", "vdim"}
"""Attributes of PyTorch's layers that only repeat the width of what comes in."""


class Resolver:
    """The lasting form of what one run found.

    Args:
        run: a finished run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.tensors: dict[str, torch.Tensor] = {
            **dict(run.model.named_parameters(remove_duplicate=False)),
            **dict(run.model.named_buffers(remove_duplicate=False)),
        }
        self._names: dict[Node, str] = {}
        self._taken: set[str] = set()
        self._factors: dict[Node, Axis | Concat] = {}
        self._parameters = self._in_order_of_use()
        self._name_all()

    def _in_order_of_use(self) -> list[tuple[str, nn.Parameter]]:
        named = list(self.run.model.named_parameters())
        order = self.run.record.order()
        return sorted(named, key=lambda item: order.get(id(item[1]), len(order)))

    def _name_all(self) -> None:
        """Name every axis, best names first: what brings it forth, what sizes it, where it is."""
        for layer in self.run.experts:
            self._name(layer.node, layer.path, layer.name)
        produced = [
            (name.rpartition(".")[0], dim)
            for name, parameter in self._parameters
            if (dim := self._produced(name, parameter)) is not None
        ]
        for path, dim in produced:
            if len(flat := flatten(dim)) == 1:
                self._name(flat[0], path, "width")
        for attribute, dim in self.run.origins.attributes.items():
            if len(flat := flatten(dim)) == 1 and attribute.name not in _FOLLOWERS:
                self._name(flat[0], attribute.path, attribute.name)
        for path, dim in produced:
            for leaf in leaves(dim):
                self._name(leaf, path, "width")
        for name, tensor in self.tensors.items():
            for axis, dim in enumerate(self.run.record.dims(tensor)):
                for leaf in leaves(dim):
                    self._name(leaf, name, str(axis))

    def _produced(self, name: str, parameter: nn.Parameter) -> Extent | None:
        """Return the dimension that a weight brings forth, or None where it only follows."""
        dims = self.run.record.dims(parameter)
        path, _, tensor = name.rpartition(".")
        module = self.run.model.get_submodule(path)
        own = tensor == "weight" or ("weight" in tensor and adapter_of(module) is None)
        if len(dims) < 2 or not own:
            return None
        if isinstance(module, nn.Embedding):
            return dims[1]
        if isinstance(module, _TRANSPOSED):
            groups = flatten(dims[0])[0:1] if module.groups > 1 else ()
            return (*groups, *dims[1])
        return dims[0]

    def _name(self, node: Node, path: str, role: str) -> None:
        if node.parts is not None or node.reason is not None or node in self._names:
            return
        base = f"{path}.{role}" if path else role
        name, number = base, 2
        while name in self._taken:
            name, number = f"{base}{number}", number + 1
        self._taken.add(name)
        self._names[node] = name

    def dim(self, dim: Extent) -> Dim:
        """Return the lasting form of an extent; the same node always gives the same object."""
        return tuple(map(self._factor, flatten(dim)))

    def _factor(self, node: Node) -> Axis | Concat:
        found = self._factors.get(node)
        if found is None:
            found = self._factors[node] = self._new_factor(node)
        return found

    def _new_factor(self, node: Node) -> Axis | Concat:
        if is_frozen((node,)):
            reason = next((leaf.reason for leaf in leaves((node,))), "single positions")
            return Axis(f"frozen.{len(self._factors)}", node.size, reason)
        if node.parts is not None:
            return Concat(tuple(map(self.dim, node.parts)))
        return Axis(self._names.get(node, f"inner.{len(self._factors)}"), node.size)

    def axes(self) -> tuple[Axis, ...]:
        """Return the elastic axes that occur in a parameter, in order of first use."""
        found: dict[Axis, None] = {}
        for _, parameter in self._parameters:
            for dim in self.run.record.dims(parameter):
                for leaf in leaves(dim):
                    factor = self._factor(leaf)
                    if isinstance(factor, Axis) and factor.frozen is None:
                        found[factor] = None
        return tuple(found)

    def attributes(self) -> Mapping[Attribute, Dim]:
        """Return the attributes that follow an elastic axis."""
        return {
            attribute: self.dim(dim)
            for attribute, dim in self.run.origins.attributes.items()
            if not is_frozen(dim) and size_of(dim) == self._value(attribute)
        }

    def unequal(self) -> Mapping[Axis, frozenset[int]]:
        """Return the lengths that an axis must not have, or the code would take another way.

        The code has found an attribute of that length to differ from one that no member changes.
        """
        followed = self.attributes()
        found: dict[Axis, set[int]] = {}
        for left, right in self.run.origins.unequal:
            for own, other in ((left, right), (right, left)):
                dim = followed.get(own, ())
                if len(dim) == 1 and isinstance(dim[0], Axis) and other not in followed:
                    found.setdefault(dim[0], set()).add(self._value(other))
        for layer in self.run.experts:  # a token goes to as many different ones
            axis = self._factor(layer.node)
            if isinstance(axis, Axis):
                found.setdefault(axis, set()).update(range(layer.picked))
        return {axis: frozenset(sizes) for axis, sizes in found.items()}

    def experts(self) -> tuple[Axis, ...]:
        """Return the axes that count the experts of a layer."""
        found = (self._factor(layer.node) for layer in self.run.experts)
        return tuple(axis for axis in found if isinstance(axis, Axis) and axis.frozen is None)

    def _value(self, attribute: Attribute) -> int:
        value = getattr(self.run.model.get_submodule(attribute.path), attribute.name)
        return int(value if attribute.index is None else value[attribute.index])

    def frozen(self) -> Iterator[tuple[str, int, str]]:
        """Yield name, dimension and reason of what stays whole in the parameters."""
        for name, parameter in self._parameters:
            for axis, dim in enumerate(self.run.record.dims(parameter)):
                if size_of(dim) > 1 and is_frozen(dim):
                    reason = next(leaf.reason for leaf in leaves(dim))
                    yield name, axis, reason or ""
                elif len(flat := flatten(dim)) > 1 and is_frozen(flat[-1:]):
                    reason = next(leaf.reason for leaf in leaves(flat[-1:]))
                    if reason == "space":  # nobody takes the pixels of a flattened map for a choice
                        continue
                    yield name, axis, f"groups keep their {flat[-1].size} positions: {reason}"
