"""Files that are either whole or absent: written aside, flushed, then put in place."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from manynet.errors import StorageError

__all__ = [
    "read_json",
    "replace_with",
    "sweep",
    "write_bytes",
    "write_json",
    "write_text",
]

_ASIDE = re.compile(r"\..+\.[a-z0-9_]{8}(\.old)?")
"""Names of what is written aside: those of `tempfile`, with the final name as the prefix."""


def replace_with(path: Path | str, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a new file beside `path`, then put it in the place of `path` in one step.

    A reader sees the old file or the new one, never a part of it; so does a run that was killed.

    Raises:
        StorageError: the folder cannot be written, or the disk is full; the old file is untouched.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # noqa: PTH101 - a temporary file is private
        os.replace(temporary, path)  # noqa: PTH105 - the atomic call, spelled as in its manual
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; "
            "free some space or choose a folder that can be written"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove what a process that was killed had written aside in `folder` and below.

    Call it only while no other process writes there.
    """
    for path in [path for path in folder.rglob(".*") if _ASIDE.fullmatch(path.name)]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path` in one step. Raises `StorageError` as `replace_with` does."""
    replace_with(path, lambda file: file.write(data))


def write_text(path: Path | str, text: str) -> None:
    """Write `text` to `path` as UTF-8 in one step. Raises `StorageError`."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: object) -> None:
    """Write `value` to `path` as JSON in one step. Raises `StorageError`."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """Return what the JSON file at `path` holds.

    Raises:
        StorageError: the file is missing, unreadable, or not JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist; check the folder's name") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise StorageError(
            f"{path} is not valid JSON ({error}); it is damaged or was not written by manynet"
        ) from error
