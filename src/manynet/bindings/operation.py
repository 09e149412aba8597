"""`Operation`: a binding that computes its value from those of other bindings.

This is all there is to composition. An operation names its operands, which are bindings again, and
says how to compute with their values; `at` turns the tree of them into one function of shared
tensors. Any binding can be an operand of any other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manynet.bindings.axes import Axis, DimTable, Index
from manynet.bindings.kinds import decode, register
from manynet.bindings.pack import Integers
from manynet.bindings.protocol import Binding, Computed, Part, Reading, part_of
from manynet.space import Arch

__all__ = [
    "ByArch",
    "Operation",
    "evaluate",
    "full_precision",
    "narrow",
    "operand_values",
    "operands_of",
    "resolved",
    "setting",
    "walk",
]


@dataclass(frozen=True)
class ByArch:
    """A setting of a binding that the arch decides: the value of the `choice`."""

    choice: str


def setting(value: Any, arch: Arch) -> Any:
    """Return `value`, looked up in `arch` where it is a `ByArch`."""
    return arch[value.choice] if isinstance(value, ByArch) else value


def resolved(binding: Binding, arch: Arch) -> Binding:
    """Return what a binding that chooses by the arch reads through; another one as it is."""
    choose = getattr(binding, "chosen", None)
    return binding if choose is None else resolved(choose(arch), arch)


class Operation(Binding):
    """The base of bindings that compute.

    A subclass is a frozen dataclass. Its fields that hold bindings, or tuples of them, are the
    operands; the others are settings, made of JSON values and `ByArch`. Naming its `kind` lets
    families that use it be saved and loaded.

    Example:
        >>> @dataclass(frozen=True)
        ... class Product(Operation, kind="doc.product"):
        ...     left: Binding
        ...     right: Binding
        ...
        ...     def value(self, arch, left, right):
        ...         return left * right
    """

    kind: ClassVar[str]
    sparse: ClassVar[bool] = False
    """Whether some entries of an operand may not matter, so that steps must leave them alone."""
    again: ClassVar[bool] = False
    """Whether to compute the value again for its gradient, since what that takes is large to keep
    from the forward pass on, and quick to make."""
    once: ClassVar[bool] = False
    """Whether the value, of a `shape` that is a field, is computed once for all that read it."""

    def __init_subclass__(cls, *, kind: str | None = None, sparse: bool = False) -> None:
        super().__init_subclass__()
        cls.sparse = sparse
        if kind is not None:
            cls.kind = kind
            register(kind, cls.from_json)

    def value(self, arch: Arch, *args: Any, **kwargs: Any) -> Tensor:
        """Return the value, differentiable, given those of the operands in the fields' order.

        A field that holds a tuple of bindings gives a tuple of tensors, one without any None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it computes its value")

    def entry_bits(self, arch: Arch) -> int | None:
        """Return how many bits an entry of the value has where it stands for an integer."""
        return None

    def integers(self, arch: Arch, *args: Any, **kwargs: Any) -> Integers:
        """Return the integers of the value, where `entry_bits` says that there are some."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its integers are")

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return how many bits an extracted member needs for `value`."""
        return 8.0 * value.nbytes

    @property
    def reads(self) -> tuple[str, ...]:
        """What the operands read, each name once."""
        return tuple(dict.fromkeys(name for b in operands_of(self) for name in b.reads))

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return one function of shared tensors for the whole tree below this binding."""
        fields = _operand_fields(self).values()
        readings = [_each(field, lambda b: b.at(arch, sizes)) for field in fields]
        flat = [r for item in readings for r in (item if isinstance(item, tuple) else (item,))]
        below = [reading for reading in flat if reading is not None]
        names = tuple(dict.fromkeys(name for reading in below for name in sources_of(reading)))

        def compute(tensors: Sequence[Tensor]) -> Tensor:
            known = dict(zip(names, tensors, strict=True))
            values = [_each(item, lambda r: evaluate(r, known)) for item in readings]
            return self.value(arch, *values)

        parts = [part for reading in below for part in parts_of(reading)]
        computed = [reading for reading in below if isinstance(reading, Computed)]
        sparse = self.sparse or any(reading.sparse for reading in computed)
        again = self.again or any(reading.again for reading in computed)
        return Computed(names, compute, tuple(parts), sparse, again)

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return the binding as JSON values: its kind and its fields."""
        fields = {
            field.name: _encode(getattr(self, field.name), table)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }
        return {"kind": self.kind, **fields}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], table: DimTable) -> Binding:
        """Return the binding that `to_json` wrote."""
        return cls(**{n: _decode(value, table) for n, value in data.items() if n != "kind"})


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Return a context that computes weights as they are stored, whatever autocast says."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()  # on the meta device


