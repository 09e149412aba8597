"""A space as a table that people read."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Protocol

from manynet.errors import InputError
from manynet.space._arch import join
from manynet.space._choice import Choice
from manynet.space._constraint import Constraint

__all__ = ["describe"]


class Describable(Protocol):
    """What the table needs of a space."""

    @property
    def choices(self) -> Sequence[Choice]:
        """The rows."""

    @property
    def constraints(self) -> Sequence[Constraint]:
        """The lines below them."""

    @property
    def count(self) -> int:
        """The number of members."""


def describe(space: Describable, rows: int | None) -> str:
    """Return a table of the first `rows` choices, and so many constraints."""
    title = f"space of {_number(len(space.choices), 'choice')}, {_count(space)}"
    table = [(c.name, join(c.values), c.condition) for c in space.choices[:rows]]
    conditional = any(condition for _, _, condition in table)
    table.insert(0, ("choice", "values", "matters when" if conditional else ""))
    lines = [title, *_aligned(table)] if space.choices else [title]
    if hidden := len(space.choices[len(table) - 1 :]):
        lines.append(f"… and {_number(hidden, 'more choice')}")
    shown = space.constraints[:rows]
    lines += [f"where {constraint}" for constraint in shown]
    if hidden := len(space.constraints) - len(shown):
        lines.append(f"… and {_number(hidden, 'more constraint')}")
    return "\n".join(lines)


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def _count(space: Describable) -> str:
    try:
        count = space.count
    except InputError:
        return "too entangled to count"
    return _number(count, "arch") if count < 10**9 else f"{Decimal(count):.3g} archs"


def _number(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"
