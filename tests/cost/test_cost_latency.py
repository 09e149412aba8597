from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from manynet.cost import Latency, LatencyCost, latency
from manynet.errors import InputError


class Sleep(nn.Module):
    """Takes a known time, and notes how it was run."""

    def __init__(self, seconds: float = 0.002) -> None:
        super().__init__()
        self.seconds = seconds
        self.seen: list[tuple[object, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        denormals = bool(torch.tensor([1e-38]).mul(1e-2).eq(0))
        self.seen.append(
            (len(x), torch.get_num_threads(), denormals, self.training, torch.is_inference(x + 1))
        )
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return x


def test_a_reading_says_how_it_was_taken() -> None:
    net = Sleep()
    reading = latency(warmup=2, repeats=5, time_limit_s=0.05, batch=3).measure(
        net, torch.randn(1, 2)
    )
    assert isinstance(reading, Latency)
    assert 2.0 <= reading.p10 <= reading.median_ms <= reading.p90 < 200
    assert (reading.threads, reading.device, reading.runtime, reading.batch) == (
        1,
        "cpu",
        "torch",
        3,
    )
    assert len(net.seen) == 2 + reading.repeats + reading.disturbed
    assert set(net.seen) == {(3, 1, True, False, True)}
    assert "1 thread(s), batch 3" in str(reading)


def test_threads_denormals_and_mode_are_put_back() -> None:
    before = torch.get_num_threads()
    net = Sleep(0.0).train()
    with pytest.raises(InputError):
        latency(threads=2, repeats=2, time_limit_s=0.01).measure(net, "no tensor")  # type: ignore[arg-type]
    latency(threads=2, repeats=2, time_limit_s=0.01)(net, torch.randn(1, 2))
    assert {seen[1] for seen in net.seen} == {2}
    assert torch.get_num_threads() == before
    assert not torch.tensor([1e-38]).mul(1e-2).eq(0)
    assert net.training
    assert not torch.is_inference_mode_enabled()


def test_the_steadier_the_sooner() -> None:
    quick = latency(repeats=5, time_limit_s=5.0, precision=10.0)
    assert quick.measure(Sleep(), torch.randn(1, 2)).repeats == 5


def test_passes_are_interleaved() -> None:
    slow, fast = Sleep(0.004), Sleep(0.001)
    made = latency()
    x = torch.randn(1, 2)
    with made.clock(slow, x) as a, made.clock(fast, x) as b:
        times = [clock() for clock in (a, b, b, a)]
    assert min(times[0], times[3]) >= 4.0
    assert min(times[1:3]) < 4.0
    assert len(slow.seen) == len(fast.seen) == 2


def test_a_pass_without_the_core_is_noticed() -> None:
    class Waits(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            time.sleep(0.005)
            return x

    with latency().clock(Waits(), torch.randn(1, 2)) as clock:
        assert clock() >= 5.0
        assert clock.own_ms < 4.0
        assert clock.disturbed
    reading = latency(repeats=2, time_limit_s=0.02).measure(Waits(), torch.randn(1, 2))
    assert reading.median_ms >= 5.0  # all passes are so, and then they count


def test_it_is_a_cost() -> None:
    made = latency(repeats=2, time_limit_s=0.01)
    assert isinstance(made, LatencyCost)
    assert (made.name, made.unit, made.measured) == ("latency_ms", "ms", True)
    assert made(Sleep(), torch.randn(1, 2)) >= 2.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "tvm"}, "can be one of 'torch', 'onnx', 'openvino'"),
        ({"threads": 0}, "threads=0"),
        ({"batch": 0}, "batch=0"),
        ({"repeats": 0}, "repeats=0"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        latency(**arguments)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match="needs a CUDA device"):
        latency("cuda")


def test_onnx_runtime_has_a_clock_too() -> None:
    pytest.importorskip("onnxruntime")
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    reading = latency(runtime="onnx", repeats=5, time_limit_s=0.05).measure(
        net, torch.randn(2, 3, 8, 8)
    )
    assert reading.runtime == "onnx"
    assert 0 < reading.median_ms < 100
    assert net.training


@pytest.mark.gpu
def test_cuda_is_timed_by_events() -> None:
    net = nn.Linear(512, 512)
    reading = latency("cuda").measure(net, torch.randn(1, 512))
    assert 0 < reading.median_ms < 50
    assert next(net.parameters()).device.type == "cpu"  # a copy went there
