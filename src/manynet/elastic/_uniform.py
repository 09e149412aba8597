"""One choice for all blocks: axes that play the same role in each block of a list share it."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from manynet.bindings.axes import Axis, Concat, Dim
from manynet.elastic._trace import Trace
from manynet.errors import InputError

__all__ = ["share_choices"]


def share_choices(trace: Trace, uniform: bool | Sequence[str]) -> Trace:
    """Return `trace` with one name for the axes whose names differ in numbers only.

    The size of an axis is looked up by its name, so axes of one name have one size in every
    member; the axes stay apart in all else, so each is put in its own order of importance.

    Args:
        trace: what hangs together in a network.
        uniform: True for all such axes, or patterns of the names of those that are meant.

    Raises:
        InputError: a pattern fits no axis.
    """
    if not uniform:
        return trace
    names = [axis.name for axis in trace.axes]
    patterns = ("*",) if uniform is True else tuple(uniform)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(
                f"uniform: the pattern {pattern!r} fits nothing; there are, for example, "
                f"{', '.join(names[:5])}"
            )
    meant = [a for a in trace.axes if any(fnmatch.fnmatchcase(a.name, p) for p in patterns)]
    renamed = _renamed(meant, set(names))
    if not renamed:
        return trace
    return replace(
        trace,
        tensors={name: _dims(dims, renamed) for name, dims in trace.tensors.items()},
        attributes={name: _dim(dim, renamed) for name, dim in trace.attributes.items()},
        axes=tuple(renamed.get(axis, axis) for axis in trace.axes),
        unequal={renamed.get(axis, axis): sizes for axis, sizes in trace.unequal.items()},
        experts=tuple(renamed.get(axis, axis) for axis in trace.experts),
    )


def _renamed(axes: Iterable[Axis], taken: set[str]) -> dict[Axis, Axis]:
    """Return an axis with the common name for each that shares a role and a size with others."""
    groups: dict[object, list[Axis]] = {}
    for axis in axes:
        role = tuple("*" if part.isdigit() else part for part in axis.name.split("."))
        groups.setdefault((role, axis.size, axis.anchor), []).append(axis)
    names = {key: _common(group) for key, group in groups.items()}
    counts = Counter(names.values())
    return {
        axis: replace(axis, name=names[key])
        for key, group in groups.items()
        if len(group) > 1 and counts[names[key]] == 1 and names[key] not in taken
        for axis in group
    }


def _common(axes: Sequence[Axis]) -> str:
    """Return the name of several axes, with a star where they differ."""
    columns = zip(*(axis.name.split(".") for axis in axes), strict=True)
    return ".".join(column[0] if len(set(column)) == 1 else "*" for column in columns)


def _dims(dims: Iterable[Dim], renamed: Mapping[Axis, Axis]) -> tuple[Dim, ...]:
    return tuple(_dim(dim, renamed) for dim in dims)


def _dim(dim: Dim, renamed: Mapping[Axis, Axis]) -> Dim:
    return tuple(
        Concat(_dims(factor.parts, renamed))
        if isinstance(factor, Concat)
        else renamed.get(factor, factor)
        for factor in dim
    )
