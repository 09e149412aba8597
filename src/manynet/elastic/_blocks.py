"""Which modules of a network a member can leave out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from manynet.elastic._axes import Extent, Node, is_frozen, leaves, size_of
from manynet.elastic._lists import counts_of
from manynet.elastic._origins import Count
from manynet.elastic._residual import Call
from manynet.elastic._run import Run
from manynet.family.skeleton import closes_gaps

__all__ = ["Block", "blocks_of"]


@dataclass(frozen=True, slots=True)
class Block:
    """A module whose call a member can leave out: it adds its own input to its result.

    Args:
        path: the module's path.
        container: the path of its parent.
        closes: whether its parent is a list that may be shorter: the code goes through whatever
            it holds. Else an identity takes the block's place.
        counts: path and name of the attributes that hold the length of that list.
    """

    path: str
    container: str
    closes: bool = False
    counts: tuple[tuple[str, str], ...] = ()


def blocks_of(model: nn.Module, run: Run) -> tuple[Block, ...]:
    """Return the modules that can be left out in every one of their calls, in order of the calls.

    Of blocks inside blocks the innermost are taken; but a block of a list of such blocks is taken
    before one that stands alone inside it.

    Args:
        model: the network.
        run: a finished run of its copy.
    """
    found: dict[str, list[Call]] = {}
    for call in run.residual:
        if call.path and call.path not in run.needed and _same(call):
            found.setdefault(call.path, []).append(call)
    blocks: dict[str, Block] = {}
    counts: dict[str, tuple[tuple[str, str], ...]] = {}
    for path, calls in found.items():
        if len(calls) == run.calls[path]:
            block = _block(model, run, path, all(call.plain for call in calls), counts)
            if block is not None:
                blocks[path] = block
    order = {path: position for position, path in enumerate(run.calls)}
    chosen = _innermost(model, blocks)
    return tuple(blocks[path] for path in sorted(chosen, key=order.__getitem__))


def _block(
    model: nn.Module,
    run: Run,
    path: str,
    plain: bool,
    counts: dict[str, tuple[tuple[str, str], ...]],
) -> Block | None:
    """Return the block at `path`, or None where nothing can take its place."""
    container = path.rpartition(".")[0]
    if closes_gaps(model.get_submodule(container)):
        return Block(path, container)
    watched = run.lists.get(container)
    if watched is not None:
        if container not in counts:
            counts[container] = counts_of(model, container)
        named = counts[container]
        if any(Count(*place) in run.origins.counting for place in named):  # sizes tensors as well
            return Block(path, container) if plain else None
        if named and (watched.iterated or len(set(map(type, watched.children()))) == 1):
            return Block(path, container, closes=True, counts=named)
        if not plain and (watched.iterated or watched.counted):
            return Block(path, container, closes=True)
    return Block(path, container) if plain else None


def _innermost(model: nn.Module, blocks: dict[str, Block]) -> set[str]:
    serial = {path for path in blocks if _is_serial(model, blocks, path)}
    alone = {path for path in blocks if path not in serial and _around(path) & serial}
    left = set(blocks) - alone
    return left - {outer for path in left for outer in _around(path)}


def _around(path: str) -> set[str]:
    return {path.rsplit(".", depth)[0] for depth in range(1, path.count(".") + 1)}


def _is_serial(model: nn.Module, blocks: dict[str, Block], path: str) -> bool:
    """Return whether a block is one of several of its class that make up most of a list."""
    container = blocks[path].container
    children = dict(model.get_submodule(container).named_children())
    own = type(model.get_submodule(path))
    same = [name for name, child in children.items() if type(child) is own]
    prefix = f"{container}." if container else ""
    inside = [name for name in same if prefix + name in blocks]
    return len(inside) > 1 and 2 * len(inside) > len(children) and len(same) == len(children)


def _same(call: Call) -> bool:
    return len(call.before) == len(call.after) and all(
        _signature(a) == _signature(b) for a, b in zip(call.before, call.after, strict=True)
    )


def _signature(dim: Extent) -> list[Node | int]:
    """Return what two dimensions must share to be the same: elastic axes, and frozen sizes."""
    if is_frozen(dim):
        return [size_of(dim)]
    return [leaf.size if leaf.reason else leaf for leaf in leaves(dim)]
