"""What an arch's choices add up to, looked up: many small tables become a few larger ones.

A cost is asked for thousands of archs, and a query that visits one table for each layer and one
for each choice takes as long as they are many. So tables of few choices are added up beforehand,
for all combinations, as far as these can be listed. Two sums are looked up at once, as the real and
the imaginary part of complex numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from manynet.space import Value

__all__ = ["Sums", "Term"]

_LISTED = 4096  # combinations of one term that are listed
_TOGETHER = 256  # combinations of a table of several terms
Key = tuple[Value, ...]
Sum = NDArray[np.complex128]
T = TypeVar("T")


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
        self._keys: dict[tuple[Key, ...], Sequence[Any]] = {}
        start += sum(term.known[()] for term in terms if not term.positions)
        alone: list[Term] = []
        listed: list[Term] = []
        for term in terms:
            if term.positions:
                fits = term.whole and self._size(term.positions) <= _LISTED
                (listed if fits else alone).append(term)
        groups = [(positions, self._listed(positions, t)) for positions, t in self._groups(listed)]
        looks = [_Look(term.positions, term.known) for term in alone] + self._looks(groups)
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

    def _listed(self, positions: tuple[int, ...], terms: Sequence[Term]) -> Sum:
        """Add up what terms say of every combination of the values at some positions."""
        total = np.zeros([len(self._candidates[position]) for position in positions], complex)
        for term in terms:
            total += self._spread(term, positions)
        return total

    def _looks(self, groups: Sequence[tuple[tuple[int, ...], Sum]]) -> list[_Look]:
        """Return the tables of the groups; large ones that share choices are looked up together.

        The blocks of a transformer depend on its width and depth, and each on some choices of its
        own. With one look at width and depth come the tables of all blocks, which are small, and
        one and the same for all widths or depths that make no difference.
        """
        large = [set(positions) for positions, sums in groups if sums.size > _TOGETHER]
        often = {p for places in large for p in places if sum(p in one for one in large) > 1}
        shared: dict[tuple[int, ...], list[tuple[tuple[int, ...], Sum]]] = {}
        looks: list[_Look] = []
        for positions, sums in groups:
            first = tuple(position for position in positions if position in often)
            if sums.size > _TOGETHER and 0 < len(first) < len(positions):
                shared.setdefault(first, []).append((positions, sums))
            else:
                looks.append(_Look(positions, self._by_values(positions, sums)))
        for first, together in shared.items():
            rest = [tuple(p for p in positions if p not in first) for positions, _ in together]
            parts = [self._parts(first, positions, sums) for positions, sums in together]
            known = self._keyed(first, zip(*parts, strict=True))
            looks.append(_Look(first, known, rest))
        return looks

    def _parts(
        self, first: tuple[int, ...], positions: tuple[int, ...], sums: Sum
    ) -> list[dict[Any, complex]]:
        """Return a table of the other choices for each combination of the first ones."""
        rest = tuple(position for position in positions if position not in first)
        split = sums.transpose([positions.index(position) for position in first + rest])
        made: dict[bytes, dict[Any, complex]] = {}
        return [
            made.setdefault(part.tobytes(), self._by_values(rest, part))
            for part in split.reshape(self._size(first), -1)
        ]

    def _by_values(self, positions: tuple[int, ...], sums: Sum) -> dict[Any, complex]:
        return self._keyed(positions, sums.ravel().tolist())

    def _keyed(self, positions: tuple[int, ...], figures: Iterable[T]) -> dict[Any, T]:
        """Return figures by the values at some positions; choices that are alike share the keys."""
        values = tuple(self._candidates[position] for position in positions)
        if values not in self._keys:
            self._keys[values] = values[0] if len(values) == 1 else [*itertools.product(*values)]
        return dict(zip(self._keys[values], figures, strict=True))

    def _spread(self, term: Term, positions: tuple[int, ...]) -> Sum:
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


@dataclass(frozen=True)
class _Look:
    """One look at a table, or a look at a table of tables and then at those that it gives.

    Args:
        positions: where the choices stand whose values are looked up.
        known: the figures, or tables of figures.
        rest: where the choices of these tables stand.
    """

    positions: tuple[int, ...]
    known: Mapping[Any, Any]
    rest: Sequence[tuple[int, ...]] = ()


def _compiled(count: int, looks: Sequence[_Look], start: complex) -> Callable[[Key], complex]:
    """Return a function that adds up what the tables have at the values of their positions.

    It is written out, one line a look: a loop over tables takes twice the time. The lines hold
    nothing but positions.
    """
    lines = [
        "def made(start, tables):",
        *(f"    table{number} = tables[{number}]" for number in range(len(looks))),
        "    def total(values):",
        f"        ({''.join(f'v{position}, ' for position in range(count))}) = values",
        "        found = start",
    ]
    for number, look in enumerate(looks):
        inner = [f"table{number}_{other}" for other in range(len(look.rest))]
        into = f"{''.join(name + ', ' for name in inner)}=" if inner else "found +="
        lines.append(f"        {into} table{number}[{_key(look.positions)}]")
        for name, positions in zip(inner, look.rest, strict=True):
            lines.append(f"        found += {name}[{_key(positions)}]")
    lines += ["        return found", "    return total"]
    scope: dict[str, Any] = {}
    exec("\n".join(lines), scope)
    made: Callable[[Key], complex] = scope["made"](start, [look.known for look in looks])
    return made


def _key(positions: tuple[int, ...]) -> str:
    return ", ".join(f"v{position}" for position in positions)
