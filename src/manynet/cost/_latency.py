"""How long one forward pass takes on this machine."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from manynet._inputs import (
    Example,
    Inputs,
    device_of,
    evaluating,
    moved,
    positional,
    tensors_in,
    with_batch,
)
from manynet.cost._cost import Cost
from manynet.cost._exported import RUNTIMES, exported_run
from manynet.deploy import to_onnx
from manynet.errors import InputError

__all__ = ["Clock", "Latency", "LatencyCost", "Runtime", "is_address", "latency"]

Runtime = Literal["torch", "onnx", "openvino"]


@dataclass(frozen=True)
class Latency:
    """What a clock has read: milliseconds of one forward pass, and how they were taken.

    Args:
        median_ms: half of the passes were faster.
        p10: one pass in ten was faster, in milliseconds.
        p90: nine passes in ten were faster, in milliseconds.
        repeats: passes that were timed.
        threads: threads that the runtime was allowed.
        device: where it ran.
        runtime: what ran it, `torch`, `onnx` or `openvino`.
        batch: samples in a pass.
        disturbed: passes set aside, because other work took the core from them.
        p25: the lower quartile, in milliseconds.
        p75: the upper quartile, in milliseconds.
    """

    median_ms: float
    p10: float
    p90: float
    repeats: int
    threads: int
    device: str
    runtime: str
    batch: int = 1
    disturbed: int = 0
    p25: float = math.nan
    p75: float = math.nan

    @property
    def spread(self) -> float:
        """The distance between `p10` and `p90`, as a share of the median."""
        return (self.p90 - self.p10) / self.median_ms

    def __str__(self) -> str:
        return (
            f"{self.median_ms:.3f} ms ({self.p10:.3f}-{self.p90:.3f}) on {self.device} with "
            f"{self.runtime}, {self.threads} thread(s), batch {self.batch}, {self.repeats} passes"
        )


class Clock:
    """Times single passes of one network that is ready to run.

    Call it to run once; it returns milliseconds. Clocks of several networks can be open together,
    so that their passes can be interleaved (A B B A), which cancels a machine that slows down.

    `own_ms` is the time that the core worked on the last pass, which is less than the time that
    passed if other work took the core meanwhile. Only one thread on the CPU has it; elsewhere it
    is the same.
    """

    def __init__(self, run: Callable[[], object], device: torch.device, threads: int) -> None:
        self._run = run
        self._device = device
        self._time = self._on_cuda if device.type == "cuda" else self._on_host
        self._alone = threads == 1 and device.type == "cpu"
        self.own_ms = 0.0

    def __call__(self) -> float:
        """Run one forward pass and return the milliseconds that it took."""
        return self._time()

    @property
    def disturbed(self) -> bool:
        """Whether other work took a tenth of the last pass or more."""
        return self._alone and self._last > 1.1 * self.own_ms + 0.02

    def _on_host(self) -> float:
        own, start = time.thread_time_ns(), time.perf_counter_ns()
        self._run()
        end, own_end = time.perf_counter_ns(), time.thread_time_ns()
        self._last = (end - start) / 1e6
        self.own_ms = (own_end - own) / 1e6 if self._alone else self._last
        return self._last

    def _on_cuda(self) -> float:
        with torch.cuda.device(self._device):
            start = torch.cuda.Event(enable_timing=True)
            end = torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize(self._device)
            start.record()
            self._run()
            end.record()
            end.synchronize()
        self.own_ms = self._last = float(start.elapsed_time(end))
        return self._last


@dataclass(frozen=True)
class LatencyCost(Cost):
    """The cost that `latency` makes: call it for the median, or `measure` for all of it."""

    device: str = "cpu"
    runtime: Runtime = "torch"
    threads: int = 1
    batch: int = 1
    warmup: int = 3
    repeats: int = 20
    time_limit_s: float = 2.0
    precision: float = 0.01

    def measure(self, member: nn.Module, example_inputs: Example) -> Latency:
        """Time a network: warm up, then run until the median is sure or the time is up.

        Passes during which other work took the core are set aside and counted, unless there is
        hardly any other.

        Raises:
            InputError: the network cannot run on these inputs or on this device.
            MissingExtraError: a runtime is asked for that is not installed.
        """
        with self.clock(member, example_inputs) as clock:
            return self.read(clock)

    def read(self, clock: Clock) -> Latency:
        """Warm up and read a clock until the median is sure or the time is up; see `measure`."""
        for _ in range(self.warmup):
            clock()
        times, disturbed = self._passes(clock)
        return self._reading(times, disturbed)

    def _passes(self, clock: Clock) -> tuple[list[float], list[float]]:
        """Run at least `repeats` passes, then on until the median is sure."""
        deadline = time.perf_counter() + self.time_limit_s
        times: list[float] = []
        disturbed: list[float] = []
        while len(times) + len(disturbed) < 3 or time.perf_counter() < deadline:
            passed = clock()
            (disturbed if clock.disturbed else times).append(passed)
            if times and len(times) % self.repeats == 0 and _doubt(times) <= self.precision:
                break
        return times, disturbed

    def _reading(self, times: list[float], disturbed: list[float]) -> Latency:
        kept = times if len(times) >= 3 else [*times, *disturbed]
        points = (float(value) for value in np.percentile(kept, (10, 25, 50, 75, 90)))
        p10, p25, median, p75, p90 = points
        how = (self.threads, self.device, self.runtime, self.batch)
        aside = len(times) + len(disturbed) - len(kept)
        return Latency(median, p10, p90, len(kept), *how, disturbed=aside, p25=p25, p75=p75)

    @contextlib.contextmanager
    def clock(self, member: nn.Module, example_inputs: Example) -> Iterator[Clock]:
        """Make a network ready to be timed, pass by pass, while the context is open.

        Inside, PyTorch has the threads asked for and treats denormal numbers as zero; both are put
        back at the end, as is the network's mode. A network on another device is copied.
        """
        with evaluating(member):
            run = self.prepared(member, example_inputs)
            with self.settings():
                yield self.clock_of(run)

    def prepared(self, member: nn.Module, example_inputs: Example) -> Callable[[], object]:
        """Return a function that runs one pass of a network, which should be in eval mode."""
        inputs = with_batch(positional(member, example_inputs), self.batch)
        where = torch.device(self.device)
        if self.runtime == "torch":
            return _torch_run(member, inputs, where)
        return _exported_run(member, inputs, where, self.threads, self.runtime)

    def clock_of(self, run: Callable[[], object]) -> Clock:
        """Return the clock of a function that `prepared` returned."""
        where = torch.device(self.device)
        if self.runtime == "onnx" and where.type != "cpu":
            return Clock(run, torch.device("cpu"), threads=0)  # a session waits for its device
        return Clock(run, where, self.threads)

    @contextlib.contextmanager
    def settings(self) -> Iterator[None]:
        """Set threads and denormals as asked for, and no gradients, while the context is open."""
        with _pinned(self.threads), _denormals_flushed(), torch.inference_mode():
            yield


def latency(
    device: str | torch.device = "cpu",
    *,
    runtime: Runtime | None = None,
    threads: int = 1,
    batch: int = 1,
    warmup: int = 3,
    repeats: int = 20,
    time_limit_s: float = 2.0,
    precision: float = 0.01,
    token: str | None = None,
) -> LatencyCost:
    """Cost: the median time of one forward pass on a machine, in milliseconds.

    Args:
        device: where to run; a network that is elsewhere is copied there. An address such as
            `"http://raspberry:8100"` is another machine's, on which `manynet device serve` runs:
            the exported network is sent there and timed there.
        runtime: `"torch"` runs the network itself, the default on this machine; `"onnx"` exports it
            and runs the file in ONNX Runtime, which takes some seconds for each network, and is
            what another machine does by default; `"openvino"` runs that file in OpenVINO, on the
            CPU and in float32.
        threads: threads of the runtime. Two on two shared cores lie: one is the honest default.
        batch: samples in a pass.
        warmup: passes before the clock starts.
        repeats: passes between two looks at the spread.
        time_limit_s: when to stop looking for a smaller spread.
        precision: stop once the median's standard error is below this share of it.
        token: of another machine's device server; by default that of `MANYNET_DEVICE_TOKEN`.

    Raises:
        InputError: an unknown runtime, a device that this machine lacks, a figure below one, or no
            token for another machine; when called: the other machine cannot be reached or refuses.

    Example:
        >>> clock = latency(repeats=5, time_limit_s=0.1)
        >>> clock.measure(nn.Linear(4, 8), torch.zeros(1, 4)).threads
        1
    """
    if runtime not in (None, "torch", *RUNTIMES):
        known = ", ".join(map(repr, ("torch", *RUNTIMES)))
        raise InputError(f"runtime {runtime!r} is unknown; it can be one of {known}")
    for name, value in {"threads": threads, "batch": batch, "repeats": repeats}.items():
        if value < 1:
            raise InputError(f"latency({name}={value}) should be at least 1")
    settings: dict[str, Any] = {
        "threads": threads,
        "batch": batch,
        "warmup": warmup,
        "repeats": repeats,
        "time_limit_s": time_limit_s,
        "precision": precision,
    }
    if is_address(device):
        from manynet.cost._remote import remote_latency

        return remote_latency(str(device), runtime=runtime, token=token, **settings)
    where = torch.device(device)
    if where.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"latency on {where} needs a CUDA device, and this machine has none")
    if where.type != "cpu" and runtime == "openvino":
        raise InputError(f"latency in OpenVINO is measured on the CPU, not on {where}; use 'cpu'")

    def function(member: nn.Module, inputs: Inputs) -> float:
        return made.measure(member, inputs).median_ms

    made = LatencyCost(
        "latency_ms",
        "ms",
        function,
        measured=True,
        timed=True,
        device=str(where),
        runtime=runtime or "torch",
        **settings,
    )
    return made


def is_address(device: object) -> bool:
    """Return whether a device is another machine's, by its address."""
    return isinstance(device, str) and device.startswith(("http://", "https://"))


