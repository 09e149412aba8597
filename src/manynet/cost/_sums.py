"""What an arch's choices add up to, looked up: many small tables become a few larger ones.

A cost is asked for thousands of archs, and a query that visits one table for each layer and one
for each choice takes as long as they are many. So tables of few choices are added up beforehand,
for all combinations, as far as these can be listed. Two sums are looked up at once, as the real and
the imaginary part of complex numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manynet.space import Value

__all__ = ["Sums", "Term"]

_LISTED = 4096  # combinations of one term that are listed
_TOGETHER = 256  # combinations of a table of several terms
Key = tuple[Value, ...]


@dataclass(frozen=True)
class Term:
    """What some choices add.

    Args:
        positions: where the choices stand.
        known: what they add, by their values as `operator.itemgetter` picks them.
        whole: whether it has (or works out) every combination; otherwise it is asked as it is.
    """

    positions: tuple[int, ...]
    known: Mapping[Any, complex]
    whole: bool = True


class Sums:
    """Two sums over the choices of an arch: `total` of the arch's values.

    Args:
        candidates: the values of each choice.
        terms: what is added.
        start: what is there before.

    Attributes:
        total: a function of an arch's values that returns both sums, or raises `KeyError` for
            values that are not known.
    """

    def __init__(
        self, candidates: Sequence[Key], terms: Sequence[Term], start: complex = 0.0
    ) -> None:
        self._candidates = candidates
        start += sum(term.known[()] for term in terms if not term.positions)
        alone: list[Term] = []
        listed: list[Term] = []
        for term in terms:
            if term.positions:
                fits = term.whole and self._size(term.positions) <= _LISTED
                (listed if fits else alone).append(term)
        looks = [(term.positions, term.known) for term in alone] + [
            (positions, self._listed(positions, together))
            for positions, together in self._groups(listed)
        ]
        self.total = _compiled(len(candidates), looks, start)

    def _size(self, positions: Sequence[int]) -> int:
        return math.prod(len(self._candidates[position]) for position in positions)

    def _groups(self, terms: Sequence[Term]) -> list[tuple[tuple[int, ...], list[Term]]]:
        """Put terms together, the largest first, where the fewest combinations come of it.

        Tables stay small, unless one term alone is larger: of a large one each entry is far away
        when it is first asked for, which takes longer than another look at a small one.
        """
        groups: list[tuple[set[int], list[Term]]] = []
        for term in sorted(terms, key=lambda term: -self._size(term.positions)):
            own = set(term.positions)
            fitting = [
                (self._size([*(places | own)]) / self._size([*places]), number)
                for number, (places, _) in enumerate(groups)
                if self._size([*(places | own)]) <= max(_TOGETHER, self._size([*places]))
            ]
            if fitting:
                places, together = groups[min(fitting)[1]]
                places |= own
                together.append(term)
            else:
                groups.append((own, [term]))
        return [(tuple(sorted(places)), together) for places, together in groups]

    def _listed(self, positions: tuple[int, ...], terms: Sequence[Term]) -> dict[Any, complex]:
        """Add up what terms say of every combination of the values at some positions."""
        values = [self._candidates[position] for position in positions]
        total = np.zeros([len(known) for known in values], complex)
        for term in terms:
            total += self._spread(term, positions)
        keys = values[0] if len(values) == 1 else itertools.product(*values)
        return dict(zip(keys, total.ravel().tolist(), strict=True))

    def _spread(self, term: Term, positions: tuple[int, ...]) -> NDArray[np.complex128]:
        """Return a term's figures with an axis for each of the positions."""
        own = [self._candidates[position] for position in term.positions]
        keys = own[0] if len(own) == 1 else itertools.product(*own)
        figures = np.array([term.known[key] for key in keys], complex).reshape([*map(len, own)])
        order = sorted(range(len(own)), key=lambda axis: positions.index(term.positions[axis]))
        shape = [
            len(self._candidates[position]) if position in term.positions else 1
            for position in positions
        ]
        return figures.transpose(order).reshape(shape)


def _compiled(
    count: int, looks: Sequence[tuple[tuple[int, ...], Mapping[Any, complex]]], start: complex
) -> Callable[[Key], complex]:
    """Return a function that adds up what the tables have at the values of their positions.

    It is written out, one line a table: a loop over tables takes twice the time. The lines hold
    nothing but positions.
    """
    lines = [
        "def made(start, tables):",
        *(f"    table{number} = tables[{number}]" for number in range(len(looks))),
        "    def total(values):",
        f"        ({''.join(f'v{position}, ' for position in range(count))}) = values",
        "        found = start",
    ]
    for number, (positions, _) in enumerate(looks):
        key = ", ".join(f"v{position}" for position in positions)
        lines.append(f"        found += table{number}[{key}]")
    lines += ["        return found", "    return total"]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    made: Callable[[Key], complex] = scope["made"](start, [known for _, known in looks])
    return made
