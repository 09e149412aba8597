"""One point of a space, and the values that it may hold."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from operator import is_, itemgetter
from typing import Final, Self, TypeAlias

import numpy as np

from manynet.errors import InputError, did_you_mean

__all__ = [
    "Arch",
    "ByJson",
    "Layout",
    "Reader",
    "Value",
    "identity",
    "is_a",
    "join",
    "layout_of",
    "plain_value",
    "plain_values",
    "same",
]

Value: TypeAlias = bool | int | float | str
"""What a choice may be set to; its type belongs to it, so `True`, `1` and `1.0` are three."""


def plain_value(value: object, where: str) -> Value:
    """Return `value` as a plain bool, int, float or str (NumPy scalars and subclasses become one).

    Raises:
        InputError: it is something else, or a float that JSON cannot hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return value
    for kind in (int, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value) + 0.0  # minus zero becomes zero
    raise InputError(
        f"{where}: {value!r} is a {type(value).__name__} that cannot be a value; "
        "use a bool, an int, a finite float or a string"
    )


def plain_values(values: object, where: str) -> tuple[Value, ...]:
    """Return `values` as a tuple of plain values. Raises `InputError` if it is no list of them."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise InputError(f"{where}: found {values!r}; give a list or tuple of values, as in (1, 2)")
    return tuple(plain_value(value, where) for value in values)


def is_a(value: object, kind: type) -> bool:
    """Whether a value is of a kind: for arguments that a caller without types may get wrong."""
    return isinstance(value, kind)


def identity(value: Value) -> tuple[type, Value]:
    """Return a key under which `True`, `1` and `1.0` differ."""
    return type(value), value


def same(first: Value, second: Value) -> bool:
    """Whether two values are equal and of one type."""
    return type(first) is type(second) and first == second


def join(values: Iterable[Value], limit: int = 12) -> str:
    """Return the values as text, with an ellipsis after the first `limit`."""
    texts = [repr(value) for value in values]
    return ", ".join(texts[:limit]) + (", …" if len(texts) > limit else "")


def _json_text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


class ByJson:
    """Equal, hashed and pickled by its JSON form, so that `True` is not `1` inside it."""

    def to_json(self) -> dict[str, object]:
        """Return a dictionary that `json.dumps` takes."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Return what `to_json` gave."""
        raise NotImplementedError

    @functools.cached_property
    def _text(self) -> str:
        return _json_text(self.to_json())

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, ByJson) or type(self) is not type(other):
            return NotImplemented
        return self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> tuple[Callable[[Mapping[str, object]], Self], tuple[object, ...]]:
        return type(self).from_json, (self.to_json(),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self


class Layout:
    """The names of an arch and where each one lies; shared by all archs of a space."""

    __slots__ = ("arrange", "index", "names", "sorted_names")

    def __init__(self, names: tuple[str, ...]) -> None:
        order = sorted(range(len(names)), key=names.__getitem__)
        self.names: Final = names
        self.index: Final = {name: position for position, name in enumerate(names)}
        self.sorted_names: Final = tuple(names[i] for i in order)
        self.arrange: Final[Callable[[tuple[Value, ...]], tuple[Value, ...]]] = (
            tuple if order == list(range(len(names))) else itemgetter(*order)
        )


layout_of = functools.lru_cache(maxsize=1024)(Layout)


def _rank(value: Value) -> tuple[bool, Value, str]:
    return isinstance(value, str), value, type(value).__name__


@functools.total_ordering
class Arch(Mapping[str, Value]):
    """One point of a space: a value for every choice.

    An arch is immutable and hashable (its hash is taken once, as it is the key of every cache), it
    keeps the order of its space's choices, and it survives JSON with the type of every value. Two
    archs are equal when they give the same names the same values, in whatever order. `<` sorts
    archs by their values, the names taken in alphabetical order: a stable order, not one of size.

    Args:
        values: the value of each choice, as a mapping or as pairs.

    Raises:
        InputError: a name that is not a string or comes twice, or a value of another type.

    Example:
        >>> arch = Arch({"width": 32, "depth": 2})
        >>> arch["width"], arch.replace(width=16)
        (32, Arch({'width': 16, 'depth': 2}))
        >>> arch == Arch({"depth": 2, "width": 32}), arch == Arch({"depth": 2.0, "width": 32})
        (True, False)
        >>> Arch.from_json(arch.to_json()) == arch
        True
        >>> arch.key
        '920cc72a2f6f'
    """

    __slots__ = ("_hash", "_key", "_layout", "_values")
    _layout: Layout
    _values: tuple[Value, ...]
    _hash: int
    _key: str | None

    def __init__(self, values: Mapping[str, Value] | Iterable[tuple[str, Value]]) -> None:
        pairs = list(values.items() if isinstance(values, Mapping) else values)
        names = tuple(name for name, _ in pairs)
        for name in names:
            if not is_a(name, str):
                raise InputError(f"an arch names its choices by strings; found {name!r}")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"choice {twice!r} is given twice; give each choice one value")
        plain = tuple(plain_value(value, f"choice {name!r}") for name, value in pairs)
        self._fill(layout_of(names), plain)

    def _fill(self, layout: Layout, values: tuple[Value, ...]) -> None:
        put = object.__setattr__
        put(self, "_layout", layout)
        put(self, "_values", values)
        put(self, "_hash", hash((layout.sorted_names, layout.arrange(values))))
        put(self, "_key", None)

    @classmethod
    def _of(cls, layout: Layout, values: tuple[Value, ...]) -> Arch:
        """Return an arch of values that are known to be plain: the quick way in."""
        arch = cls.__new__(cls)
        arch._fill(layout, values)
        return arch

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Arch cannot be changed; try arch.replace({{{name!r}: ...}})")

    def __getitem__(self, name: str) -> Value:
        return self._values[self._layout.index[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout.names)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Arch):
            return self._hash == other._hash and self._equals(other)
        if isinstance(other, Mapping):
            return len(self) == len(other) and all(
                name in other and same(value, other[name]) for name, value in self.items()
            )
        return NotImplemented

    def _equals(self, other: Arch) -> bool:
        mine, theirs = self._values, other._values
        if self._layout is not other._layout:
            if self._layout.sorted_names != other._layout.sorted_names:
                return False
            mine, theirs = self._layout.arrange(mine), other._layout.arrange(theirs)
        return mine == theirs and (
            all(map(is_, mine, theirs)) or all(map(is_, map(type, mine), map(type, theirs)))
        )

    def __lt__(self, other: object) -> bool:
        return self._rank() < other._rank() if isinstance(other, Arch) else NotImplemented

    def _rank(self) -> tuple[tuple[str, ...], tuple[tuple[bool, Value, str], ...]]:
        layout = self._layout
        return layout.sorted_names, tuple(map(_rank, layout.arrange(self._values)))

    def __repr__(self) -> str:
        return f"Arch({dict(self)!r})"

    def __reduce__(self) -> tuple[type[Arch], tuple[dict[str, Value]]]:
        return Arch, (dict(self),)

    def __copy__(self) -> Arch:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Arch:
        return self

    @property
    def key(self) -> str:
        """A short name that is the same in every process: 12 hex digits of the JSON's sha256."""
        if self._key is None:
            digest = hashlib.sha256(_json_text(self.to_json()).encode()).hexdigest()
            object.__setattr__(self, "_key", digest[:12])
        return self._key or ""

    def replace(self, changes: Mapping[str, Value] | None = None, /, **named: Value) -> Arch:
        """Return a copy with some values changed; names with dots go into the mapping.

        Raises:
            InputError: a name that this arch does not have.

        Example:
            >>> Arch({"layer1.width": 32, "depth": 2}).replace({"layer1.width": 16}, depth=1)
            Arch({'layer1.width': 16, 'depth': 1})
        """
        changes = {**(changes or {}), **named}
        for name in changes:
            if name not in self._layout.index:
                raise InputError(
                    f"the arch has no choice {name!r}{did_you_mean(str(name), self._layout.names)}"
                )
        return Arch({**self, **changes})

    def ordered(self, names: tuple[str, ...]) -> tuple[Value, ...]:
        """Return the values of all choices in the order of `names`: the quick way out.

        Raises:
            InputError: these are not the names of this arch's choices.

        Example:
            >>> Arch({"width": 32, "depth": 2}).ordered(("depth", "width"))
            (2, 32)
        """
        if self._layout.names == names:
            return self._values
        if self._layout.sorted_names != layout_of(names).sorted_names:
            raise InputError(f"{self!r} has other choices than {join(names)}")
        return tuple(self[name] for name in names)

    def to_json(self) -> dict[str, Value]:
        """Return the values as a dictionary that `json.dumps` takes."""
        return dict(zip(self._layout.names, self._values, strict=True))

    @classmethod
    def from_json(cls, data: Mapping[str, Value]) -> Arch:
        """Return the arch that `to_json` gave. Raises `InputError` for anything but a mapping."""
        if not is_a(data, Mapping):
            raise InputError(
                f"an arch in JSON is an object of names and values; found {type(data).__name__}"
            )
        return cls(data)


Reader: TypeAlias = tuple[Hashable, Callable[[Hashable, int, Value], Hashable]]
"""How a constraint is read value by value: the state before the first, and the step from a state
over the value of the k-th choice to the next state, or to `None` once nothing can save it."""
