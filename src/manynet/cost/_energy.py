"""The energy of one forward pass, by the counters that this machine has: RAPL or NVML."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from manynet._inputs import Example, Inputs
from manynet.cost._cost import Cost
from manynet.cost._latency import latency
from manynet.errors import InputError

__all__ = ["Energy", "EnergyCost", "Meter", "energy"]

POWERCAP = Path("/sys/class/powercap")
_INSTEAD = (
    "measure on a machine that has one, or take macs() or latency() for the cost in its place"
)


class Meter(Protocol):
    """Counts the energy that a device has used."""

    name: str

    def joules(self) -> float:
        """Return what was used since some time in the past; it never falls."""
        ...


@dataclass(frozen=True)
class Energy:
    """What a meter has told.

    Args:
        millijoules: of one forward pass, all that the device used meanwhile, idle power included.
        watts: mean power during the passes.
        passes: how many there were.
        seconds: how long they took.
        meter: what has counted: the domains of RAPL, or the GPU.
    """

    millijoules: float
    watts: float
    passes: int
    seconds: float
    meter: str


@dataclass(frozen=True)
class EnergyCost(Cost):
    """The cost that `energy` makes: call it for the millijoules, or `measure` for all of it."""

    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    seconds: float = 2.0
    powercap: Path = POWERCAP

    def measure(self, member: nn.Module, example_inputs: Example) -> Energy:
        """Run a network for some seconds and read the counter before and after.

        Raises:
            InputError: the network cannot run on these inputs or on this device, or the counter
                did not move.
        """
        meter = _meter(torch.device(self.device), self.powercap)
        clock_of = latency(self.device, threads=self.threads, batch=self.batch)
        with clock_of.clock(member, example_inputs) as clock:
            for _ in range(clock_of.warmup):
                clock()
            began, before, passes = time.perf_counter(), meter.joules(), 0
            while time.perf_counter() - began < self.seconds or not passes:
                clock()
                passes += 1
            used, took = meter.joules() - before, time.perf_counter() - began
        if used <= 0:
            raise InputError(
                f"{meter.name} has counted nothing in {took:.2f} s; measure for longer with "
                "seconds=…, or find out whether this machine's counter works"
            )
        return Energy(1e3 * used / passes, used / took, passes, took, meter.name)


def energy(
    device: str | torch.device = "cpu",
    *,
    threads: int = 1,
    batch: int = 1,
    seconds: float = 2.0,
    powercap: Path = POWERCAP,
) -> EnergyCost:
    """Cost: the energy of one forward pass on this machine, in millijoules.

    On the CPU it comes from RAPL, the counters of Intel's and AMD's processors that Linux shows
    under `/sys/class/powercap`: all packages are added up. On a GPU it comes from NVML. Both count
    the whole device, what other programs use and what it uses idle too, so measure on a machine
    that does nothing else.

    Args:
        device: where to run.
        threads: of PyTorch.
        batch: samples in a pass.
        seconds: how long to measure; RAPL moves about once a millisecond, NVML every 20 to 100.
        powercap: where Linux shows RAPL.

    Raises:
        InputError: the machine has no such counter, or it may not be read.

    Reference:
        David et al., 2010, RAPL: memory power estimation and capping (ISLPED).

    Example:
        >>> def cheap(member, inputs):
        ...     try:
        ...         return energy()(member, inputs)
        ...     except InputError:  # no counter here, as in most virtual machines
        ...         return None
    """
    if threads < 1 or batch < 1 or seconds <= 0:
        raise InputError(
            f"energy(threads={threads}, batch={batch}, seconds={seconds:g}): all should be positive"
        )
    latency(device)  # a device that this machine lacks is told in the same words
    _meter(torch.device(device), powercap)

    def function(member: nn.Module, inputs: Inputs) -> float:
        return made.measure(member, inputs).millijoules

    made = EnergyCost(
        "energy_mj",
        "mJ",
        function,
        measured=True,
        timed=True,
        device=str(device),
        threads=threads,
        batch=batch,
        seconds=seconds,
        powercap=powercap,
    )
    return made


def _meter(device: torch.device, powercap: Path) -> Meter:
    """Return the counter of a device, ready to be read.

    Raises:
        InputError: there is none, or it may not be read.
    """
    if device.type == "cuda":
        return Nvml(device)
    if device.type == "cpu":
        return Rapl(powercap)
    raise InputError(f"there is no counter of energy for {device}; {_INSTEAD}")


class Rapl:
    """The packages of the processors, as Linux shows them.

    Each counter starts from zero again above its `max_energy_range_uj`, after some minutes of full
    load; a fall between two readings is taken for one such turn.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._domains = [
            folder
            for folder in sorted(powercap.glob("intel-rapl:*"))
            if folder.name.count(":") == 1 and _text(folder / "name").startswith("package")
        ]
        if not self._domains:
            raise InputError(
                f"this machine tells no energy of its processor: there is no package of RAPL under "
                f"{powercap} (virtual machines and most ARM boards have none); {_INSTEAD}"
            )
        self.name = "RAPL " + ", ".join(_text(folder / "name") for folder in self._domains)
        self._ranges = [float(_text(d / "max_energy_range_uj") or "inf") for d in self._domains]
        self._last = self._read()
        self._turned = [0.0] * len(self._domains)

    def joules(self) -> float:
        """Return what all packages used since some time in the past."""
        found = self._read()
        for n, (now, last) in enumerate(zip(found, self._last, strict=True)):
            if now < last:
                self._turned[n] += self._ranges[n]
        self._last = found
        return (sum(found) + sum(self._turned)) / 1e6

    def _read(self) -> Sequence[float]:
        return [_microjoules(folder / "energy_uj") for folder in self._domains]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _microjoules(path: Path) -> float:
    try:
        return float(path.read_text(encoding="ascii"))
    except PermissionError:
        raise InputError(
            f"{path} may be read by root alone; let this user read it with: sudo chmod a+r {path}"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}; {_INSTEAD}") from error


class Nvml:
    """One GPU of NVIDIA's, through the library that comes with the driver.

    Args:
        device: the GPU, as PyTorch counts them.
        library: of NVML; by default the driver's.
        uuid: the GPU's, by which NVML finds the one that PyTorch means.
    """

    def __init__(
        self, device: torch.device, *, library: Any = None, uuid: str | None = None
    ) -> None:
        self.name = f"NVML {device}"
        self._library = _nvml() if library is None else library
        self._call("nvmlInit_v2")
        found = uuid or f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        self._handle = ctypes.c_void_p()
        self._call("nvmlDeviceGetHandleByUUID", found.encode(), ctypes.byref(self._handle))
        self.joules()

    def joules(self) -> float:
        """Return what the GPU used since the driver was loaded."""
        found = ctypes.c_ulonglong()
        name = "nvmlDeviceGetTotalEnergyConsumption"
        self._call(name, self._handle, ctypes.byref(found))
        return found.value / 1e3

    def _call(self, name: str, *arguments: object) -> None:
        function: Callable[..., int] = getattr(self._library, name)
        code = function(*arguments)
        if code:
            raise InputError(
                f"{self.name} tells no energy: {name} returned {code} (GPUs before Volta count "
                f"none); {_INSTEAD}"
            )


def _nvml() -> Any:
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise InputError(f"NVML cannot be loaded: {error}; {_INSTEAD}") from error
