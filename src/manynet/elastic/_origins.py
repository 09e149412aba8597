"""Where the integers of a forward pass come from, and which axes they size.

For the trace the integer attributes of modules, and the elements of `x.shape`, are integers that
remember their origin, through `* // + - %` too. `Origins` binds them to axes: so a member's
attributes are computed, not guessed, an assumption that the code makes becomes a union of axes,
and a literal freezes its axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manynet.elastic._axes import (
    Extent,
    concatenate,
    equally_long,
    extent,
    flatten,
    freeze,
    size_of,
    unify,
)
from manynet.elastic._record import Record

__all__ = ["Attribute", "Count", "Formula", "Origins", "SourcedInt", "equate"]

COUNTED = "one for each block of a list"
COMPUTED = "sized by a computation that cannot be followed"
CONSTANT = "sized by a constant in the code"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An integer that a module holds.

    Args:
        path: the module's path.
        name: the attribute's name.
        index: the integer's position where the attribute is a tuple or a list, else None.
    """

    path: str
    name: str
    index: int | None = None


@dataclass(frozen=True, slots=True)
class Count(Attribute):
    """An integer that says how many blocks a list has."""


@dataclass(frozen=True, slots=True)
class Formula:
    """An integer computed from two others."""

    symbol: str
    left: int
    right: int


Source = Extent | Attribute | Formula


class SourcedInt(int):
    """An integer that remembers where it came from; it behaves like any other."""

    source: Source
    origins: Origins

    def __new__(cls, value: int, source: Source, origins: Origins) -> SourcedInt:
        """Return `value` with its source, and with those who are told of what it is equal to."""
        self = super().__new__(cls, value)
        self.source = source
        self.origins = origins
        return self

    def __deepcopy__(self, memo: object) -> SourcedInt:
        return self

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        equal = int.__eq__(self, other) if isinstance(other, int) else NotImplemented
        if equal is True and type(other) is not bool:
            self.origins.equal(self, other)
        elif equal is False:
            self.origins.differ(self, other)
        return equal

    def __ne__(self, other: object) -> bool:
        equal = self.__eq__(other)
        return equal if equal is NotImplemented else not equal


def _arithmetic(name: str, symbol: str) -> Callable[[SourcedInt, Any], Any]:
    plain = getattr(int, name)
    reflected = name.startswith("__r")

    def operate(self: SourcedInt, other: Any) -> Any:
        value = plain(self, other)
        if type(value) is not int:
            return value
        source = Formula(symbol, other, self) if reflected else Formula(symbol, self, other)
        return SourcedInt(value, source, self.origins)

    return operate


for _name, _symbol in {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "mod": "%"}.items():
    for _form in (f"__{_name}__", f"__r{_name}__"):
        setattr(SourcedInt, _form, _arithmetic(_form, _symbol))


