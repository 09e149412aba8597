"""Which choices a family has: the widths of axes, the depths of runs of blocks."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from manynet.bindings.axes import Axis, Dim, axes_of
from manynet.elastic._trace import Block, Trace
from manynet.errors import InputError
from manynet.family import Depth, Note
from manynet.space import Choice

__all__ = [
    "Ratios",
    "checked_patterns",
    "depth_choices",
    "no_depth",
    "users",
    "width_choices",
    "with_activity",
]

Ratios = Sequence[float] | Mapping[str, Sequence[float]] | None


def width_choices(
    trace: Trace, width: Ratios, keep: Sequence[str], multiple_of: int | None
) -> tuple[dict[Axis, Choice], list[Note]]:
    """Return a choice for every axis that members may cut, and notes on the others."""
    choices: dict[Axis, Choice] = {}
    whole: list[Note] = []
    _check_ratios("width", width)
    if multiple_of is not None and multiple_of < 1:
        raise InputError(f"multiple_of must be at least 1, not {multiple_of}")
    kept_names = _kept_names(trace, keep)
    for axis in trace.axes:
        ratios = _ratios_of(axis.name, width)
        kept = kept_names.get(axis.name)
        if kept is not None:
            whole.append(Note(axis.name, f"{axis.size}, kept by {kept!r}"))
        elif ratios is not None:
            barred = trace.unequal.get(axis, frozenset())
            values = tuple(v for v in _sizes(axis.size, ratios, multiple_of) if v not in barred)
            if len(values) > 1:
                choices[axis] = Choice(axis.name, values)
            else:
                whole.append(Note(axis.name, f"{axis.size}, too small for these widths"))
    if isinstance(width, Mapping):
        _check_patterns("width", width, [axis.name for axis in trace.axes])
    return choices, list(dict.fromkeys(whole))


def _check_ratios(argument: str, ratios: object) -> None:
    lists = list(ratios.values()) if isinstance(ratios, Mapping) else [ratios]
    for shares in lists:
        if shares is None or isinstance(shares, bool):
            continue
        if not isinstance(shares, list | tuple) or not shares:
            raise InputError(f"{argument} must be shares such as (0.5, 1.0), not {shares!r}")
        for share in shares:
            if not isinstance(share, int | float) or not 0 < share <= 1:
                raise InputError(
                    f"{argument} holds {share!r}; every share must be above 0 and at most 1, "
                    "such as (0.5, 1.0)"
                )


def _ratios_of(name: str, width: Ratios) -> Sequence[float] | None:
    if isinstance(width, Mapping):
        return next((r for p, r in width.items() if fnmatch.fnmatchcase(name, p)), None)
    return width


def _check_patterns(argument: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            shown = ", ".join(names[:5])
            raise InputError(
                f"{argument}: the pattern {pattern!r} fits nothing; there are, for example, {shown}"
            )


def _sizes(size: int, ratios: Sequence[float], multiple_of: int | None) -> tuple[int, ...]:
    if multiple_of is None:
        multiple_of = next((m for m, least in ((8, 64), (4, 32)) if size >= least), 1)
    rounded = {max(1, round(size * ratio / multiple_of)) * multiple_of for ratio in ratios}
    return tuple(sorted({min(value, size) for value in rounded} | {size}))


def users(tensors: Mapping[str, tuple[Dim, ...]]) -> dict[Axis, list[str]]:
    """Return the parameters and buffers that each axis runs through."""
    found: dict[Axis, list[str]] = {}
    for name, dims in tensors.items():
        for axis in {axis: None for dim in dims for axis in axes_of(dim)}:
            found.setdefault(axis, []).append(name)
    return found


def checked_patterns(model: nn.Module, trace: Trace, keep: str | Sequence[str]) -> tuple[str, ...]:
    """Return the patterns of what is kept, one of them given alone too.

    Raises:
        InputError: one fits no module and no axis.
    """
    patterns = (keep,) if isinstance(keep, str) else tuple(keep)
    if not patterns:
        return ()
    axes = [axis.name for axis in trace.axes]
    names = [*axes, *(path for path, _ in model.named_modules() if path)]
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            near = difflib.get_close_matches(pattern, names, n=3) or axes[:4]
            raise InputError(
                f"keep: the pattern {pattern!r} fits no module and no axis; there are, for "
                f"example, {', '.join(near)}"
            )
    return patterns


def _kept_names(trace: Trace, keep: Sequence[str]) -> dict[str, str]:
    """Return which names of axes are kept, and by which pattern; axes of one name stay together."""
    found = users(trace.tensors)
    kept = ((axis.name, _kept_by(axis, keep, found)) for axis in trace.axes)
    return {name: pattern for name, pattern in kept if pattern is not None}


def _kept_by(axis: Axis, keep: Sequence[str], found: Mapping[Axis, Sequence[str]]) -> str | None:
    modules = {name.rpartition(".")[0] for name in found.get(axis, ())}
    for pattern in keep:
        if fnmatch.fnmatchcase(axis.name, pattern) or any(
            fnmatch.fnmatchcase(module, pattern) for module in modules
        ):
            return pattern
    return None


def depth_choices(
    model: nn.Module, trace: Trace, depth: bool | Sequence[float], keep: Sequence[str]
) -> tuple[list[Depth], list[Choice]]:
    """Return the runs of blocks that can be left out, and a choice for each."""
    if depth is False:
        return [], []
    _check_ratios("depth", depth)
    free = _unkept(trace.blocks, keep)
    runs, choices = [], []
    for container, run, alone in _runs(model, free):
        name = f"{container or run[0]}.depth" if alone else f"{run[0]}.depth"
        least = 1 if alone and len(run) == len(list(_child(model, container).children())) else 0
        count = len(run)
        shares = [i / count for i in range(count + 1)] if depth is True else [*depth, 1.0]
        values = sorted({min(count, max(least, math.floor(s * count + 0.5))) for s in shares})
        if len(values) > 1:
            runs.append(Depth(name, tuple(run), *_closing(free, run)))
            choices.append(Choice(name, tuple(values)))
    return runs, choices


def no_depth(trace: Trace, keep: Sequence[str]) -> Note:
    """Say why no block can be left out."""
    why = "no module adds its own input to its result"
    if trace.blocks:
        few = "these shares leave none out, or a list would be left with no block"
        why = few if _unkept(trace.blocks, keep) else "kept"
    return Note("depth", f"no block to leave out: {why}")


def _unkept(blocks: Sequence[Block], keep: Sequence[str]) -> list[Block]:
    return [b for b in blocks if not any(fnmatch.fnmatchcase(b.path, p) for p in keep)]


def _closing(
    blocks: Sequence[Block], run: Sequence[str]
) -> tuple[bool, tuple[tuple[str, str], ...]]:
    """Return whether the list that holds a run closes gaps, and the attributes that count it."""
    first = next(block for block in blocks if block.path == run[0])
    return first.closes, first.counts


def _child(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


def _runs(model: nn.Module, blocks: Sequence[Block]) -> list[tuple[str, list[str], bool]]:
    """Group blocks that follow each other in one container: (container, paths, only one run)."""
    runs: list[tuple[str, list[str]]] = []
    last: tuple[str, int] | None = None
    for block in blocks:
        order = [name for name, _ in _child(model, block.container).named_children()]
        place = order.index(block.path.rpartition(".")[2])
        if last == (block.container, place - 1):
            runs[-1][1].append(block.path)
        else:
            runs.append((block.container, [block.path]))
        last = (block.container, place)
    containers = [container for container, _ in runs]
    return [(c, paths, containers.count(c) == 1) for c, paths in runs]


def with_activity(
    choices: Sequence[Choice], tensors: Mapping[str, tuple[Dim, ...]], runs: Sequence[Depth]
) -> tuple[Choice, ...]:
    """Mark each choice that matters only while a certain block is there."""
    by_name: dict[str, list[str]] = {}
    for axis, names in users(tensors).items():
        by_name.setdefault(axis.name, []).extend(names)
    values = {choice.name: choice.values for choice in choices}
    result = []
    for choice in choices:
        names = by_name.get(choice.name, [])
        for run in runs:
            for number, path in enumerate(run.blocks):
                if names and all(name.startswith(path + ".") for name in names):
                    present = tuple(v for v in values[run.choice] if int(v) > number)
                    if len(present) < len(values[run.choice]):
                        choice = replace(choice, active_when={run.choice: present})  # noqa: PLW2901
        result.append(choice)
    return tuple(result)
