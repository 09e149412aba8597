"""From choices and constraints, which have names and values, to a lattice of positions."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Hashable, Mapping, Sequence

from manynet.errors import InputError
from manynet.space._choice import Choice
from manynet.space._constraint import Constraint
from manynet.space._diagram import Relation
from manynet.space._lattice import Condition, Lattice

__all__ = ["lattice_of"]


def lattice_of(choices: Sequence[Choice], constraints: Sequence[Constraint]) -> Lattice:
    """Return the lattice of a space. Raises `InputError` for conditions that go in a circle."""
    index = {choice.name: v for v, choice in enumerate(choices)}
    found = [_condition(choice, choices, index) for choice in choices if choice.active_when]
    return Lattice(
        tuple(index),
        tuple(len(choice.values) for choice in choices),
        tuple(_relation(constraint, choices, index) for constraint in constraints),
        _parents_first(found, tuple(index)),
    )


def _condition(choice: Choice, choices: Sequence[Choice], index: Mapping[str, int]) -> Condition:
    parents = tuple(
        (index[name], frozenset(map(choices[index[name]].place, values)))
        for name, values in (choice.active_when or {}).items()
    )
    return Condition(index[choice.name], parents)


def _parents_first(found: Sequence[Condition], names: Sequence[str]) -> tuple[Condition, ...]:
    by_child = {condition.child: condition for condition in found}
    graph = {child: [v for v, _ in condition.parents] for child, condition in by_child.items()}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        circle = " -> ".join(names[v] for v in error.args[1])
        raise InputError(
            f"the choices {circle} matter only when the one before does; break the circle"
        ) from error
    return tuple(by_child[v] for v in order if v in by_child)


def _relation(
    constraint: Constraint, choices: Sequence[Choice], index: Mapping[str, int]
) -> Relation:
    values = {choice.name: choice.values for choice in choices}

    def read(order: tuple[int, ...]) -> tuple[Hashable, Callable[..., Hashable]]:
        columns = [choices[v].values for v in order]
        start, advance = constraint.reader([choices[v].name for v in order], values)
        return start, lambda state, k, label: advance(state, k, columns[k][max(label, 0)])

    return Relation(tuple(index[name] for name in constraint.names), read, constraint.summary)
