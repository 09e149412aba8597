"""A server as its clients see it: right answers, clear refusals, figures."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from served import DATA, Ask, Reply, asking, expected, trained_toy

import manynet as mn
from manynet.errors import InputError, MissingExtraError, StorageError
from manynet.run import Trained
from manynet.serve import Decision, Serving, State, serve, serving


@pytest.fixture
def trained() -> Trained:
    return trained_toy()


@pytest.fixture
def ask(trained: Trained) -> Iterator[Ask]:
    """Return what asks a running server of `trained`."""
    with serving(trained, Serving(max_batch=8, max_body_mib=0.1)) as url:
        yield asking(url)


def sample(n: int = 0, count: int = 1) -> list[Any]:
    return DATA[n : n + count].tolist()


def test_answers_are_those_of_the_member_named(ask: Ask, trained: Trained) -> None:
    def one(n: int) -> None:
        reply = ask("/predict", {"inputs": sample(n, 2), "latency_ms": 0.2 + n}).json
        wanted = expected(trained, reply["member"], DATA[n : n + 2])
        np.testing.assert_allclose(reply["outputs"]["output"], wanted, rtol=1e-4, atol=1e-5)

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(one, range(40)))) == 40


def test_a_generous_target_gets_the_best_member(ask: Ask) -> None:
    best = ask("/members").json["members"][-1]
    reply = ask("/predict", {"inputs": {"input": sample()}, "latency_ms": 10_000}).json
    assert (reply["member"], reply["quality"]) == (best["name"], best["quality"])
    assert reply["in_time"] and reply["target_ms"] == 10_000
    hopeless = ask("/predict", {"inputs": sample(), "latency_ms": 1e-6}).json
    assert not hopeless["in_time"]


def test_arrays_in_and_out(ask: Ask, trained: Trained) -> None:
    from safetensors.numpy import load, save

    file = io.BytesIO()
    np.save(file, DATA[:3].numpy())
    reply = ask("/predict", file.getvalue(), "application/x-npy", latency_ms=5000)
    told = json.loads(reply.headers["x-manynet"])
    wanted = expected(trained, told["member"], DATA[:3]).numpy()
    assert told["target_ms"] == 5000
    np.testing.assert_allclose(np.load(io.BytesIO(reply.body)), wanted, rtol=1e-4, atol=1e-5)
    body = save({"input": DATA[:3].numpy()})
    reply = ask("/predict", body, "application/x-safetensors", latency_ms=5000)
    np.testing.assert_allclose(load(reply.body)["output"], wanted, rtol=1e-4, atol=1e-5)


def test_the_front_is_told(ask: Ask, trained: Trained) -> None:
    found = ask("/members").json
    assert [one["name"] for one in found["members"]] == [r.arch.key for r in trained.front]
    assert found["metric"] == "accuracy"
    assert found["inputs"] == [{"name": "input", "shape": [2, 6, 6], "dtype": "float32"}]
    assert list(found["members"][0]["times_ms"]) == ["1", "2", "4", "8"]
    assert found["members"][0]["costs"] == {"macs": 4e3}


def test_health_and_openapi(ask: Ask) -> None:
    assert ask("/health").json == {"status": "alive"}
    assert (ask("/ready").status, ask("/ready").json) == (200, {"status": "ready"})
    paths = ask("/openapi.json").json["paths"]
    assert set(paths) == {"/health", "/ready", "/members", "/metrics", "/predict"}
    body = paths["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["inputs"]


def test_figures(ask: Ask) -> None:
    for _ in range(3):
        ask("/predict", {"inputs": sample(0, 2), "latency_ms": 10_000})
    ask("/predict", {"inputs": "x"})
    best = ask("/members").json["members"][-1]["name"]
    reply = ask("/metrics")
    lines = dict(line.rsplit(" ", 1) for line in reply.body.decode().splitlines() if line[0] != "#")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert float(lines['manynet_requests_total{status="200"}']) == 3
    assert float(lines['manynet_requests_total{status="400"}']) == 1
    assert float(lines[f'manynet_member_samples_total{{member="{best}"}}']) == 6
    assert float(lines['manynet_in_time_total{in_time="yes"}']) == 3
    assert float(lines["manynet_request_seconds_count"]) == 3
    assert float(lines["manynet_batch_samples_sum"]) == 6
    assert float(lines["manynet_queue_samples"]) == 0


JSON = "application/json"
WRONG: list[tuple[Any, str, str]] = [
    (b"{", JSON, "the body is not valid JSON"),
    ([], JSON, 'should be a JSON object with "inputs"'),
    ({}, JSON, 'should be a JSON object with "inputs"'),
    ({"inputs": [[1, 2], [3]]}, JSON, "rows of unequal lengths"),
    (
        {"inputs": [[1.0]]},
        JSON,
        "'input' has shape (1, 1); it should have shape (samples, 2, 6, 6)",
    ),
    ({"inputs": sample(0, 9)}, JSON, "a request holds 1 to 8 samples, and this one 9"),
    ({"inputs": []}, JSON, "'input' has shape (0,)"),
    ({"inputs": "abc"}, JSON, "not numbers"),
    ({"inputs": {"images": []}}, JSON, "there is no input 'images' (known: input)"),
    ({"inputs": {}}, JSON, "the input 'input' is missing"),
    ({"inputs": sample(), "latency": 3}, JSON, "did you mean 'latency_ms'?"),
    ({"inputs": sample(), "latency_ms": -1}, JSON, "should be a positive number, and is -1"),
    ({"inputs": sample(), "latency_ms": True}, JSON, "should be a positive number, and is True"),
    ({"inputs": [[[[float("nan")] * 6] * 6] * 2]}, JSON, "values that are not finite"),
    (b"[" * 5000, JSON, "the body is not valid JSON"),
    (b"abc", "text/plain", "Content-Type 'text/plain' is not read here"),
    (b"abc", "application/x-npy", "the body is not one .npy array"),
    (b"abc", "application/x-safetensors", "the body is not safetensors"),
]


def test_bad_requests_are_answered_with_one_clear_error(ask: Ask) -> None:
    for body, kind, message in WRONG:
        reply = ask("/predict", body, kind)
        assert reply.status == 400, (body, reply)
        assert list(reply.json) == ["error"]
        assert message in reply.json["error"]
    assert ask("/predict", {"inputs": sample()}).status == 200


def test_pickles_are_not_read(ask: Ask) -> None:
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    reply = ask("/predict", file.getvalue(), "application/x-npy")
    assert reply.status == 400
    assert "allow_pickle" in reply.json["error"]


def test_a_large_body_is_refused(ask: Ask) -> None:
    reply = ask("/predict", b" " * 120_000)
    assert reply.status == 413
    assert "larger than 104,857 bytes" in reply.json["error"]


def test_other_paths_and_methods_are_told_in_the_same_form(ask: Ask) -> None:
    reply = ask("/predct")
    assert reply.status == 404
    assert "/predict" in reply.json["error"]
    assert ask("/predict").status == 405


def test_overload_is_told_with_the_time_to_come_again(trained: Trained) -> None:
    def slow(state: State) -> Decision:
        time.sleep(0.05)
        return Decision(0, 1)

    with serving(trained, Serving(max_batch=1, max_queue=2, policy=slow)) as url:
        ask = asking(url)
        with ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda _: ask("/predict", {"inputs": sample()}), range(12)))
    refused = [reply for reply in replies if reply.status == 503]
    assert refused and {reply.status for reply in replies} == {200, 503}
    assert int(refused[0].headers["retry-after"]) >= 1
    assert "try again later" in refused[0].json["error"]


def test_the_failure_of_a_policy_is_told(trained: Trained) -> None:
    def broken(state: State) -> Decision:
        raise KeyError("mine")

    with serving(trained, Serving(policy=broken)) as url:
        reply = asking(url)("/predict", {"inputs": sample()})
    assert (reply.status, reply.json) == (500, {"error": "the server failed: KeyError: 'mine'"})


def test_outputs_that_are_not_finite_are_an_error_of_the_server(trained: Trained) -> None:
    with torch.no_grad():
        trained.family.shared[-1].bias.fill_(float("inf"))  # type: ignore[index, union-attr, operator]
    with serving(trained) as url:
        reply = asking(url)("/predict", {"inputs": sample()})
    assert reply.status == 500
    assert "not finite" in reply.json["error"]


def test_only_some_members_are_held(trained: Trained) -> None:
    with serving(trained, Serving(members=2)) as url:
        names = [one["name"] for one in asking(url)("/members").json["members"]]
    assert names == [trained.front.smallest.arch.key, trained.front.largest.arch.key]


def test_what_cannot_be_served_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        serve(tmp_path, port=0)
    with pytest.raises(InputError, match="cannot listen at 203"):
        serve(trained, host="203.0.113.1")
    with pytest.raises(InputError, match="members=0 should be positive"):
        Serving(members=0)
    with pytest.raises(InputError, match="latency_ms=-1 should be positive"):
        Serving(latency_ms=-1)


def test_a_missing_library_names_the_extra(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'manynet\[serve\]'"):
        serve(trained, port=0)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "run"
    mn.run(
        "manynet:mlp?widths=[16]",
        "digits",
        folder=folder,
        train={"epochs": 1},
        search={"evaluations": 4, "latency_samples": 0, "calibration": 64},
        ranking={"archs": 0},
        deploy={"formats": ["safetensors"], "members": 1},
    )
    return folder


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_is_served_until_a_signal_and_ends_in_order(
    run_folder: Path, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    replies: list[Reply] = []

    def use(url: str) -> None:
        image = [[[[0.5] * 8] * 8]]
        body = {"inputs": image, "latency_ms": 10_000}
        under_way = threading.Thread(target=lambda: replies.append(asking(url)("/predict", body)))
        under_way.start()
        under_way.join()
        os.kill(os.getpid(), number)

    def told(url: str) -> None:
        threading.Thread(target=use, args=(url,)).start()

    serve(run_folder, port=0, settings=Serving(members=2), told=told)  # returns: the signal came
    assert replies[0].status == 200
    assert len(replies[0].json["outputs"]["output"][0]) == 10
    assert signal.getsignal(number) is before


def test_a_run_without_a_front_is_refused(run_folder: Path) -> None:
    front = run_folder / "front.json"
    aside = front.rename(run_folder / "aside.json")
    try:
        with pytest.raises(StorageError, match="holds no front yet"):
            serve(run_folder, port=0)
    finally:
        aside.rename(front)
