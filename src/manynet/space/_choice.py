"""A choice: what can differ between the members of a family."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from manynet.errors import InputError, did_you_mean
from manynet.space._arch import ByJson, Value, identity, is_a, join, plain_value, plain_values
from manynet.space._logic import conditions, restricted_conditions, written

__all__ = ["Choice"]


@dataclass(frozen=True, eq=False)
class Choice(ByJson):
    """A named choice and its candidate values.

    Args:
        name: what members are told apart by, such as `"layer1.width"`.
        values: the candidates, smallest first; the last one builds the largest member.
        active_when: other choices with the values that they must have for this one to matter. Archs
            that differ only in choices that do not matter are one member.

    Raises:
        InputError: no name, no values, or a value that comes twice.

    Example:
        >>> Choice("kernel", (3, 5, 7), active_when={"depth": (2, 3)})
        Choice('kernel', (3, 5, 7), active_when={'depth': (2, 3)})
    """

    name: str
    values: tuple[Value, ...]
    active_when: Mapping[str, tuple[Value, ...]] | None = None

    def __post_init__(self) -> None:
        """Make the values plain and check them."""
        if not is_a(self.name, str) or not self.name:
            raise InputError(f"a choice needs a name, a string; found {self.name!r}")
        values = plain_values(self.values, f"choice {self.name!r}")
        if not values:
            raise InputError(f"choice {self.name!r} has no values; give it at least one")
        if len(set(map(identity, values))) < len(values):
            raise InputError(
                f"choice {self.name!r} has a value twice in {join(values)}; give each value once"
            )
        object.__setattr__(self, "values", values)
        if self.active_when is not None:
            given = conditions(self.active_when, f"active_when of choice {self.name!r}")
            object.__setattr__(self, "active_when", given)

    def __repr__(self) -> str:
        when = "" if self.active_when is None else f", active_when={dict(self.active_when)!r}"
        return f"Choice({self.name!r}, {self.values!r}{when})"

    def to_json(self) -> dict[str, object]:
        """Return a dictionary that `json.dumps` takes."""
        data: dict[str, object] = {"name": self.name, "values": list(self.values)}
        if self.active_when is not None:
            data["active_when"] = {n: list(values) for n, values in self.active_when.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Self:
        """Return the choice that `to_json` gave. Raises `InputError` if it is none."""
        known = ("name", "values", "active_when")
        if not is_a(data, Mapping) or not {"name", "values"} <= data.keys():
            raise InputError(
                f"a choice in JSON is an object with a 'name' and 'values'; found {data!r}"
            )
        for key in data:
            if key not in known:
                raise InputError(f"a choice in JSON has no {key!r}{did_you_mean(str(key), known)}")
        return cls(**cast("Any", dict(data)))

    @functools.cached_property
    def _places(self) -> dict[tuple[type, Value], int]:
        return {identity(value): place for place, value in enumerate(self.values)}

    def place(self, value: Value) -> int:
        """Return where a value stands among the candidates.

        Raises:
            InputError: it is none of them.

        Example:
            >>> Choice("kernel", (3, 5, 7)).place(5)
            1
        """
        found = self._places.get((type(value), value))
        if found is None:
            plain = plain_value(value, f"choice {self.name!r}")  # NumPy's numbers are welcome
            found = self._places.get(identity(plain))
        if found is None:
            raise InputError(
                f"choice {self.name!r} cannot be {value!r}; its values are "
                f"{join(self.values)}{_nearest_hint(value, self.values)}"
            )
        return found

    @property
    def condition(self) -> str:
        """The condition under which this choice matters, as text; empty if it always does."""
        return written(self.active_when) if self.active_when else ""

    def restricted(self, values: Mapping[str, tuple[Value, ...]]) -> Choice:
        """Return this choice when all choices have only these values left."""
        when = self.active_when
        left = None if when is None else restricted_conditions(when, values)
        return Choice(self.name, values[self.name], left)


def _nearest_hint(value: Value, known: Sequence[Value]) -> str:
    if isinstance(value, str):
        texts = [other for other in known if isinstance(other, str)]
        hint = did_you_mean(value, texts)
        return hint if "did you mean" in hint else ""
    numbers = [other for other in known if not isinstance(other, str)]
    if not numbers:
        return ""
    return f" (nearest: {min(numbers, key=lambda other: abs(other - value))!r})"
