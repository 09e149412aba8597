"""Ratios of times, taken side by side.

One thread, denormals flushed; each round runs A B B A, and its ratio is the time of both A over
the time of both B, so that a drift of the machine's speed cancels out. The median of the rounds
is quoted with its quartiles. Absolute times on shared machines mean nothing.
"""

from __future__ import annotations

import ctypes
import gc
import json
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

Run = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """The median of the rounds' ratios with its quartiles, and what A and B took in ms."""

    median: float
    lower: float
    upper: float
    a_ms: float
    b_ms: float
    rounds: int

    def __str__(self) -> str:
        return (
            f"{self.median:6.3f} [{self.lower:.3f}, {self.upper:.3f}]"
            f"  ({self.a_ms:.3f} ms / {self.b_ms:.3f} ms)"
        )


def prepare() -> None:
    """Set what every measurement here holds for."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)


def ratio(a: Run, b: Run, *, rounds: int = 11, warmups: int = 2, least_ms: float = 20.0) -> Ratio:
    """Return the ratio of the time of `a` to that of `b`."""
    for _ in range(warmups):
        a()
        b()
    repeats = max(1, round(least_ms / max(1e-3, min(_time(a, 1), _time(b, 1)))))
    ratios, times_a, times_b = [], [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            a1, b1 = _time(a, repeats), _time(b, repeats)
            b2, a2 = _time(b, repeats), _time(a, repeats)
            ratios.append((a1 + a2) / (b1 + b2))
            times_a.append((a1 + a2) / 2 / repeats)
            times_b.append((b1 + b2) / 2 / repeats)
    finally:
        gc.enable()
    lower, median, upper = statistics.quantiles(ratios, n=4)
    return Ratio(
        median, lower, upper, statistics.median(times_a), statistics.median(times_b), rounds
    )


def _time(run: Run, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    return 1e3 * (time.perf_counter() - start)


def held_mib() -> float:
    """Return what this process holds now, in MiB, after giving back what it freed."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _mib("VmRSS")


def peak_mib() -> float:
    """Return the most that this process has held since `forget_peak`, or its start, in MiB.

    Not `ru_maxrss`, which a process inherits from the one that started it.
    """
    return _mib("VmHWM")


def forget_peak() -> None:
    """Count the peak anew from what is held now."""
    Path("/proc/self/clear_refs").write_text("5")


def _mib(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def write(name: str, results: object) -> Path:
    """Write `results` beside the versions that they hold for, into `benchmarks/results/`."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    data = {"versions": versions, "results": _plain(results)}
    path.write_text(json.dumps(data, indent=1) + "\n")
    return path


def _plain(value: object) -> object:
    if isinstance(value, Ratio):
        return {key: round(v, 5) for key, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
