"""Small steps through a lattice: mutation, crossover, neighbors. All keep to the constraints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from manynet.errors import InputError
from manynet.space._lattice import Lattice

__all__ = ["crossover", "mutate", "neighbors"]

TRIES = 8
"""How often a mutation or a crossover is drawn again before it is repaired instead."""


def mutate(
    lattice: Lattice, positions: list[int], rng: np.random.Generator, probability: float
) -> list[int]:
    """Return other valid positions: each active choice moves with `probability`, one at least.

    Where the constraints refuse, one of the moved choices stays moved and the others follow as
    little as needed. With nowhere to go, the positions come back unchanged.
    """
    sizes, active = lattice.sizes, lattice.active(positions)
    movable = [v for v, size in enumerate(sizes) if size > 1 and active[v]]
    if not movable:
        return positions
    moves: dict[int, int] = {}
    for _ in range(TRIES):
        chances, places, spare = rng.random((3, len(sizes))).tolist()
        moved = [v for v in movable if chances[v] < probability]
        moved = moved or [movable[int(spare[0] * len(movable))]]
        moves = {v: _other(positions[v], sizes[v], places[v]) for v in moved}
        draft = _awake(lattice, positions, active, places)
        for v, position in moves.items():
            draft[v] = position
        child = lattice.fold(draft)
        if lattice.valid(child) and child != positions:
            return child
    order = rng.permutation(list(moves)).tolist()
    repairs = (_follow(lattice, positions, {v: moves[v]}) for v in order)
    found = next((child for child in repairs if child is not None), None)
    return found or next(neighbors(lattice, positions, None), positions)


def crossover(
    lattice: Lattice, first: list[int], second: list[int], rng: np.random.Generator
) -> list[int]:
    """Return valid positions that take each choice from one of two valid parents.

    Where that breaks a constraint, the choices that hang together come from one parent.
    """
    active = list(zip(lattice.active(first), lattice.active(second), strict=True))
    for _ in range(TRIES):
        chances, places = rng.random((2, len(first))).tolist()
        child = [
            _inherit(*pair, *has, chance)
            for pair, has, chance in zip(
                zip(first, second, strict=True), active, chances, strict=True
            )
        ]
        if lattice.conditions:
            child = _awake(lattice, child, [a or b for a, b in active], places)
            child = lattice.fold(child)
        if lattice.valid(child):
            return child
    chances = rng.random(len(first)).tolist()
    child = [a if u < 0.5 else b for a, b, u in zip(first, second, chances, strict=True)]
    for component in lattice.components:
        parent = first if chances[component.variables[0]] < 0.5 else second
        for v in component.variables:
            child[v] = parent[v]
    return child


def neighbors(lattice: Lattice, positions: list[int], steps: int | None) -> Iterator[list[int]]:
    """Yield valid positions in which one active choice moved (others follow where they must)."""
    seen = {tuple(positions)}
    for variable, matters in enumerate(lattice.active(positions)):
        if not matters:
            continue
        here, size = positions[variable], lattice.sizes[variable]
        reach = size if steps is None else steps
        for position in range(max(here - reach, 0), min(here + reach + 1, size)):
            found = _follow(lattice, positions, {variable: position})
            if found is not None and tuple(found) not in seen:
                seen.add(tuple(found))
                yield found


def _other(position: int, size: int, place: float) -> int:
    """Return a position other than this one, uniform for a uniform `place` in [0, 1)."""
    return (position + 1 + int(place * (size - 1))) % size


def _inherit(first: int, second: int, has_first: bool, has_second: bool, chance: float) -> int:
    """Return one parent's position; a parent in which the choice is inactive has no say."""
    if has_first != has_second:
        return first if has_first else second
    return first if chance < 0.5 else second


def _awake(
    lattice: Lattice, positions: Sequence[int], active: Sequence[bool], places: Sequence[float]
) -> list[int]:
    """Return the positions with the inactive ones drawn, should they begin to matter."""
    if not lattice.conditions:
        return list(positions)
    return [
        position if active[v] else int(places[v] * lattice.sizes[v])
        for v, position in enumerate(positions)
    ]


def _follow(lattice: Lattice, positions: list[int], kept: Mapping[int, int]) -> list[int] | None:
    """Return valid positions that meet `kept` and stay near, if that can be worked out."""
    try:
        return lattice.nearest(positions, kept)
    except InputError:  # too entangled to repair
        return None
