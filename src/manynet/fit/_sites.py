"""Which weights of a network belong together: those of one place in every block."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from manynet.errors import InputError

__all__ = ["blocks_of", "embedding_parameters", "projections"]


def blocks_of(model: nn.Module) -> str:
    """Return the path of the list that holds the network's repeated blocks.

    It is the list (or sequence) of at least two modules of one type with the most parameters.

    Raises:
        InputError: there is none.

    Example:
        >>> from manynet.models import small_gpt
        >>> blocks_of(small_gpt())
        'blocks'
    """
    found = {
        path: sum(p.numel() for p in module.parameters())
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and len({type(child) for child in module}) == 1
    }
    if not found or not max(found.values()):
        raise InputError(
            f"{type(model).__name__} has no list of two or more blocks of one type with weights; "
            "weights are shared between such blocks"
        )
    best: str = max(found, key=lambda path: found[path])
    return best


def projections(model: nn.Module, where: str | Sequence[str] = "*") -> dict[str, tuple[str, ...]]:
    """Return the linear weights of the repeated blocks: for each place, its name in every block.

    Args:
        model: the network.
        where: patterns of the parameters' names, such as `"*attn*"`; all linear weights otherwise.

    Raises:
        InputError: there are no such blocks, or no linear weight in them matches.

    Example:
        >>> from manynet.models import small_gpt
        >>> {place: len(names) for place, names in projections(small_gpt(), "*.key.*").items()}
        {'attention.key.weight': 6}
    """
    path = blocks_of(model)
    patterns = [where] if isinstance(where, str) else list(where)
    linear = {
        f"{name}.weight": module.weight.shape
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }
    start = f"{path}." if path else ""
    found: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name, shape in linear.items():
        number, _, place = name.removeprefix(start).partition(".")
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        if name.startswith(start) and number.isdigit() and wanted:
            found.setdefault((place, tuple(shape)), []).append(name)
    if not found:
        raise InputError(
            f"no linear weight of the blocks in {path!r} matches {where!r}; there are, for "
            f"example, {', '.join([n for n in linear if n.startswith(start)][:4]) or 'none'}"
        )
    sizes: dict[str, int] = {}
    for place, _ in found:
        sizes[place] = sizes.get(place, 0) + 1
    return {
        place if sizes[place] == 1 else f"{place} {shape}": tuple(names)
        for (place, shape), names in found.items()
    }


def embedding_parameters(model: nn.Module) -> set[str]:
    """Return the names of the embedding tables, and of linear maps back to their entries."""
    tables = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Embedding)}
    shapes = {tuple(table.shape) for table in tables.values()}
    blocks = f"{blocks_of(model)}."
    heads = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(blocks)
        if tuple(module.weight.shape) in shapes
    }
    return {f"{name}.weight" for name in [*tables, *heads]}
