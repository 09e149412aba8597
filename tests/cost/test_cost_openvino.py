"""Exported networks in OpenVINO: the same outputs as in PyTorch, and a clock like the others."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from manynet.cost import exported_run, fit_latency, latency
from manynet.deploy import openvino_request, to_onnx
from manynet.errors import InputError, MissingExtraError, StorageError

EXTRA = "OpenVINO is not installed: pip install 'manynet[openvino]'"
NET = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(144, 5)).eval()
X = torch.randn(2, 3, 8, 8)


def arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in tensors]


def test_outputs_are_those_of_the_network() -> None:
    pytest.importorskip("openvino", reason=EXTRA)
    request = openvino_request(to_onnx(NET, (X,), dynamic_batch=False))
    found = request.infer([X.numpy()])[0]
    with torch.no_grad():
        assert np.allclose(found, NET(X).numpy(), atol=1e-5)


def test_it_has_a_clock_that_sees_its_own_time() -> None:
    pytest.importorskip("openvino", reason=EXTRA)
    net = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
    made = latency(runtime="openvino", repeats=5, time_limit_s=0.1)
    reading = made.measure(net, torch.randn(4, 512))
    assert (reading.runtime, reading.threads) == ("openvino", 1)
    assert 0 < reading.median_ms < 100
    assert net.training
    with made.clock(net, torch.randn(4, 512)) as clock:
        clock()  # the first pass has a thread of its own
        passes = [(clock(), clock.own_ms) for _ in range(9)]
    assert max(own / whole for whole, own in passes) > 0.5  # later ones have the caller's


def test_what_it_cannot_run_is_said() -> None:
    pytest.importorskip("openvino", reason=EXTRA)
    with pytest.raises(StorageError, match=r"OpenVINO cannot load the ONNX bytes: Unable to read"):
        openvino_request(b"\x80\x04.")
    data = to_onnx(NET, (X,), dynamic_batch=False)
    with pytest.raises(InputError, match="takes 1 inputs, and 2 were given"):
        exported_run(data, arrays(X, X), runtime="openvino")
    with pytest.raises(InputError, match=r"cannot run on its inputs in OpenVINO: .*shape"):
        exported_run(data, arrays(torch.zeros(1, 3, 8, 8)), runtime="openvino")


def test_it_is_measured_on_the_cpu_alone() -> None:
    with pytest.raises(InputError, match=r"OpenVINO is measured on the CPU, not on meta"):
        latency("meta", runtime="openvino")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'manynet\[openvino\]'"):
        openvino_request(b"")


def test_a_long_pass_can_be_stopped() -> None:
    pytest.importorskip("openvino", reason=EXTRA)

    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", [f"x{n}", f"x{n}"], [f"x{n + 1}"]) for n in range(400)]
    ends = (value(name, TensorProto.FLOAT, [256, 256]) for name in ("x0", "x400"))
    graph = helper.make_graph(nodes, "g", [next(ends)], [next(ends)])
    opsets = [helper.make_opsetid("", 17)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    x = torch.zeros(256, 256)
    run = exported_run(data, arrays(x), runtime="openvino")
    timer = threading.Timer(0.02, run.stop)
    timer.start()
    with pytest.raises(RuntimeError, match="Infer Request was canceled"):
        run()
    timer.join()
    for _ in range(2):  # it goes on: the pass was stopped, not the runtime
        run()


@pytest.mark.slow
def test_exported_members_are_predicted_in_openvino_too() -> None:
    pytest.importorskip("openvino", reason=EXTRA)
    from toy_family import ToyFamily

    family = ToyFamily()
    made = fit_latency(family, samples=9, runtime="openvino", time_limit_s=60.0)
    assert made.conditions["runtime"] == "openvino"
    assert made.predict(family.space.largest) > 0
