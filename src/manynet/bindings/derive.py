"""Values that several tensors of a member read through: computed once for all of them.

A network that generates all weights of another is run once a step, not once a tensor. So an
operation that says `once` and that several bindings have as an operand becomes a tensor of the
member by itself, which the others read as if it were shared.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manynet.bindings.axes import Axis
from manynet.bindings.operation import Operation, walk
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Block", "derived"]


@dataclass(frozen=True)
class Block(Operation, kind="block", sparse=True):
    """Some entries of what another binding gives, one after another, in the weight's shape.

    Args:
        source: a tensor of any shape, read row by row.
        start: the first entry.
        shape: the weight's.
    """

    source: Binding
    start: int
    shape: tuple[int, ...]

    def value(self, arch: Arch, source: Tensor) -> Tensor:
        """Return the weight, a view of the source."""
        size = torch.Size(self.shape).numel()
        if self.start + size > source.numel():
            raise InputError(
                f"entries {self.start:,} to {self.start + size:,} are read of {source.numel():,}; "
                "make the source longer"
            )
        return source.flatten()[self.start : self.start + size].view(self.shape)


def derived(bindings: Mapping[str, Binding]) -> tuple[dict[str, Binding], dict[str, Binding]]:
    """Return the values to compute once by new names, and the bindings, which read those instead.

    Args:
        bindings: of a family, by tensor.
    """
    counts: Counter[Binding] = Counter()
    for binding in bindings.values():
        inside = {b for b in walk(binding) if isinstance(b, Operation) and b.once}
        counts.update(inside)
    several = [binding for binding, count in counts.items() if count > 1]
    names = {binding: f"derived.{number}" for number, binding in enumerate(several)}
    if not names:
        return {}, dict(bindings)
    changed = {tensor: _renamed(binding, names) for tensor, binding in bindings.items()}
    return {name: binding for binding, name in names.items()}, changed


def _renamed(binding: Binding, names: Mapping[Binding, str]) -> Binding:
    """Return a binding in which the values of `names` are read as tensors."""
    if binding in names:
        shape: tuple[int, ...] = getattr(binding, "shape")  # noqa: B009 # what is `once` has it
        return Slice(names[binding], tuple((Axis("", size, "whole"),) for size in shape))
    if not any(inner in names for inner in walk(binding)):
        return binding
    new: dict[str, Any] = {}
    for field in dataclasses.fields(binding):  # type: ignore[arg-type] # operations are
        value = getattr(binding, field.name)
        if not field.init or field.name.startswith("_"):
            continue
        if isinstance(value, tuple) and value and all(hasattr(item, "to_json") for item in value):
            new[field.name] = tuple(_renamed(item, names) for item in value)
        elif hasattr(value, "to_json"):
            new[field.name] = _renamed(value, names)
        else:
            new[field.name] = value
    return type(binding)(**new)
