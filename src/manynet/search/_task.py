"""What runs in a worker: it opens the family where it lies, and measures one arch."""

from __future__ import annotations

import pickle
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from manynet.errors import InputError, ManynetError, WorkerError
from manynet.search._judge import Judge, Place
from manynet.search._wire import Opened, unpack
from manynet.space import Arch

__all__ = ["Found", "Settings", "judge_in_worker"]


@dataclass(frozen=True)
class Settings:
    """What PyTorch was told in the process that searches, and where it finds modules."""

    threads: int
    dtype: torch.dtype
    precision: str
    deterministic: bool
    paths: tuple[str, ...]

    @classmethod
    def here(cls, threads: int) -> Settings:
        """Return those of this process, with the threads of a worker."""
        return cls(
            threads,
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            tuple(str(Path(path).absolute()) for path in sys.path),
        )

    def apply(self) -> None:
        """Make them those of this process."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)
        sys.path += [path for path in self.paths if path not in sys.path]


@dataclass
class Found:
    """What a worker has measured of an arch: values and seconds of each step, then an error."""

    steps: list[tuple[dict[str, float], float]] = field(default_factory=list)
    error: Exception | None = None
    where: str = ""


_open: dict[str, tuple[Opened, int]] = {}
"""The judge that this worker has open, under its name, and how often its memory was written."""


def judge_in_worker(parcel: list[Any], settings: Settings, arch: Arch, known: Any) -> Found:
    """Measure what a judge needs of an arch next, up to what must be measured elsewhere.

    Args:
        parcel: a list that holds the reference of a packed judge, so that Ray hands it over as it
            is; it is opened by the first evaluation in a worker.
        settings: what PyTorch is told.
        arch: what to measure.
        known: values that are known already.
    """
    found = Found()
    values = dict(known)
    try:
        opened, writes = _opened(parcel[0], settings)
        judge: Judge = opened.value
        while (step := judge.next_step(values)) and judge.place(step) is Place.ANYWHERE:
            measured, seconds = judge.measured(step, arch)
            _check_unwritten(opened, writes, step)
            values.update(measured)
            found.steps.append((measured, seconds))
    except Exception as error:
        found.error, found.where = _sendable(error), traceback.format_exc()
    return found


def _opened(reference: Any, settings: Settings) -> tuple[Opened, int]:
    name = reference.hex()
    if name not in _open:
        import ray

        _open.clear()  # lets go of the memory of an earlier search
        settings.apply()
        try:
            opened = unpack(ray.get(reference))
        except ImportError as error:
            raise WorkerError(
                f"a worker cannot load what it is to judge: {error}; every machine of the cluster "
                "needs manynet and the files that your model and metric are in"
            ) from error
        _open[name] = opened, opened.writes()
    return _open[name]


def _check_unwritten(opened: Opened, writes: int, step: tuple[str, ...]) -> None:
    if opened.writes() != writes:
        _open.clear()
        raise InputError(
            f"measuring {', '.join(step)} wrote into the family's weights or the data in place, "
            "which all workers read; let it write into a copy (copy.deepcopy(member)), or search "
            "with workers=0"
        )


def _sendable(error: Exception) -> Exception:
    """Return the error, or one that says the same if it cannot leave this process."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return ManynetError(f"{type(error).__name__}: {error}")
    return error
