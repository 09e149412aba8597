"""A run's folder: found or made, held by one process, with its config and its machine in it."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from manynet._files import read_json, sweep, write_json
from manynet._version import __version__
from manynet.config import Config, differences, save_config, saved
from manynet.errors import InputError, StorageError

__all__ = ["cores", "environment", "fresh_folder", "held", "is_run", "open_folder", "saved_config"]

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
LOCK = ".lock"


def is_run(folder: Path) -> bool:
    """Return whether `folder` holds a run."""
    return (folder / CONFIG).is_file()


def saved_config(folder: Path) -> Config:
    """Return the config of the run in `folder`.

    Raises:
        InputError: there is no run.
        StorageError: its config is damaged.
    """
    if not is_run(folder):
        raise InputError(
            f"{folder} holds no run (there is no {CONFIG} in it); start one with "
            "`manynet run --out FOLDER`, or check the folder's name"
        )
    return saved(folder / CONFIG)


def fresh_folder(config: Config, parent: Path = Path("runs")) -> Path:
    """Return `runs/DATA-N` with the first number that is free; it is made when the run begins."""
    name = Path(config.data.name.removesuffix("/")).stem
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    taken = (parent / f"{stem}-{number}" for number in itertools.count(1))
    return next(folder for folder in taken if not folder.exists())


def open_folder(folder: Path, config: Config) -> None:
    """Write `config` into a new run's folder, or see that the run in there has the same one.

    Raises:
        InputError: it holds a run with another config, or something that is no run.
        StorageError: it cannot be written.
    """
    if is_run(folder):
        changed = differences(saved_config(folder), config)
        if changed:
            raise InputError(
                f"{folder} holds a run with another config ({_listed(changed)}); give the same "
                "options to go on with it, or another folder with --out"
            )
        return
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; give a folder for the run with --out")
    strange = [path.name for path in _entries(folder) if not path.name.startswith(".")]
    if strange:
        raise InputError(
            f"{folder} is no run and not empty (it holds {sorted(strange)[0]}); nothing was "
            "changed in it; give another folder with --out"
        )
    save_config(config, folder / CONFIG)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise StorageError(f"cannot read {folder}: {error.strerror or error}") from error


def _listed(changed: list[str]) -> str:
    more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
    return "; ".join(changed[:3]) + more


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of `folder` for a while; a process that dies lets go of it.

    Raises:
        StorageError: another process works in it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StorageError(
            f"cannot write into {folder}: {error.strerror or error}; choose a folder that can be "
            "written, with --out"
        ) from error
    try:
        if not _locked(descriptor):
            raise StorageError(
                f"another process is working in {folder}; wait for it, or give another folder"
            )
        sweep(folder)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Try to lock an open file; where the system has no such lock, trust the user."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def environment(folder: Path, config: Config) -> dict[str, Any]:
    """Return what the run in `folder` started with; the first call writes it down.

    A run that is resumed keeps its device and its number of threads, so that its figures stay.
    """
    path = folder / ENVIRONMENT
    if path.is_file():
        found: dict[str, Any] = read_json(path)
        return found
    values = {
        "versions": versions(),
        "platform": platform.platform(),
        "cores": cores(),
        "device": _device(config.device),
        "threads": config.threads or torch.get_num_threads(),
        "seed": config.seed,
    }
    write_json(path, values)
    return values


def versions() -> dict[str, str]:
    """Return the versions of what decides a run's figures."""
    found = {
        "manynet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for library in ("numpy", "pymoo", "torchvision", "timm", "onnx", "onnxruntime"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device(name: str) -> str:
    """Return the device that is meant.

    Raises:
        InputError: this machine does not have it.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=torch.device(name))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device {name!r} cannot be used: {reason}; `manynet doctor` lists the devices"
        ) from error
    return name
