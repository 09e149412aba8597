"""Constraints between choices that are numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import ClassVar, cast

from manynet.errors import InputError
from manynet.space._arch import Reader, Value, identity, plain_values, same
from manynet.space._constraint import Constraint, Values, checked_names, put

__all__ = ["AtMost", "Divides", "Equal", "LessEqual"]


@functools.lru_cache(maxsize=4096)
def _decimal(value: float) -> Fraction:
    return Fraction(repr(value))


def _exact(value: Value) -> int | Fraction:
    """Return a number exactly as it is written: 0.1 is a tenth, not its nearest float."""
    return _decimal(value) if isinstance(value, float) else int(value)


def _check_numbers(what: Constraint, values: Values, kinds: tuple[type, ...], word: str) -> None:
    for name in what.names:
        for value in values[name]:
            if not isinstance(value, kinds):
                raise InputError(
                    f"the constraint '{what}' needs {word}, but choice {name!r} may be {value!r}; "
                    "use Implies, Allow or Forbid for such values"
                )


@dataclass(frozen=True, eq=False)
class AtMost(Constraint, kind="at_most"):
    """A weighted sum of numeric choices stays at or below a bound.

    The sum is exact: floats count as the decimals they are written as. Negative weights make it
    'at least'. True counts 1.

    Args:
        names: the choices that are added up.
        bound: the largest sum allowed.
        weights: one for each name; 1 each when left out.

    Example:
        >>> budget = AtMost(("a", "b"), 6, weights=(2, 1))
        >>> budget.holds({"a": 2, "b": 2}), budget.holds({"a": 3, "b": 1})
        (True, False)
        >>> print(budget)
        2 * a + b <= 6
    """

    summary: ClassVar[bool] = True
    names: tuple[str, ...]
    bound: int | float
    weights: tuple[int | float, ...] | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        super().__post_init__()
        put(self, "bound", _number(self.bound, "the bound of AtMost"))
        if self.weights is None:
            return
        listed = plain_values(self.weights, "the weights of AtMost")
        weights = tuple(_number(weight, "a weight of AtMost") for weight in listed)
        put(self, "weights", weights)
        if len(weights) != len(self.names):
            raise InputError(
                f"AtMost has {len(self.names)} names and {len(weights)} weights; "
                "give one weight for each name"
            )

    def __str__(self) -> str:
        weights = self.weights or (1,) * len(self.names)
        terms = [
            name if weight == 1 else f"{weight} * {name}"
            for name, weight in zip(self.names, weights, strict=True)
        ]
        shown = terms if len(terms) <= 6 else [*terms[:3], "…", terms[-1]]
        return f"{' + '.join(shown)} <= {self.bound}"

    def _weight_of(self) -> dict[str, int | Fraction]:
        weights = self.weights or (1,) * len(self.names)
        return {name: _exact(weight) for name, weight in zip(self.names, weights, strict=True)}

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether the sum is at most the bound."""
        total = sum(weight * _exact(values[name]) for name, weight in self._weight_of().items())
        return total <= _exact(self.bound)

    def check(self, values: Values) -> None:
        """Raise `InputError` for a choice that is not a number."""
        _check_numbers(self, values, (int, float), "numbers")

    def reader(self, order: Sequence[str], values: Values) -> Reader:
        """Return a running sum that stops mattering once the rest cannot break the bound."""
        terms, bound = self._whole(order, values)
        least, most = [0], [0]
        for column in reversed(terms):
            least.append(least[-1] + min(column.values()))
            most.append(most[-1] + max(column.values()))
        least.reverse()
        most.reverse()

        def advance(state: Hashable, step: int, value: Value) -> Hashable:
            if state == "met":
                return state
            total = cast("int", state) + terms[step][value]
            if total + least[step + 1] > bound:
                return None
            return "met" if total + most[step + 1] <= bound else total

        return 0, advance

    def _whole(self, order: Sequence[str], values: Values) -> tuple[list[dict[Value, int]], int]:
        """Return each choice's terms and the bound, scaled to the smallest whole numbers."""
        weight_of, bound = self._weight_of(), Fraction(_exact(self.bound))
        terms = [
            {value: Fraction(weight_of[name] * _exact(value)) for value in values[name]}
            for name in order
        ]
        numbers = [bound, *(term for column in terms for term in column.values())]
        scale = Fraction(math.lcm(*(number.denominator for number in numbers)))
        return (
            [{value: int(term * scale) for value, term in column.items()} for column in terms],
            int(bound * scale),
        )


def _number(value: object, where: str) -> int | float:
    (plain,) = plain_values((value,), where)
    if isinstance(plain, bool | str):
        raise InputError(f"{where} is {value!r}; give a number")
    return plain


@dataclass(frozen=True, eq=False)
class LessEqual(Constraint, kind="less_equal"):
    """One numeric choice never exceeds another.

    Args:
        left: the choice that stays at or below.
        right: the choice that bounds it.

    Example:
        >>> LessEqual("inner", "outer").holds({"inner": 64, "outer": 32})
        False
    """

    left: str
    right: str
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive `names`."""
        put(self, "names", checked_names((self.left, self.right), "LessEqual"))

    def __str__(self) -> str:
        return f"{self.left} <= {self.right}"

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether left is at most right."""
        return _exact(values[self.left]) <= _exact(values[self.right])

    def check(self, values: Values) -> None:
        """Raise `InputError` for a choice that is not a number."""
        _check_numbers(self, values, (int, float), "numbers")


@dataclass(frozen=True, eq=False)
class Equal(Constraint, kind="equal"):
    """Some choices always have the same value.

    Args:
        names: the choices, two or more.

    Example:
        >>> Equal(("stem", "head")).holds({"stem": 16, "head": 16})
        True
    """

    summary: ClassVar[bool] = True
    names: tuple[str, ...]

    def __str__(self) -> str:
        return " = ".join(self.names)

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether all are equal, in type too."""
        first = values[self.names[0]]
        return all(same(first, values[name]) for name in self.names[1:])

    def reader(self, order: Sequence[str], values: Values) -> Reader:
        """Return a reader that remembers the first value."""

        def advance(state: Hashable, step: int, value: Value) -> Hashable:
            found = identity(value)
            return found if state in ((), found) else None

        return (), advance


@dataclass(frozen=True, eq=False)
class Divides(Constraint, kind="divides"):
    """One whole number divides another, as a group count divides its channels.

    Args:
        divisor: the choice that divides.
        dividend: the choice that is divided.

    Example:
        >>> Divides("groups", "channels").holds({"groups": 3, "channels": 32})
        False
    """

    divisor: str
    dividend: str
    names: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Derive `names`."""
        put(self, "names", checked_names((self.divisor, self.dividend), "Divides"))

    def __str__(self) -> str:
        return f"{self.divisor} divides {self.dividend}"

    def holds(self, values: Mapping[str, Value]) -> bool:
        """Whether nothing is left over; zero divides only zero."""
        divisor, dividend = int(values[self.divisor]), int(values[self.dividend])
        return dividend % divisor == 0 if divisor else dividend == 0

    def check(self, values: Values) -> None:
        """Raise `InputError` for a choice that is not a whole number."""
        _check_numbers(self, values, (int,), "whole numbers")