class Origins:
    """Binds integers to the axes that they size.

    Args:
        record: the axes of the tensors.
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.attributes: dict[Attribute, Extent] = {}
        self.counting: set[Count] = set()
        """The numbers of blocks that size a tensor too: such a list cannot be shorter."""
        self.unequal: dict[tuple[Attribute, Attribute], None] = {}
        """Attributes that the code found to differ, and so relies on it."""
        self.active = False

    def extent_of(self, value: int) -> Extent | None:
        """Return the axes that an integer stands for, or None where they are not known."""
        if not isinstance(value, SourcedInt):
            return extent(int(value), CONSTANT)
        source = value.source
        if int(value) == 1:
            return ()
        if isinstance(source, Count):
            return extent(int(value), COUNTED)
        if isinstance(source, Attribute):
            return self.attributes.get(source)
        return self._computed(source) if isinstance(source, Formula) else source

    def _computed(self, source: Formula) -> Extent | None:
        left, right = self.extent_of(source.left), self.extent_of(source.right)
        if left is None or right is None or source.symbol not in {"*", "+"}:
            return None
        return (*left, *right) if source.symbol == "*" else concatenate([left, right])

    def bind(self, value: int, dim: Extent) -> None:
        """Note that `value` stands where the size of `dim` must."""
        if size_of(dim) != int(value) or int(value) < 2:  # of nothing, nothing can be cut
            return
        if not isinstance(value, SourcedInt):
            freeze(dim, CONSTANT)
            return
        source = value.source
        self.counting.update(_counts_in(value))
        if isinstance(source, tuple):
            equate(source, dim)
        elif isinstance(source, Count):
            freeze(dim, COUNTED)
        elif isinstance(source, Attribute):
            self.follow(source, dim)
        elif source.symbol == "//":
            self._bind_quotient(source, dim)
        elif (known := self.extent_of(value)) is not None:
            equate(known, dim)
        elif source.symbol in {"*", "+"} and min(source.left, source.right) > 0:
            self._bind_operands(source, dim)
        else:
            self._give_up(value, dim)

    def follow(self, attribute: Attribute, dim: Extent) -> None:
        """Note that an attribute has the size of `dim` in every member."""
        known = self.attributes.get(attribute)
        if known is None:
            self.attributes[attribute] = dim
        else:
            equate(known, dim)

    def _bind_operands(self, source: Formula, dim: Extent) -> None:
        """Split `dim` as a product or a sum says, where an operand's axes are not known yet."""
        operands = (source.left, source.right)
        left, right = (
            extent(int(value)) if (known := self.extent_of(value)) is None else known
            for value in operands
        )
        equate((*left, *right) if source.symbol == "*" else concatenate([left, right]), dim)
        for value, part in zip(operands, (left, right), strict=True):
            self.bind(value, part)

    def _bind_quotient(self, source: Formula, dim: Extent) -> None:
        whole, part = self.extent_of(source.left), self.extent_of(source.right)
        if int(source.left) != int(source.right) * size_of(dim):
            freeze(dim, COMPUTED)
        elif whole is not None and part is not None:
            equate(whole, (*part, *dim))
        elif whole is not None and isinstance(source.right, SourcedInt):
            part = extent(int(source.right))
            unify(whole, (*part, *dim))
            self.bind(source.right, part)
        elif part is not None and isinstance(source.left, SourcedInt):
            self.bind(source.left, (*part, *dim))
        else:
            freeze(dim, COMPUTED)
            self.stop(source.left)
            self.stop(source.right)

    def _give_up(self, value: SourcedInt, dim: Extent) -> None:
        freeze(dim, COMPUTED)
        self.stop(value)

    def stop(self, value: int) -> None:
        """Freeze everything that an integer was computed from."""
        if not isinstance(value, SourcedInt):
            return
        source = value.source
        if isinstance(source, tuple):
            freeze(source, COMPUTED)
        elif isinstance(source, Attribute) and not isinstance(source, Count):
            freeze(self.attributes.setdefault(source, extent(int(value), COMPUTED)), COMPUTED)
        elif isinstance(source, Formula):
            self.stop(source.left)
            self.stop(source.right)

    def differ(self, left: SourcedInt, right: object) -> None:
        """Note that the code found two attributes to differ."""
        if self.active and isinstance(right, SourcedInt):
            a, b = left.source, right.source
            if isinstance(a, Attribute) and isinstance(b, Attribute):
                self.unequal[a, b] = None

    def equal(self, left: SourcedInt, right: Any) -> None:
        """Note that the code found two integers equal, and so relies on it."""
        if not self.active:
            return
        known = self.extent_of(left)
        if not isinstance(right, SourcedInt):
            if known is not None:
                freeze(known, "compared with a constant in the code")
        elif known is not None:
            self.bind(right, known)
        elif (other := self.extent_of(right)) is not None:
            self.bind(left, other)

    def cut(self, bounds: slice, dim: Extent) -> None:
        """Bind the bounds of a slice that has been taken of `dim`; freeze what constants cut."""
        size = size_of(dim)
        for bound in (bounds.start, bounds.stop):
            if type(bound) is int and bounds.step in (None, 1) and 0 < abs(bound) < size:
                freeze(_end(dim, bound), "sliced at a constant in the code")
            if not isinstance(bound, SourcedInt) or int(bound) == 0:
                continue
            if int(bound) == size:
                self.bind(bound, dim)
                continue
            leading = _leading(dim, int(bound))
            if leading is None:
                self.stop(bound)
            else:
                self.bind(bound, leading)


def _counts_in(value: int) -> set[Count]:
    """Return the numbers of blocks that an integer was computed from."""
    if not isinstance(value, SourcedInt):
        return set()
    source = value.source
    if isinstance(source, Formula):
        return _counts_in(source.left) | _counts_in(source.right)
    return {source} if isinstance(source, Count) else set()


def equate(left: Extent, right: Extent) -> None:
    """Unite two dimensions that the code takes to be equally long, unless they always are."""
    if not equally_long(left, right):
        unify(left, right)


def _end(dim: Extent, bound: int) -> Extent:
    """Return the positions of a sliced axis before a bound, or behind one that is negative."""
    flat = flatten(dim)
    parts = flat[0].parts if flat else None
    if parts is None:
        return dim
    inner = size_of(flat[1:])
    for count in range(1, len(parts)):
        taken = parts[:count] if bound > 0 else parts[-count:]
        if sum(map(size_of, taken)) * inner == abs(bound):
            return tuple(node for part in taken for node in part)
    return dim


def _leading(dim: Extent, size: int) -> Extent | None:
    """Return the first `size` positions of a concatenation where a part ends there."""
    flat = flatten(dim)
    if len(flat) != 1 or flat[0].parts is None:
        return None
    taken: list[Extent] = []
    total = 0
    for part in flat[0].parts:
        if total >= size:
            break
        taken.append(part)
        total += size_of(part)
    return concatenate(taken) if total == size and taken else None
