"""A space seen as positions: every choice is a whole number below its number of values.

Here live activity, validity, counting, drawing and repair; names and values are the
business of `_space.py`. A list of positions is *folded* when every inactive choice is at 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from manynet.errors import InputError
from manynet.space._diagram import INACTIVE, LIMIT, Diagram, Relation, build, reading_order

__all__ = ["Condition", "Lattice", "below"]

REJECTIONS = 2000
"""How often a component too entangled for a diagram is drawn before giving up."""


@dataclass(frozen=True)
class Condition:
    """When a choice matters: all these parents matter, at one of these positions each."""

    child: int
    parents: tuple[tuple[int, frozenset[int]], ...]

    def relation(self) -> Relation:
        """Return the tie between the parents' positions and the child's activity."""
        parents = dict(self.parents)

        def read(order: tuple[int, ...]) -> tuple[Hashable, Callable[..., Hashable]]:
            def advance(state: Hashable, step: int, label: int) -> Hashable:
                variable = order[step]
                if variable in parents:
                    return bool(state) and label in parents[variable]
                return state if (label != INACTIVE) == state else None

            return True, advance

        return Relation((*parents, self.child), read)


@dataclass(frozen=True)
class Component:
    """Choices that hang together, in no way linked to any other choice."""

    variables: tuple[int, ...]
    relations: tuple[Relation, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Lattice:
    """The positions of a space.

    Args:
        names: the choices' names, for messages.
        sizes: how many values each choice has.
        relations: the constraints, over positions.
        conditions: which choices matter when; parents before their children.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    relations: tuple[Relation, ...]
    conditions: tuple[Condition, ...]

    # --- activity and validity

    def active(self, positions: Sequence[int]) -> list[bool]:
        """Return whether each choice matters."""
        flags = [True] * len(self.sizes)
        for condition in self.conditions:
            flags[condition.child] = all(
                flags[parent] and positions[parent] in allowed
                for parent, allowed in condition.parents
            )
        return flags

    def fold(self, positions: list[int]) -> list[int]:
        """Put the inactive choices to 0, in place, and return the list."""
        if self.conditions:
            for variable, matters in enumerate(self.active(positions)):
                if not matters:
                    positions[variable] = 0
        return positions

    @functools.cached_property
    def _checks(self) -> dict[int, Callable[[Sequence[int]], bool]]:
        return {id(relation): _check(relation) for relation in self.relations}

    def accepts(self, positions: Sequence[int], relations: Sequence[Relation]) -> bool:
        """Whether folded positions satisfy these relations."""
        return all(self._checks[id(relation)](positions) for relation in relations)

    def valid(self, positions: Sequence[int]) -> bool:
        """Whether folded positions satisfy every constraint."""
        return not self.relations or self.accepts(positions, self.relations)

    # --- components and their diagrams

    @functools.cached_property
    def components(self) -> tuple[Component, ...]:
        """The choices that are linked to others, in groups; in the order of their first choice."""
        links = [relation.scope for relation in self.relations]
        links += [(c.child, *(parent for parent, _ in c.parents)) for c in self.conditions]
        group = _groups(len(self.sizes), links)
        linked = {variable for link in links for variable in link}
        found = []
        for root in dict.fromkeys(group[v] for v in sorted(linked)):
            found.append(
                Component(
                    tuple(v for v in range(len(self.sizes)) if group[v] == root),
                    tuple(r for r in self.relations if group[r.scope[0]] == root),
                    tuple(c for c in self.conditions if group[c.child] == root),
                )
            )
        return tuple(found)

    @functools.cached_property
    def free(self) -> tuple[int, ...]:
        """The choices that are linked to no other."""
        linked = {variable for component in self.components for variable in component.variables}
        return tuple(v for v in range(len(self.sizes)) if v not in linked)

    @functools.cached_property
    def diagrams(self) -> tuple[Diagram | None, ...]:
        """The diagram of each component, or `None` for one that is too entangled."""
        return tuple(self._diagram(component) for component in self.components)

    def _diagram(self, component: Component) -> Diagram | None:
        relations = [*component.relations, *(c.relation() for c in component.conditions)]
        after = {c.child: [parent for parent, _ in c.parents] for c in component.conditions}
        labels = {v: list(range(self.sizes[v])) for v in component.variables}
        for child in after:
            labels[child].insert(0, INACTIVE)
        order = reading_order(component.variables, relations, after)
        return build(order, labels, relations, LIMIT)

    def diagram(self, number: int) -> Diagram:
        """Return the diagram of a component. Raises `InputError` if it is too entangled."""
        diagram = self.diagrams[number]
        if diagram is None:
            component = self.components[number]
            shown = ", ".join(self.names[v] for v in component.variables[:6])
            more = ", …" if len(component.variables) > 6 else ""
            raise InputError(
                f"{len(component.variables)} choices ({shown}{more}) hang together through "
                f"{len(component.relations)} constraints in more than {LIMIT:,} ways, too many to "
                "count exactly; try fewer values, fewer constraints that overlap, or rounder "
                "weights in AtMost"
            )
        return diagram

    @functools.cached_property
    def count(self) -> int:
        """The number of folded, valid positions, exactly."""
        linked = (self.diagram(number).count for number in range(len(self.components)))
        return math.prod(self.sizes[v] for v in self.free) * math.prod(linked)

    # --- drawing

    @functools.cached_property
    def _bounds(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(self.sizes, dtype=np.int64)

    def draw(self, rng: np.random.Generator) -> list[int]:
        """Return positions, each valid member with equal probability."""
        positions: list[int] = rng.integers(0, self._bounds).tolist()
        for number in range(len(self.components)):
            diagram = self.diagram(number)
            _put(positions, diagram, diagram.path(below(rng, diagram.count)))
        return positions

    def draw_by_choice(self, rng: np.random.Generator) -> list[int]:
        """Return positions, each choice uniform over what the choices before it leave open."""
        positions: list[int] = rng.integers(0, self._bounds).tolist()
        for component, diagram in zip(self.components, self.diagrams, strict=True):
            if diagram is None:
                self._reject(component, positions, rng)
            else:
                shares = rng.random(len(diagram.variables)).tolist()
                _put(positions, diagram, diagram.walk(shares))
        return positions

    def _reject(self, component: Component, positions: list[int], rng: np.random.Generator) -> None:
        """Draw one component again and again until it is valid."""
        for _ in range(REJECTIONS):
            drawn = self.fold(rng.integers(0, self._bounds).tolist())
            if self.accepts(drawn, component.relations):
                for variable in component.variables:
                    positions[variable] = drawn[variable]
                return
        shown = ", ".join(self.names[v] for v in component.variables[:6])
        raise InputError(
            f"none of {REJECTIONS} draws of the choices {shown} … satisfied their constraints, "
            "which are too entangled to draw from otherwise; loosen or simplify the constraints"
        )

    # --- all of them, and the nearest one

    def walk(self) -> Iterator[list[int]]:
        """Yield all folded, valid positions in a fixed order; the same list, changed in place."""
        parts: list[tuple[int, Callable[[], Iterator[None]]]] = []
        positions = [0] * len(self.sizes)
        for number, component in enumerate(self.components):
            run = functools.partial(_run, positions, self.diagram(number))
            parts.append((component.variables[0], run))
        for variable in self.free:
            parts.append(
                (variable, functools.partial(_count, positions, variable, self.sizes[variable]))
            )
        starts = [start for _, start in sorted(parts, key=lambda part: part[0])]
        stack: list[Iterator[None]] = []
        while True:
            while len(stack) < len(starts):
                stack.append(starts[len(stack)]())
                next(stack[-1])
            yield positions
            while stack and next(stack[-1], "end") == "end":
                stack.pop()
            if not stack:
                return

    def nearest(
        self, target: Sequence[int], kept: Mapping[int, int] | None = None
    ) -> list[int] | None:
        """Return the valid positions with the fewest steps from `target`.

        Components that are valid already stay. Ties go to the one whose first choices are nearest.

        Args:
            target: where to stay close to.
            kept: positions that must be met, unless the choice is inactive.

        Returns:
            Folded positions, or `None` if nothing valid meets `kept`.
        """
        kept = kept or {}
        draft = list(target)
        for variable, position in kept.items():
            draft[variable] = position
        draft = self.fold(draft)
        for number, component in enumerate(self.components):
            if self.accepts(draft, component.relations):
                continue
            diagram = self.diagram(number)
            costs = self._costs(component, target, kept)
            labels = diagram.cheapest([costs[v] for v in diagram.variables])
            if labels is None:
                return None
            _put(draft, diagram, labels)
        return draft

    def _costs(
        self, component: Component, target: Sequence[int], kept: Mapping[int, int]
    ) -> dict[int, dict[int, int]]:
        """Return the cost of each label: steps from the target, then who takes them."""
        base = max(self.sizes)
        place = base ** len(component.variables)
        costs: dict[int, dict[int, int]] = {}
        tie = place
        for variable in component.variables:
            tie //= base
            reach = range(self.sizes[variable])
            steps = {position: abs(position - target[variable]) for position in reach}
            if variable in kept:
                steps = {kept[variable]: 0}
            steps[INACTIVE] = 0 if variable in kept else abs(target[variable])
            costs[variable] = {label: n * place + n * tie for label, n in steps.items()}
        return costs


def _check(relation: Relation) -> Callable[[Sequence[int]], bool]:
    start, advance = relation.read(relation.scope)

    def check(positions: Sequence[int]) -> bool:
        state = start
        for step, variable in enumerate(relation.scope):
            state = advance(state, step, positions[variable])
            if state is None:
                return False
        return True

    return check


def _put(positions: list[int], diagram: Diagram, labels: Sequence[int]) -> None:
    for variable, label in zip(diagram.variables, labels, strict=True):
        positions[variable] = max(label, 0)


def _run(positions: list[int], diagram: Diagram) -> Iterator[None]:
    for labels in diagram.paths():
        _put(positions, diagram, labels)
        yield


def _count(positions: list[int], variable: int, size: int) -> Iterator[None]:
    for position in range(size):
        positions[variable] = position
        yield


def _groups(n: int, links: Sequence[Sequence[int]]) -> list[int]:
    """Return for each of `n` things a thing that stands for all it is linked to."""
    parent = list(range(n))

    def root(thing: int) -> int:
        while parent[thing] != thing:
            parent[thing] = parent[parent[thing]]
            thing = parent[thing]
        return thing

    for link in links:
        for thing in link[1:]:
            parent[root(thing)] = root(link[0])
    return [root(thing) for thing in range(n)]


def below(rng: np.random.Generator, bound: int) -> int:
    """Return a whole number below `bound`, exactly uniform however large the bound is."""
    if bound <= 1 << 62:
        return int(rng.integers(bound))
    bits = (bound - 1).bit_length()
    size = (bits + 7) // 8
    while True:
        drawn = int.from_bytes(rng.bytes(size), "little") >> (size * 8 - bits)
        if drawn < bound:
            return drawn
