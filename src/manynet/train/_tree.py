"""Nested state to JSON and tensors, and back: what a checkpoint is made of, without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from manynet.errors import StorageError

__all__ = ["join_tree", "split_tree"]


def split_tree(tree: object) -> tuple[Any, dict[str, Tensor]]:
    """Return `tree` with its tensors replaced by names, and the tensors by these names.

    A tensor that occurs twice, or shares its memory whole, is listed once.

    Raises:
        StorageError: the tree holds something that neither JSON nor a tensor can be.
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[object, str] = {}
    return _split(tree, "", tensors, seen), tensors


def _split(value: object, path: str, tensors: dict[str, Tensor], seen: dict[object, str]) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": _name(value, path, tensors, seen)}
    if isinstance(value, Mapping):
        pairs = [[key, _split(item, f"{path}.{key}", tensors, seen)] for key, item in value.items()]
        return {"mapping": pairs}
    if isinstance(value, tuple | list):
        items = [_split(item, f"{path}.{i}", tensors, seen) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise StorageError(
        f"the state at {path.strip('.')} is {type(value).__name__}, which cannot be saved without "
        "pickle; use an optimizer whose state is numbers and tensors"
    )


def _name(value: Tensor, path: str, tensors: dict[str, Tensor], seen: dict[object, str]) -> str:
    key = (value.data_ptr(), value.dtype, tuple(value.shape), value.stride(), value.device)
    if value.numel() and key in seen:
        return seen[key]
    name = path.strip(".")
    tensors[name] = value
    seen[key] = name
    return name


def join_tree(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return what `split_tree` was given."""
    if isinstance(tree, dict):
        if "tensor" in tree:
            return tensors[tree["tensor"]]
        if "tuple" in tree:
            return tuple(join_tree(item, tensors) for item in tree["tuple"])
        return {key: join_tree(item, tensors) for key, item in tree["mapping"]}
    if isinstance(tree, list):
        return [join_tree(item, tensors) for item in tree]
    return tree
