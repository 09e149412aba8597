"""Axes while the trace runs: nodes that are united, split and frozen as operations reveal them.

An `Extent` is the trace's form of a dimension: a tuple of nodes, outermost first, whose sizes
multiply. A node is a leaf, a product (it was split into factors), or a sum (it was found to be
laid end to end out of extents). Uniting makes one node a product of the single other, so every
extent that mentions either follows. A dimension of size 1 is the empty extent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise

__all__ = [
    "Extent",
    "Node",
    "concatenate",
    "equally_long",
    "extent",
    "flatten",
    "freeze",
    "is_frozen",
    "leaves",
    "regroup",
    "size_of",
    "split_parts",
    "unify",
]

VIEWED = "a concatenation viewed as a product"


class Node:
    """One axis under trace.

    Args:
        size: how many positions it has.
        reason: why it is frozen, or None where it is elastic.
    """

    __slots__ = ("factors", "parts", "reason", "size")

    def __init__(self, size: int, reason: str | None = None) -> None:
        self.size = size
        self.reason = reason
        self.factors: Extent | None = None
        self.parts: list[Extent] | None = None

    def __repr__(self) -> str:
        if self.factors is not None:
            return f"({' x '.join(map(repr, self.factors))})"
        if self.parts is not None:
            return f"({' + '.join(repr(part) for part in self.parts)})"
        return f"{self.size}{'!' if self.reason else ''}"


Extent = tuple[Node, ...]
"""A dimension under trace: nodes whose sizes multiply, outermost first."""


def extent(size: int, reason: str | None = None) -> Extent:
    """Return a new extent of one leaf, or the empty extent where the size is 1.

    Of no positions there is nothing to cut.
    """
    if size == 0 and reason is None:
        reason = "empty"
    return (Node(size, reason),) if size != 1 else ()


def flatten(dim: Extent) -> Extent:
    """Return `dim` with every product replaced by its factors and every node of size 1 left out."""
    for node in dim:
        if node.factors is not None or node.size == 1:
            break
    else:
        return dim
    flat: list[Node] = []
    for node in dim:
        if node.factors is not None:
            node.factors = flatten(node.factors)
            flat.extend(node.factors)
        elif node.size != 1:
            flat.append(node)
    return tuple(flat)


def size_of(dim: Iterable[Node]) -> int:
    """Return how many positions `dim` has."""
    return math.prod(node.size for node in dim)


def leaves(dim: Extent) -> Iterator[Node]:
    """Yield every leaf of `dim`, those inside sums too."""
    for node in flatten(dim):
        if node.parts is None:
            yield node
        else:
            for part in node.parts:
                yield from leaves(part)


def freeze(dim: Extent, reason: str) -> None:
    """Make every leaf of `dim` frozen; one that already is keeps its first reason."""
    for leaf in leaves(dim):
        if leaf.reason is None:
            leaf.reason = reason


def is_frozen(dim: Extent) -> bool:
    """Return whether every leaf of `dim` is frozen."""
    return all(leaf.reason is not None for leaf in leaves(dim))


def _reason(dim: Extent) -> str:
    return next((leaf.reason for leaf in leaves(dim) if leaf.reason is not None), "size 1")


def equally_long(left: Extent, right: Extent) -> bool:
    """Return whether two extents have the same length in every member: the same factors."""
    return _factors(left) == _factors(right)


def _factors(dim: Extent) -> tuple[int, list[int]]:
    flat = flatten(dim)
    fixed = math.prod(node.size for node in flat if node.reason is not None)
    return fixed, sorted(id(node) for node in flat if node.reason is None)


def concatenate(parts: Sequence[Extent]) -> Extent:
    """Return the extent that lays `parts` end to end, in this order; empty ones add nothing."""
    parts = [part for part in parts if size_of(part)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    total = sum(size_of(part) for part in parts)
    if all(is_frozen(part) for part in parts):
        return extent(total, next((_reason(part) for part in parts if flatten(part)), "size 1"))
    node = Node(total)
    node.parts = []
    for part in parts:
        flat = flatten(part)
        if len(flat) == 1 and flat[0].parts is not None:
            node.parts.extend(flat[0].parts)
        else:
            node.parts.append(flat)
    return (node,)


def unify(left: Extent, right: Extent) -> None:
    """Make two extents of equal size the same axes; freeze what does not factor alike."""
    if left is right:
        return
    a, b = list(flatten(left))[::-1], list(flatten(right))[::-1]
    while a and b:
        x, y = a.pop(), b.pop()
        if x.factors is not None:
            a.extend(flatten((x,))[::-1])
            b.append(y)
        elif y.factors is not None:
            b.extend(flatten((y,))[::-1])
            a.append(x)
        elif x.size == y.size:
            _merge(x, y)
        elif x.size % y.size == 0:
            a.extend(_factor(x, y.size)[::-1])
            b.append(y)
        elif y.size % x.size == 0:
            b.extend(_factor(y, x.size)[::-1])
            a.append(x)
        elif not (_coalesce(x, y, a, b) or _coalesce(y, x, b, a)):
            a.append(x)
            b.append(y)
            break
    if a or b:
        freeze((*a, *b), "its factors do not line up")


def _coalesce(x: Node, y: Node, own: list[Node], other: list[Node]) -> bool:
    """Join the frozen `x` with the frozen node after it where both are needed to reach `y`."""
    if x.size > y.size or x.reason is None or not own or own[-1].reason is None:
        return False
    own.append(_joined(x, own.pop()))
    other.append(y)
    return True


def _joined(x: Node, y: Node) -> Node:
    return Node(x.size * y.size, x.reason)


def _merge(x: Node, y: Node) -> None:
    if x is y:
        return
    if x.parts is None and y.parts is None:
        y.reason = y.reason or x.reason
        x.factors = (y,)
    elif x.parts is None:
        if x.reason is not None:
            freeze((y,), x.reason)
        x.factors = (y,)
    elif y.parts is None:
        _merge(y, x)
    else:
        _merge_sums(x, y)


def _merge_sums(x: Node, y: Node) -> None:
    if _sizes(x) != _sizes(y):
        bounds = sorted({*accumulate(_sizes(x)), *accumulate(_sizes(y))})
        _refine(x, bounds)
        _refine(y, bounds)
    for left, right in zip(x.parts or (), y.parts or (), strict=True):
        unify(left, right)
    x.parts, x.factors = None, (y,)


def _sizes(node: Node) -> list[int]:
    return [size_of(part) for part in node.parts or ()]


def _refine(node: Node, bounds: Sequence[int]) -> None:
    """Cut the parts of a sum at every bound."""
    refined: list[Extent] = []
    start = 0
    for part in node.parts or ():
        end = start + size_of(part)
        inner = [start, *(bound for bound in bounds if start < bound < end), end]
        sizes = [high - low for low, high in pairwise(inner)]
        refined.extend([part] if len(sizes) == 1 else split_parts(part, sizes))
        start = end
    node.parts = refined


def _factor(node: Node, outer: int) -> Extent:
    """Split a node, no product, into `outer` and what remains; return the two factors."""
    inner = node.size // outer
    if node.parts is not None:
        lined_up = _factor_sum(node, inner)
        if lined_up is not None:
            return lined_up
        freeze((node,), VIEWED)
        node.parts, node.reason = None, VIEWED
    factors = (Node(outer, node.reason), Node(inner, node.reason))
    if node.reason is None:  # a frozen axis may be viewed as other factors elsewhere
        node.factors = factors
    return factors


def _factor_sum(node: Node, inner: int) -> Extent | None:
    """Split a sum whose parts all end in the factor `inner`: the sum moves to the outer factor."""
    parts = node.parts or []
    if any(size_of(part) % inner for part in parts):
        return None
    shared = Node(inner)
    leads = []
    for part in parts:
        lead = extent(size_of(part) // inner)
        unify(part, (*lead, shared))
        leads.append(lead)
    outer = concatenate(leads) if any(leads) else extent(len(leads), "stacked parts")
    node.parts, node.factors = None, (*outer, shared)
    return node.factors


def split_parts(dim: Extent, sizes: Sequence[int]) -> list[Extent]:
    """Make `dim` the concatenation of parts of these sizes; return the parts."""
    if len(sizes) == 1:
        return [dim]
    flat = flatten(dim)
    if set(sizes) == {1}:
        freeze(flat, "cut into single positions")
    if is_frozen(flat):
        return [extent(size, _reason(flat)) for size in sizes]
    head, rest = flat[0], flat[1:]
    inner = size_of(rest)
    if any(size % inner for size in sizes):
        freeze(flat, "cut across its factors")
        return [extent(size, "cut across its factors") for size in sizes]
    if rest:
        return [(*part, *rest) for part in split_parts((head,), [size // inner for size in sizes])]
    if head.parts is None:
        head.parts = [extent(size) for size in sizes]
    elif _sizes(head) != list(sizes):
        _refine(head, list(accumulate(sizes)))
        return _gather(head, sizes)
    return list(head.parts)


def _gather(node: Node, sizes: Sequence[int]) -> list[Extent]:
    """Return the parts of a sum gathered into groups of these sizes, whose bounds it has."""
    pending = iter(node.parts or ())
    groups = []
    for size in sizes:
        group: list[Extent] = []
        while sum(map(size_of, group)) < size:
            group.append(next(pending))
        groups.append(concatenate(group) if group else extent(0, "empty"))
    return groups


def regroup(dims: Sequence[Extent], sizes: Sequence[int]) -> list[Extent] | None:
    """Deal the factors of `dims`, in order, into new dimensions of these sizes, as a view does.

    Returns:
        The new dimensions, or None where no factoring fits; then all of `dims` is frozen.
    """
    pending = [node for dim in dims for node in flatten(dim)][::-1]
    result: list[Extent] = []
    for size in sizes:
        taken = _take(pending, size)
        if taken is None:
            for dim in dims:
                freeze(dim, "viewed across its factors")
            return None
        result.append(taken)
    return result


def _take(pending: list[Node], size: int) -> Extent | None:
    """Take nodes of this size off the end of `pending`, split as needed; None where none fit."""
    taken: list[Node] = []
    while size > 1 and pending:
        node = pending.pop()
        if node.factors is not None:
            pending.extend(flatten((node,))[::-1])
        elif size % node.size == 0:
            taken.append(node)
            size //= node.size
        elif (shared := math.gcd(size, node.size)) > 1:
            pending.extend(_factor(node, shared)[::-1])
        elif node.reason is not None and pending and pending[-1].reason is not None:
            pending.append(_joined(node, pending.pop()))
        else:
            return None
    return tuple(taken) if size == 1 else None