def evaluate(reading: Reading, shared: Mapping[str, Tensor]) -> Tensor:
    """Return the value of `reading` in terms of the `shared` tensors."""
    if isinstance(reading, Computed):
        return reading.function([shared[name] for name in reading.sources])
    return part_of(shared[reading.source], reading)


def operand_values(
    binding: Binding, arch: Arch, sizes: Mapping[Axis, int], shared: Mapping[str, Tensor]
) -> list[Any]:
    """Return the values of a binding's operands, as its `value` takes them after the arch."""
    fields = _operand_fields(binding).values()
    return [_each(field, lambda b: evaluate(b.at(arch, sizes), shared)) for field in fields]


def sources_of(reading: Reading) -> tuple[str, ...]:
    """Return the names of the tensors that `reading` takes."""
    return reading.sources if isinstance(reading, Computed) else (reading.source,)


def parts_of(reading: Reading) -> tuple[Part, ...]:
    """Return the parts of tensors that `reading` depends on."""
    return reading.parts if isinstance(reading, Computed) else (reading,)


def narrow(reading: Reading, index: tuple[Index, ...]) -> Reading:
    """Return the positions `index` of what `reading` gives; a part of a part is a part."""
    if isinstance(reading, Part):
        both = zip(reading.index, index, strict=True)
        return Part(reading.source, tuple(_nested(outer, inner) for outer, inner in both))
    part = Part("", index)
    if part.whole:
        return reading
    function = reading.function
    return Computed(
        reading.sources,
        lambda tensors: part_of(function(tensors), part),
        reading.parts,
        True,
        reading.again,
    )


def _nested(outer: Index, inner: Index) -> Index:
    if isinstance(outer, slice):
        start = outer.start or 0
        if not isinstance(inner, slice):
            return inner + start
        if inner == slice(None):
            return outer
        return slice(start + (inner.start or 0), start + inner.stop)
    return outer[inner]


def operands_of(binding: Binding) -> Iterator[Binding]:
    """Yield the bindings that `binding` reads through."""
    for field in _operand_fields(binding).values():
        if isinstance(field, tuple):
            yield from field
        elif field is not None:
            yield field


def walk(binding: Binding) -> Iterator[Binding]:
    """Yield `binding` and all that it reads through, at any depth."""
    yield binding
    for operand in operands_of(binding):
        yield from walk(operand)


def _each(field: Any, function: Callable[[Any], Any]) -> Any:
    """Return what `function` makes of an operand, of each of several, or None for none."""
    if isinstance(field, tuple):
        return tuple(function(item) for item in field)
    return None if field is None else function(field)


def _is_binding(value: object) -> bool:
    return hasattr(value, "at") and hasattr(value, "to_json")


def _operand_fields(binding: Binding) -> dict[str, Any]:
    """Return the fields that hold operands; one that may, by its annotation, and is None, too."""
    found: dict[str, Any] = {}
    for field in getattr(binding, "__dataclass_fields__", {}).values():
        value = getattr(binding, field.name)
        many = isinstance(value, tuple) and value and all(_is_binding(item) for item in value)
        absent = value is None and "Binding" in str(field.type)
        if many or absent or _is_binding(value):
            found[field.name] = value
    return found


def _encode(value: Any, table: DimTable) -> object:
    if _is_binding(value):
        return value.to_json(table)
    if isinstance(value, ByArch):
        return {"by_arch": value.choice}
    if isinstance(value, tuple):
        return [_encode(item, table) for item in value]
    return value


def _decode(value: Any, table: DimTable) -> Any:
    match value:
        case {"by_arch": str() as choice}:
            return ByArch(choice)
        case dict():
            return decode(value, table)
        case list():
            return tuple(_decode(item, table) for item in value)
    return value