def _doubt(times: list[float]) -> float:
    """Return the standard error of the median as a share of it, from the quartiles."""
    low, median, high = np.percentile(times, (25, 50, 75))
    return float(1.2533 * (high - low) / 1.349 / len(times) ** 0.5 / max(median, 1e-9))


def _torch_run(member: nn.Module, inputs: Inputs, device: torch.device) -> Callable[[], object]:
    """Return a function that runs the network itself."""
    here = device_of(member)
    if here.type != device.type or device.index not in (None, here.index):
        member = copy.deepcopy(member).to(device)
    inputs = moved(inputs, device_of(member))
    return lambda: member(*inputs)


def _exported_run(
    member: nn.Module, inputs: Inputs, device: torch.device, threads: int, runtime: str
) -> Callable[[], object]:
    """Return a function that runs the exported network in a runtime."""
    data = to_onnx(member, inputs, dynamic_batch=False)
    arrays = [tensor.detach().cpu().numpy() for tensor in tensors_in(inputs)]
    return exported_run(data, arrays, device=str(device), threads=threads, runtime=runtime)


@contextlib.contextmanager
def _pinned(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _denormals_flushed() -> Iterator[None]:
    """Treat numbers too small to be normal as zero for a while: some CPUs crawl through them."""
    before = bool(torch.tensor([1e-38]).mul(1e-2).eq(0))  # there is no getter, so look
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
