"""Count, draw and search the assignments that satisfy some relations, without listing them.

The choices are read in one order. A node of the diagram stands for all beginnings that leave every
open relation in the same state: they have the same continuations, so these are counted once. A
path from the root to the end is one assignment and each assignment is one path; hence the number of
paths is the exact count, and a walk that weighs each branch by the paths below it is uniform.

Reference: decision diagrams with state merging, as in Andersen, Hadzic, Hooker and Tiedemann, "A
constraint store based on multivalued decision diagrams" (2007); ours are exact, never relaxed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, TypeAlias

__all__ = ["INACTIVE", "LIMIT", "Diagram", "Relation", "build", "reading_order"]

INACTIVE = -1
"""The label of a choice that does not matter."""
LIMIT = 200_000
"""The most edges that a diagram may have: about a second and a hundred megabytes."""

Advance: TypeAlias = Callable[[Hashable, int, int], Hashable]


@dataclass(frozen=True)
class Relation:
    """Some choices that depend on each other.

    Args:
        scope: the indices of the choices.
        read: takes the scope in the order of reading and returns the first state and the step
            `(state, k, label) -> state`, which is `None` once the relation cannot hold any more.
        summary: whether a state is small however many choices it has seen.
    """

    scope: tuple[int, ...]
    read: Callable[[tuple[int, ...]], tuple[Hashable, Advance]]
    summary: bool = False


class Node:
    """All beginnings with the same continuations."""

    __slots__ = ("children", "count", "ends", "labels")

    def __init__(self) -> None:
        self.labels: Sequence[int] = ()
        self.children: Sequence[Node] = ()
        self.ends: Sequence[int] = ()
        self.count = 1

    def close(self) -> None:
        """Drop the branches that lead nowhere and count the others."""
        kept = [i for i, child in enumerate(self.children) if child.count]
        self.labels = tuple(self.labels[i] for i in kept)
        self.children = tuple(self.children[i] for i in kept)
        self.ends = tuple(accumulate(child.count for child in self.children))
        self.count = self.ends[-1] if self.ends else 0


@dataclass(frozen=True)
class Diagram:
    """The assignments of some choices that satisfy all their relations.

    Args:
        variables: the choices' indices in the order of reading.
        layers: the nodes before each choice; the first layer holds the root alone.
    """

    variables: tuple[int, ...]
    layers: tuple[tuple[Node, ...], ...]

    @property
    def root(self) -> Node:
        """The node where every path begins."""
        return self.layers[0][0]

    @property
    def count(self) -> int:
        """The number of assignments, exactly."""
        return self.root.count

    def path(self, number: int) -> list[int]:
        """Return the labels of one path; the numbers from 0 below `count` name all of them."""
        labels = []
        node = self.root
        while node.labels:
            branch = bisect_right(node.ends, number)
            number -= node.ends[branch - 1] if branch else 0
            labels.append(node.labels[branch])
            node = node.children[branch]
        return labels

    def walk(self, shares: Sequence[float]) -> list[int]:
        """Return the path that takes, at each choice, the branch at this share of its branches."""
        labels = []
        node = self.root
        for share in shares:
            branch = int(share * len(node.labels))
            labels.append(node.labels[branch])
            node = node.children[branch]
        return labels

    def paths(self) -> Iterator[list[int]]:
        """Yield every path, in the order of the labels."""
        labels: list[int] = []
        stack = [iter(zip(self.root.labels, self.root.children, strict=True))]
        while stack:
            branch = next(stack[-1], None)
            if branch is None:
                stack.pop()
                del labels[-1:]
                continue
            labels.append(branch[0])
            if len(labels) < len(self.variables):
                stack.append(iter(zip(branch[1].labels, branch[1].children, strict=True)))
            else:
                yield list(labels)
                labels.pop()

    def cheapest(self, costs: Sequence[Mapping[int, int]]) -> list[int] | None:
        """Return the path with the least sum of costs; a label without a cost is not taken.

        Returns:
            The labels, or `None` if no path is left.
        """
        best: dict[Node, tuple[int, int]] = {}
        for layer, cost in zip(reversed(self.layers), reversed(costs), strict=True):
            for node in layer:
                options = [
                    (cost[label] + best.get(child, (0, 0))[0], branch)
                    for branch, (label, child) in enumerate(
                        zip(node.labels, node.children, strict=True)
                    )
                    if label in cost and (child in best or not child.labels)
                ]
                if options:
                    best[node] = min(options)
        return self._follow(best) if self.root in best else None

    def _follow(self, best: Mapping[Node, tuple[int, int]]) -> list[int]:
        labels = []
        node = self.root
        while node.labels:
            branch = best[node][1]
            labels.append(node.labels[branch])
            node = node.children[branch]
        return labels


class _Move(NamedTuple):
    """What one relation does while one choice is read."""

    slot: int  # where its state lies before; -1 when it begins here
    start: Hashable
    advance: Advance | None  # None when the choice does not concern it
    step: int
    stays: bool  # whether it is still open afterwards


def build(
    variables: Sequence[int],
    labels: Mapping[int, Sequence[int]],
    relations: Sequence[Relation],
    limit: int = LIMIT,
) -> Diagram | None:
    """Return the diagram of `variables` under `relations`, or `None` if it outgrows `limit` edges.

    Args:
        variables: the choices in the order of reading.
        labels: the labels that each choice may have.
        relations: what must hold; their scopes lie within `variables`.
        limit: the most edges before giving up.
    """
    plan = _plan(variables, relations)
    root = Node()
    layers: list[tuple[Node, ...]] = [(root,)]
    states: dict[tuple[Hashable, ...], Node] = {(): root}
    edges = 0
    for variable, moves in zip(variables, plan, strict=True):
        following: dict[tuple[Hashable, ...], Node] = {}
        for state, node in states.items():
            steps = [(label, _move(state, moves, label)) for label in labels[variable]]
            ways = [(label, after) for label, after in steps if after is not None]
            node.labels = [label for label, _ in ways]
            node.children = [_node(following, after) for _, after in ways]
            edges += len(ways)
            if edges > limit:
                return None
        states = following
        layers.append(tuple(states.values()))
    for layer in reversed(layers[:-1]):
        for node in layer:
            node.close()
    return Diagram(tuple(variables), tuple(layers[:-1]))


def _node(found: dict[tuple[Hashable, ...], Node], state: tuple[Hashable, ...]) -> Node:
    node = found.get(state)
    if node is None:
        node = found[state] = Node()
    return node


def _move(
    state: tuple[Hashable, ...], moves: Sequence[_Move], label: int
) -> tuple[Hashable, ...] | None:
    after = []
    for slot, start, advance, step, stays in moves:
        held = state[slot] if slot >= 0 else start
        if advance is not None:
            held = advance(held, step, label)
            if held is None:
                return None
        if stays:
            after.append(held)
    return tuple(after)


def _plan(variables: Sequence[int], relations: Sequence[Relation]) -> list[list[_Move]]:
    """Return the moves at each choice; the open relations' states lie side by side in a tuple."""
    when = {variable: time for time, variable in enumerate(variables)}
    orders = [tuple(sorted(relation.scope, key=when.__getitem__)) for relation in relations]
    readers = [relation.read(order) for relation, order in zip(relations, orders, strict=True)]
    touching: dict[int, list[int]] = {variable: [] for variable in variables}
    for number, order in enumerate(orders):
        for variable in order:
            touching[variable].append(number)
    plan: list[list[_Move]] = []
    open_: list[int] = []
    for variable in variables:
        touched = touching[variable]
        slots = {number: slot for slot, number in enumerate(open_)}
        present = open_ + [number for number in touched if number not in slots]
        moves = []
        open_ = []
        for number in present:
            order, (start, advance) = orders[number], readers[number]
            stays = order[-1] != variable
            moves.append(
                _Move(
                    slots.get(number, -1),
                    start,
                    advance if number in touched else None,
                    order.index(variable) if number in touched else -1,
                    stays,
                )
            )
            if stays:
                open_.append(number)
        plan.append(moves)
    return plan


