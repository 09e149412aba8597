"""Constraints between values of any type: rules and tables."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Self, TypeAlias, cast

from manynet.errors import InputError
from manynet.space._arch import Reader, Value, identity, is_a, join, plain_values, same
from manynet.space._constraint import Constraint, Values, checked_names, put

__all__ = [
    "Allow",
    "Conditions",
    "Forbid",
    "Implies",
    "conditions",
    "restricted_conditions",
    "written",
]

Conditions: TypeAlias = Mapping[str, tuple[Value, ...]]


def conditions(given: object, where: str) -> Conditions:
    """Return names with the values they may have, read-only. Raises `InputError`."""
    if not isinstance(given, Mapping) or not given:
        raise InputError(f"{where} is a mapping such as {{'depth': (2, 3)}}; found {given!r}")
    for name in given:
        if not isinstance(name, str):
            raise InputError(f"{where} is keyed by choices' names; found {name!r}")
    return MappingProxyType(
        {name: plain_values(values, f"{where}[{name!r}]") for name, values in given.items()}
    )


def written(given: Conditions) -> str:
    """Return conditions as text."""
    return " and ".join(f"{name} in ({join(values)})" for name, values in given.items())


def _check_known(what: Constraint, name: str, used: Iterable[Value], values: Values) -> None:
    known = set(map(identity, values[name]))
    for value in used:
        if identity(value) not in known:
            raise InputError(
                f"the constraint '{what}' speaks of {value!r}, which choice {name!r} cannot be; "
                f"its values are {join(values[name])}"
            )


@dataclass(frozen=True, eq=False)
class Implies(Constraint, kind="implies"):
    """If some choices have certain values, others must have certain values.

    Args:
        if_: the condition, each name with the values that meet it.
        then: the consequence, in the same form.

    Example:
        >>> rule = Implies({"op": ("attention",)}, {"kernel": (1,)})
        >>> rule.holds({"op": "attention", "kernel": 3}), rule.holds({"op": "conv", "kernel": 3})
        (False, True)
    """

    if_: Conditions
    then: Conditions
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the conditions read-only and derive `names`."""
        put(self, "if_", conditions(self.if_, "Implies.if_"))
        put(self, "then", conditions(self.then, "Implies.then"))
        put(self, "names", checked_names((*self.if_, *self.then), "Implies"))

    def __str__(self) -> str:
        return f"if {written(self.if_)} then {written(self.then)}"

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the condition fails or the consequence is met."""
        return not _met(self.if_, values) or _met(self.then, values)

    def check(self, values: Values) -> None:
        """Raise `InputError` for a value that its choice does not have."""
        for name, used in (*self.if_.items(), *self.then.items()):
            _check_known(self, name, used, values)

    def restricted(self, values: Values) -> Self:
        """Drop the values that are gone; a consequence without values can never be met."""
        return type(self)(
            restricted_conditions(self.if_, values), restricted_conditions(self.then, values)
        )


def _met(given: Conditions, values: Mapping[str, Value]) -> bool:
    return all(
        any(same(values[name], value) for value in allowed) for name, allowed in given.items()
    )


def restricted_conditions(given: Conditions, values: Values) -> Conditions:
    """Return conditions without the values that are gone."""
    known = {name: set(map(identity, values[name])) for name in given}
    return {
        name: tuple(value for value in allowed if identity(value) in known[name])
        for name, allowed in given.items()
    }


class _Table(Constraint):
    """Rows of values for some names."""

    summary: ClassVar[bool] = True
    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        where = type(self).__name__
        if is_a(self.rows, str) or not is_a(self.rows, Iterable):
            raise InputError(f"{where} needs rows of values; found {self.rows!r}")
        rows = tuple(plain_values(row, f"{where}, row {k}") for k, row in enumerate(self.rows))
        put(self, "rows", rows)
        for number, row in enumerate(rows):
            if len(row) != len(self.names):
                raise InputError(
                    f"{where}, row {number}: {len(row)} values for {len(self.names)} names; "
                    "give one value for each name"
                )

    def check(self, values: Values) -> None:
        """Raise `InputError` for a value that its choice does not have."""
        for row in self.rows:
            for name, value in zip(self.names, row, strict=True):
                _check_known(self, name, (value,), values)

    def restricted(self, values: Values) -> Self:
        """Drop the rows that can no longer occur."""
        known = [set(map(identity, values[name])) for name in self.names]
        kept = tuple(
            row
            for row in self.rows
            if all(identity(value) in some for value, some in zip(row, known, strict=True))
        )
        return type(self)(self.names, kept)  # type: ignore[call-arg]  # both tables are made so

    def _matching(self, order: Sequence[str]) -> list[dict[tuple[type, Value], frozenset[int]]]:
        """Return, for each name in turn and each value of it, the rows that have it."""
        matching: list[dict[tuple[type, Value], frozenset[int]]] = []
        for name in order:
            column = self.names.index(name)
            groups: dict[tuple[type, Value], set[int]] = {}
            for number, row in enumerate(self.rows):
                groups.setdefault(identity(row[column]), set()).add(number)
            matching.append({value: frozenset(group) for value, group in groups.items()})
        return matching

    def _is_row(self, values: Mapping[str, Value]) -> bool:
        return any(
            all(same(values[name], value) for name, value in zip(self.names, row, strict=True))
            for row in self.rows
        )

    def reader(self, order: Sequence[str], values: Values) -> Reader:
        """Return a reader that keeps the rows which agree with all values read so far."""
        matching, last = self._matching(order), len(order) - 1

        def advance(state: Hashable, step: int, value: Value) -> Hashable:
            rows = cast("frozenset[int]", state)
            rows &= matching[step].get(identity(value), frozenset())
            return rows if self._may_go_on(rows, step == last) else None

        return frozenset(range(len(self.rows))), advance

    def _may_go_on(self, rows: frozenset[int], at_end: bool) -> bool:
        raise NotImplementedError


del Constraint.kinds["_table"]


@dataclass(frozen=True, eq=False)
class Forbid(_Table, kind="forbid"):
    """Certain combinations of values never occur.

    Args:
        names: the choices that a row speaks of.
        rows: the combinations, one value for each name.

    Example:
        >>> rule = Forbid(("kernel", "stride"), [(1, 2)])
        >>> rule.holds({"kernel": 1, "stride": 2}), rule.holds({"kernel": 3, "stride": 2})
        (False, True)
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __str__(self) -> str:
        return f"({', '.join(self.names)}) is none of {len(self.rows)} rows"

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the values are none of the rows."""
        return not self._is_row(values)

    def _may_go_on(self, rows: frozenset[int], at_end: bool) -> bool:
        return not (at_end and rows)


@dataclass(frozen=True, eq=False)
class Allow(_Table, kind="allow"):
    """Only certain combinations of values occur.

    Args:
        names: the choices that a row speaks of.
        rows: the combinations, one value for each name.

    Example:
        >>> rule = Allow(("heads", "size"), [(2, 64), (4, 32)])
        >>> rule.holds({"heads": 4, "size": 32}), rule.holds({"heads": 4, "size": 64})
        (True, False)
    """

    names: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __str__(self) -> str:
        return f"({', '.join(self.names)}) is one of {len(self.rows)} rows"

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the values are one of the rows."""
        return self._is_row(values)

    def _may_go_on(self, rows: frozenset[int], at_end: bool) -> bool:
        return bool(rows)
