"""A device server and the cost that asks it: readings, refusals, and files that are only data."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from served import asking
from torch import nn

import manynet as mn
from manynet.cost import _remote, packed
from manynet.deploy import to_onnx
from manynet.errors import InputError, MissingExtraError, StorageError
from manynet.serve import Device, Overload, new_token, read_token, serve_device, serving_device

TOKEN = "correct horse battery staple"
NET = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
INPUTS = (torch.randn(1, 8),)
QUICK: dict[str, Any] = {"repeats": 5, "time_limit_s": 0.05}


@pytest.fixture
def exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hand over the same file each time: exporting takes a second."""
    monkeypatch.setattr(_remote, "to_onnx", lambda *given, **named: exported())


@functools.cache
def exported() -> bytes:
    return to_onnx(NET, INPUTS, dynamic_batch=False)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving_device(Device(TOKEN, max_body_mib=0.1)) as address:
        yield address


def test_a_member_is_timed_on_the_device(url: str) -> None:
    clock = mn.latency(f"{url}/", token=TOKEN, threads=1, batch=4, **QUICK)
    found = clock.measure(NET, INPUTS)
    assert 0 < found.p10 <= found.p25 <= found.median_ms <= found.p75 <= found.p90
    assert (found.device, found.runtime, found.batch) == (url, "onnx", 4)
    assert found.threads == 1 and found.repeats + found.disturbed >= 3
    assert clock(NET, INPUTS) > 0
    assert clock.described()["cores"] >= 1


def test_it_is_a_cost_like_any_other(url: str) -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    family = mn.elastic(model, INPUTS, width=(0.5, 1.0))
    judge = mn.Metric("weights", lambda member: float(sum(p.numel() for p in member.parameters())))
    clock = mn.latency(url, token=TOKEN, **QUICK)
    front = mn.search(family, judge, costs=[clock], evaluations=1, strategy="random")
    assert all(record.costs["latency_ms"] > 0 for record in front)


def test_the_token_may_come_from_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANYNET_DEVICE_TOKEN", raising=False)
    with pytest.raises(InputError, match="needs a token, the one that `manynet device serve`"):
        mn.latency(url)
    monkeypatch.setenv("MANYNET_DEVICE_TOKEN", TOKEN)
    clock = mn.latency(url)
    assert TOKEN not in repr(clock)
    assert clock.described()["device"] == "cpu"  # type: ignore[attr-defined]


def test_a_wrong_token_is_refused(url: str, exported_once: None) -> None:
    with pytest.raises(InputError, match="refuses the token"):
        mn.latency(url, token="incorrect horse battery", **QUICK)(NET, INPUTS)
    for path, body in (("/device", None), ("/time", b"x")):
        reply = asking(url)(path, body)
        assert reply.status == 401
        assert reply.headers["www-authenticate"] == "Bearer"
    assert asking(url)("/health").json == {"status": "alive"}


def test_a_device_that_is_not_there_is_told(exported_once: None) -> None:
    clock = mn.latency("http://127.0.0.1:9", token=TOKEN)
    with pytest.raises(InputError, match=r"127.0.0.1:9 cannot be reached: .*refused.*start"):
        clock(NET, INPUTS)


def test_settings_beyond_the_device_are_refused(url: str, exported_once: None) -> None:
    with pytest.raises(InputError, match="refuses: threads=4096 should be from 1 to"):
        mn.latency(url, token=TOKEN, threads=4096)(NET, INPUTS)
    with pytest.raises(InputError, match="runs exported files, and the runtime asked for is 't"):
        mn.latency(url, token=TOKEN, runtime="torch")
    with pytest.raises(InputError, match="cannot be run one by one"):
        mn.latency(url, token=TOKEN).prepared(NET, INPUTS)


def test_a_large_member_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="the body is larger than 104,857 bytes"):
        mn.latency(url, token=TOKEN)(nn.Linear(8, 10_000).eval(), INPUTS)