def reading_order(
    variables: Sequence[int], relations: Sequence[Relation], after: Mapping[int, Sequence[int]]
) -> list[int]:
    """Return an order in which few choices must be remembered at a time.

    Greedy: next comes the choice that leaves the fewest choices with unfinished relations. Those
    whose states are summaries do not count, since they remember no choice.

    Args:
        variables: the choices.
        relations: what links them.
        after: choices that must come later than others.
    """
    touching: dict[int, list[Relation]] = {variable: [] for variable in variables}
    for relation in relations:
        for variable in relation.scope:
            if not relation.summary:
                touching[variable].append(relation)
    waiting = dict.fromkeys(variables)
    missing = {id(relation): set(relation.scope) for relation in relations}
    unfinished = {variable: len(touching[variable]) for variable in variables}
    placed: list[int] = []

    def growth(variable: int) -> int:
        """Return how many more choices must be remembered once this one is read."""
        done = [r for r in touching[variable] if missing[id(r)] == {variable}]
        freed: dict[int, int] = {}
        for relation in done:
            for other in relation.scope:
                freed[other] = freed.get(other, 0) + 1
        leaving = sum(unfinished[other] == n for other, n in freed.items() if other != variable)
        return int(unfinished[variable] > freed.get(variable, 0)) - leaving

    while waiting:
        ready = [v for v in waiting if not any(a in waiting for a in after.get(v, ()))]
        chosen = min(ready, key=growth)
        del waiting[chosen]
        placed.append(chosen)
        for relation in touching[chosen]:
            missing[id(relation)].discard(chosen)
            if not missing[id(relation)]:
                for other in relation.scope:
                    unfinished[other] -= 1
    return placed
