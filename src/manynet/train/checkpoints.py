"""Checkpoints of a training run: one file each, whole or absent, without pickle.

A file is in the safetensors format; what is not a tensor lies as JSON in its header, with a
checksum over all of it. The newest two are kept, so that a damaged one costs little.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from manynet._files import write_bytes
from manynet.errors import StorageError
from manynet.train._tree import join_tree, split_tree

__all__ = ["checkpoints_in", "load_checkpoint", "load_newest", "save_checkpoint"]

FORMAT = 1
KEPT = 2


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, the oldest first."""
    return sorted(folder.glob("step-*.safetensors"))


def save_checkpoint(folder: Path, step: int, state: Mapping[str, object]) -> Path:
    """Write the state after `step` into `folder` and remove all but the newest two.

    Raises:
        StorageError: the folder cannot be written, or the state holds what JSON and tensors
            cannot hold; earlier checkpoints stay.
    """
    tree, found = split_tree(state)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in found.items()}
    text = json.dumps(tree)
    header = {
        "manynet": "training checkpoint",
        "format": str(FORMAT),
        "state": text,
        "checksum": str(_checksum(text, tensors)),
    }
    path = folder / f"step-{step:09d}.safetensors"
    write_bytes(path, save(_apart(tensors), metadata=header))
    for old in checkpoints_in(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy what overlaps another tensor's memory: safetensors refuses to write that."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        alone = storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        apart[name] = tensor if alone else tensor.clone()
    return apart


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> int:
    total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        total = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint.

    Raises:
        StorageError: the file is missing, damaged, or none of ours.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise StorageError(f"{path} is damaged or no checkpoint ({error})") from error
    if header.get("manynet") != "training checkpoint":
        raise StorageError(f"{path} is no checkpoint of manynet's training")
    if header.get("format") != str(FORMAT):
        raise StorageError(
            f"{path} has format {header.get('format')}, this version reads {FORMAT}; "
            "use the version that wrote it"
        )
    if header.get("checksum") != str(_checksum(header.get("state", ""), tensors)):
        raise StorageError(f"{path} is damaged: its checksum does not fit")
    state = join_tree(json.loads(header["state"]), tensors)
    assert isinstance(state, dict)
    return state


def load_newest(folder: Path) -> dict[str, Any] | None:
    """Return the newest state that is whole, or None where there is no checkpoint.

    A damaged one is passed over with a warning.

    Raises:
        StorageError: there are checkpoints, and every one is damaged.
    """
    paths = checkpoints_in(folder)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except StorageError as error:
            last = error
            if path != paths[0]:
                warnings.warn(f"{error}; going back to the one before it", stacklevel=2)
    if paths:
        raise StorageError(f"{last}; no checkpoint in {folder} is whole: train in a new folder")
    return None
