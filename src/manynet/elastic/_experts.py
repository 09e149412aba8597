"""How many experts a layer holds, as an axis: proposed by numbers and shapes, then tried.

A router ranks the experts and hands their numbers on as values. No axis can be followed through
values, so the trace freezes all that they touch. But a module that says how many experts it has
holds weights with a dimension as long, and so does the router beside it: these are taken for one
axis, and it counts only if the outputs of the network stay the same when the experts change places.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from manynet.elastic._axes import Extent, Node, flatten, size_of
from manynet.elastic._origins import Attribute, Origins
from manynet.elastic._record import Record

__all__ = ["Experts", "propose"]

_COUNTS = re.compile(r"(num|n|number_of)_(\w+_)?experts|experts_count")
_PICKED = re.compile(r"(\w+_)?(top_?k|k|num_experts_per_tok(en)?|experts_per_token)")
_REASONS = {
    "ranked",
    "looked up by number",
    "experts",
    "one position is picked by its number",
    "its values are looked up or counted",
    "its values decide what the code does",
    "unbound into a fixed number",
}
"""Why the trace freezes what a router ranks and its numbers pick."""


@dataclass(frozen=True)
class Experts:
    """The experts of one layer.

    Args:
        path: the module that says how many there are.
        name: its attribute.
        node: their axis.
        picked: how many a token goes to: there must be as many.
    """

    path: str
    name: str
    node: Node
    picked: int


def propose(model: nn.Module, record: Record, origins: Origins) -> tuple[Experts, ...]:
    """Make the experts of each layer one axis, in its weights and its router's.

    Args:
        model: the copy that has run.
        record: the axes of its tensors, changed in place.
        origins: the axes of its attributes, changed in place.
    """
    found = []
    for path, module in model.named_modules():
        own = [p.shape[0] for p in module._parameters.values() if p is not None and p.dim() > 2]
        name, count = next(((n, c) for n, c in _counts(module) if c > 1 and c in own), ("", 0))
        if not name:
            continue
        block = model.get_submodule(path.rpartition(".")[0])
        picked = [value for part in block.modules() for value in _picked(part, count)]
        places = [place for part in block.modules() for place in _places(part, record, count)]
        if not picked or not any(tensor.dim() < 3 for tensor, _ in places):  # there is no router
            continue
        node = Node(count)
        for tensor, axis in places:
            record.dims(tensor)[axis] = (node,)
        for inner, part in block.named_modules(prefix=path.rpartition(".")[0]):
            for attribute, value in _counts(part):
                if value == count:
                    origins.attributes[Attribute(inner, attribute)] = (node,)
        found.append(Experts(path, name, node, max(picked)))
    return tuple(found)


def _counts(module: nn.Module) -> Iterator[tuple[str, int]]:
    for name, value in vars(module).items():
        if isinstance(value, int) and not isinstance(value, bool) and _COUNTS.fullmatch(name):
            yield name, int(value)


def _picked(module: nn.Module, count: int) -> Iterator[int]:
    for name, value in vars(module).items():
        fits = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= count
        if fits and _PICKED.fullmatch(name):
            yield int(value)


def _places(module: nn.Module, record: Record, count: int) -> Iterator[tuple[Tensor, int]]:
    """Yield the dimensions of a module's own tensors along which the experts lie."""
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is None or not record.knows(tensor):
            continue
        axes = [i for i, dim in enumerate(record.dims(tensor)) if _of_experts(dim, count)]
        if axes:  # in weights of several dimensions the experts come first
            yield tensor, axes[0]


def _of_experts(dim: Extent, count: int) -> bool:
    flat = flatten(dim)
    return size_of(flat) == count and len(flat) == 1 and flat[0].reason in _REASONS