def test_a_busy_device_is_asked_again(exported_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []

    class Busy(Device):
        def time(self, body: bytes, settings: dict[str, Any]) -> Any:
            calls.append(0.0)
            if len(calls) < 3:
                raise Overload("another network is being timed", 2.0)
            return super().time(body, settings)

    waits: list[float] = []
    monkeypatch.setattr(_remote.time, "sleep", waits.append)
    with serving_device(Busy(TOKEN)) as url:
        assert mn.latency(url, token=TOKEN, **QUICK)(NET, INPUTS) > 0
    assert [wait for wait in waits if wait >= 1] == [2.0, 2.0]


def test_one_network_is_timed_at_a_time() -> None:
    held, go = threading.Event(), threading.Event()

    class Slow(Device):
        def time(self, body: bytes, settings: dict[str, Any]) -> Any:
            held.set()
            assert go.wait(10)
            raise InputError("enough")

    with serving_device(Slow(TOKEN)) as url:
        ask = asking(url, {"Authorization": f"Bearer {TOKEN}"})
        replies = []
        first = threading.Thread(target=lambda: replies.append(ask("/time", b"x")))
        first.start()
        assert held.wait(10)
        refused = ask("/time", b"x")
        go.set()
        first.join()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert (replies[0].status, replies[0].json) == (400, {"error": "enough"})


def onnx_file(*, outside: str = "") -> bytes:
    """Return an ONNX file that adds a weight to its input; the weight may lie in another file."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2], np.ones(2, np.float32))
    if outside:
        weight.ClearField("float_data")
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value=outside)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])
    found = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [given], [found], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


def test_a_file_that_reads_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(np.ones(2, np.float32).tobytes())
    inputs = (torch.zeros(2),)
    device = Device(TOKEN)
    assert device.time(packed(onnx_file(), inputs), QUICK).median_ms > 0
    with pytest.raises(InputError, match="keeps weights in other files"):
        device.time(packed(onnx_file(outside=str(tmp_path / "secret.bin")), inputs), QUICK)


def test_weights_of_other_files_are_found_in_branches_too() -> None:
    inner = onnx.load_model_from_string(onnx_file(outside="secret.bin")).graph
    del inner.input[:]
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    wanted = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([node], "g", [wanted], list(inner.output))
    data = helper.make_model(graph).SerializeToString()
    with pytest.raises(InputError, match="keeps weights in other files"):
        Device(TOKEN).time(packed(data, (torch.tensor(True),)), QUICK)


def test_bytes_that_are_no_network_are_refused() -> None:
    device = Device(TOKEN)
    with pytest.raises(InputError, match="is not an exported network with its inputs"):
        device.time(b"abc", QUICK)
    with pytest.raises(StorageError, match="no ONNX file"):
        device.time(packed(b"\x80\x04.", INPUTS), QUICK)  # a pickle
    with pytest.raises(InputError, match="the file takes 1 inputs, and 2 were given"):
        device.time(packed(onnx_file(), (torch.zeros(2), torch.zeros(2))), QUICK)
    with pytest.raises(InputError, match="cannot run on its inputs here"):
        device.time(packed(onnx_file(), (torch.zeros(3),)), QUICK)


def test_refusals_reach_the_one_who_asks(url: str) -> None:
    ask = asking(url, {"Authorization": f"Bearer {TOKEN}"})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "is not an exported network"),
        ({"speed": 3}, "there is no setting 'speed'"),
        ({"repeats": "x"}, "repeats='x' is no number"),
        ({"runtime": "torch"}, "runtime='torch' does not run exported files"),
    ]
    for query, message in wrong:
        reply = ask("/time", b"abc", **query)
        assert reply.status == 400
        assert message in reply.json["error"]


def endless() -> bytes:
    """Return an ONNX file whose loop ends when its input says so, which it never does."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["again"]),
            helper.make_node("Add", ["v", "v"], ["w"]),
        ],
        "body",
        [value("n", TensorProto.INT64, []), value("go", TensorProto.BOOL, []),
         value("v", TensorProto.FLOAT, [2])],
        [value("again", TensorProto.BOOL, []), value("w", TensorProto.FLOAT, [2])],
    )  # fmt: skip
    loop = helper.make_node("Loop", ["", "c", "x"], ["y"], body=body)
    graph = helper.make_graph(
        [loop],
        "g",
        [value("x", TensorProto.FLOAT, [2]), value("c", TensorProto.BOOL, [])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    opsets = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_a_pass_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    from manynet.serve import _device

    body = packed(endless(), (torch.zeros(2), torch.tensor(True)))
    monkeypatch.setattr(_device, "MOST_S", 0.1)
    with pytest.raises(InputError, match=r"cannot run on its inputs here: .*terminate"):
        Device(TOKEN).time(body, QUICK)


def test_a_loop_is_refused_where_it_could_not_be_stopped() -> None:
    body = packed(endless(), (torch.zeros(2), torch.tensor(True)))
    with pytest.raises(InputError, match="holds a loop, which OpenVINO could not be stopped in"):
        Device(TOKEN).time(body, QUICK | {"runtime": "openvino"})


def test_openvino_times_members_too(url: str) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed: see the extra openvino")
    clock = mn.latency(url, token=TOKEN, runtime="openvino", **QUICK)
    found = clock.measure(NET, INPUTS)
    assert (found.device, found.runtime) == (url, "openvino")
    assert found.median_ms > 0
    assert clock.described()["openvino"]  # type: ignore[attr-defined]


def test_a_runtime_that_the_device_lacks_is_told(
    url: str, exported_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputError, match=r"refuses: this needs openvino, which is not installed"):
        mn.latency(url, token=TOKEN, runtime="openvino", **QUICK)(NET, INPUTS)


def test_a_token_that_is_easily_guessed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 5 characters; it needs at least 16"):
        Device("abcde")
    assert len(new_token()) >= 32 and new_token() != new_token()
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file) == TOKEN


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'manynet\[onnx\]'"):
        serve_device(Device(TOKEN), port=0)


def test_it_ends_in_order_at_a_signal() -> None:
    found: list[int] = []

    def use(url: str) -> None:
        found.append(asking(url)("/health").status)
        os.kill(os.getpid(), signal.SIGTERM)

    def told(url: str) -> None:
        threading.Thread(target=use, args=(url,)).start()

    serve_device(Device(TOKEN), port=0, told=told)
    assert found == [200]
