"""The plain values that modules hold: their own, and those of the objects that they share.

A model's configuration is such an object: many modules hold the same one. An attribute's name may
go through objects, as in `config.hidden_size`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

__all__ = ["holders", "owner", "plain_objects"]

_OPAQUE = (
    *(nn.Module, Tensor, type, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
    *(types.ModuleType, dict, list, tuple, set, frozenset, str, bytes),
)


def holders(path: str) -> Iterator[str]:
    """Yield the path of every module around the one at `path`, innermost first."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def plain_objects(module: nn.Module, depth: int = 2) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the module's attributes and those of the objects that it holds.

    Args:
        module: the module.
        depth: through how many objects to go.

    Returns:
        The prefix of the names, such as `"config."`, and the values by name; both are the live
        dictionaries.
    """
    yield "", module.__dict__
    pending: list[tuple[str, dict[str, Any], int]] = [("", module.__dict__, depth)]
    while pending:
        prefix, values, left = pending.pop()
        for name, value in values.items():
            if name.startswith("_") or isinstance(value, _OPAQUE):
                continue
            inner = getattr(value, "__dict__", None)
            if inner and left:
                yield f"{prefix}{name}.", inner
                pending.append((f"{prefix}{name}.", inner, left - 1))


def owner(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Return the dictionary that holds an attribute whose name may go through objects, and its key.

    Args:
        module: where the name starts.
        name: for example `"num_heads"` or `"config.num_attention_heads"`.
    """
    *objects, last = name.split(".")
    values: dict[str, Any] = module.__dict__
    for step in objects:
        values = values[step].__dict__
    return values, last
