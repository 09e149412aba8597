"""What the choices of a space may not do together: data, never code, so that files hold them too.

A constraint says whether it holds, and how to read it value by value with a small state. The
second is what lets a space count 10^18 archs exactly: archs that leave every constraint in the
same state have equally many ways to go on (see `_diagram.py`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, Self, TypeAlias, cast

from manynet.errors import InputError, did_you_mean
from manynet.space._arch import ByJson, Reader, Value, is_a

__all__ = ["Constraint", "Values", "checked_names", "put"]

Values: TypeAlias = Mapping[str, tuple[Value, ...]]


class Constraint(ByJson):
    """The base of all constraints. A new kind is a frozen dataclass below it.

    It names the choices it speaks of in `names` and decides in `holds`. Its fields must be plain
    (strings, numbers, tuples and mappings of them), since they are what a file keeps; to load such
    a file, import the module that defines the kind first.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True, eq=False)
        ... class EvenSum(Constraint, kind="even_sum"):
        ...     names: tuple[str, ...]
        ...
        ...     def holds(self, values):
        ...         return sum(values[name] for name in self.names) % 2 == 0
        >>> EvenSum(("a", "b")).holds({"a": 1, "b": 3})
        True
        >>> Constraint.from_json({"kind": "even_sum", "names": ["a", "b"]})
        EvenSum(names=('a', 'b'))
    """

    kinds: ClassVar[dict[str, type[Constraint]]] = {}
    kind: ClassVar[str] = ""
    summary: ClassVar[bool] = False
    """Whether `reader` keeps a small summary rather than the values themselves."""
    names: tuple[str, ...]

    def __init_subclass__(cls, *, kind: str = "") -> None:
        super().__init_subclass__()
        cls.kind = kind or cls.__name__.lower()
        Constraint.kinds[cls.kind] = cls

    def __post_init__(self) -> None:
        """Make `names` a tuple of distinct strings."""
        put(self, "names", checked_names(self.names, type(self).__name__))

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the values satisfy this; only those of `names` are looked at."""
        raise NotImplementedError

    def check(self, values: Values) -> None:
        """Raise `InputError` if this constraint makes no sense for choices with these values."""

    def restricted(self, values: Values) -> Self:
        """Return this constraint for choices that have only these values left."""
        return self

    def reader(self, order: Sequence[str], values: Values) -> Reader:
        """Return how to read this constraint when the choices come in `order`."""
        last = len(order) - 1

        def advance(state: Hashable, step: int, value: Value) -> Hashable:
            seen = (*cast("tuple[Value, ...]", state), value)
            if step < last or self.holds(dict(zip(order, seen, strict=True))):
                return seen
            return None

        return (), advance

    def to_json(self) -> dict[str, object]:
        """Return the kind and the fields, plain enough for `json.dumps`."""
        given = {item.name: getattr(self, item.name) for item in fields(cast("Any", self))}
        kept = {item.name for item in fields(cast("Any", self)) if item.init}
        return {"kind": self.kind} | {
            name: _listed(value) for name, value in given.items() if name in kept
        }

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Return the constraint that `to_json` gave.

        Raises:
            InputError: an unknown kind, or fields that the kind does not have.
        """
        kind = data.get("kind") if is_a(data, Mapping) else None
        if not isinstance(kind, str):
            raise InputError(f"a constraint in JSON is an object with a 'kind'; found {data!r}")
        found = Constraint.kinds.get(kind)
        if found is None or not issubclass(found, cls):
            raise InputError(
                f"there is no constraint of kind {kind!r}{did_you_mean(kind, Constraint.kinds)}; "
                "a kind of your own must be imported before the file is read"
            )
        given = {name: value for name, value in data.items() if name != "kind"}
        known = [item.name for item in fields(cast("Any", found)) if item.init]
        for name in given:
            if name not in known:
                raise InputError(
                    f"a constraint of kind {kind!r} has no field {name!r}"
                    f"{did_you_mean(name, known)}"
                )
        try:
            return found(**given)
        except TypeError as error:
            raise InputError(f"a constraint of kind {kind!r} is incomplete: {error}") from error


def put(target: object, name: str, value: object) -> None:
    object.__setattr__(target, name, value)


def _listed(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def checked_names(names: object, where: str) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{where} needs a list of choices' names; found {names!r}")
    listed = tuple(names)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise InputError(f"{where} needs at least one name, all of them strings; found {listed!r}")
    if len(set(listed)) < len(listed):
        raise InputError(f"{where} names a choice twice in {listed!r}; name each choice once")
    return listed
