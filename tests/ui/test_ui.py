"""The server of the live page: what it hands out, what it refuses, and that it only reads."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from page_server import Served, serving

from manynet.errors import InputError, MissingExtraError
from manynet.ui import ui
from manynet.ui._export import Exporter


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_page_needs_nothing_from_elsewhere(served: Served) -> None:
    status, body, headers = served.ask("/")
    text = body.decode()
    assert status == 200
    assert "resnet18: one set of weights" in text
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    assert "https://" not in text
    for name in ("plotly", "page", "live"):
        assert f'<script src="{name}.js"></script>' in text
        assert served.ask(f"/{name}.js")[0] == 200
    assert served.ask("/other.js")[0] == 404


def test_news_are_told_once(served: Served) -> None:
    status, body, _ = served.ask("/api/state")
    state = json.loads(body)
    assert status == 200
    assert state["state"] == "finished"
    assert served.ask(f"/api/state?since={state['revision']}")[:2] == (204, b"")
    assert served.ask("/api/state?since=other")[0] == 200


def test_looking_leaves_no_trace(complete: Path, served: Served) -> None:
    before = contents(complete)
    for path in ("/", "/api/state", "/front.csv", "/members/small/model.onnx", "/nothing"):
        served.ask(path)
    assert contents(complete) == before


def test_the_files_of_exported_members_can_be_downloaded(complete: Path, served: Served) -> None:
    small = complete / "members" / "small"
    for name in ("model.onnx", "model.safetensors", "manifest.json"):
        if not (small / name).is_file():  # the made run has manifests only
            assert served.ask(f"/members/small/{name}")[0] == 404
            continue
        status, body, headers = served.ask(f"/members/small/{name}")
        assert (status, body) == (200, (small / name).read_bytes())
        assert headers["content-disposition"] == f'attachment; filename="{name}"'
    assert served.ask("/front.json")[1] == (complete / "front.json").read_bytes()


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/members/../../secret.txt",
        "/members/small/../../../secret.txt",
        "/members/small/..%2f..%2f..%2fsecret.txt",
        "/members/small/%2e%2e/%2e%2e/config.yaml",
        "//etc/passwd",
        "/%2fetc%2fpasswd",
        "/config.yaml",
        "/evaluations.sqlite",
        "/members/linked/model.onnx",
        "/members/linked/%00",
        "/members/named/..%2f..%2f..%2fsecret.txt",
    ],
)
def test_nothing_else_of_the_disk_can_be_read(complete: Path, tmp_path: Path, path: str) -> None:
    """Neither by its path, nor by a link, nor by a manifest that names it."""
    run = Path(shutil.copytree(complete, tmp_path / "run"))
    (tmp_path / "secret.txt").write_text("secret")
    shutil.copytree(run / "members" / "small", run / "members" / "linked")
    (run / "members" / "linked" / "model.onnx").unlink(missing_ok=True)
    (run / "members" / "linked" / "model.onnx").symlink_to(tmp_path / "secret.txt")
    named = shutil.copytree(run / "members" / "small", run / "members" / "named")
    text = (named / "manifest.json").read_text()
    (named / "manifest.json").write_text(text.replace("model.onnx", "../../../secret.txt"))
    with serving(run) as served:
        status, body, _ = served.ask(path)
    assert status == 404
    assert b"secret\n" not in body + b"\n" or b"error" in body
    assert b"error" in body


def test_another_name_for_this_machine_is_refused(served: Served) -> None:
    assert served.ask("/", Host="localhost:1")[0] == 200
    assert served.ask("/api/state", Host="evil.example")[0] == 400


def test_a_page_that_only_reads_exports_nothing(served: Served) -> None:
    asked = {"cost": "macs", "limit": 1e6, "name": "mine"}
    status, body, _ = served.ask("/api/export", "POST", asked)
    assert status == 400
    assert "this page only reads" in json.loads(body)["error"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ([], "send an object"),
        ({"cost": "macs", "limit": 1, "name": "../up"}, "should be that of a folder"),
        ({"cost": "macs", "limit": 1, "name": "-rf"}, "should be that of a folder"),
        ({"cost": "macs", "limit": 1, "name": "small"}, "there is a member small already"),
        ({"cost": "macs;ls", "limit": 1, "name": "mine"}, "should be a name such as macs"),
        ({"cost": "macs", "limit": "1", "name": "mine"}, "should be a number"),
        ({"cost": "macs", "limit": float("nan"), "name": "mine"}, "should be a number"),
    ],
)
def test_what_cannot_be_exported_is_said(complete: Path, asked: object, found: str) -> None:
    with pytest.raises(InputError, match=found):
        Exporter(complete, allowed=True).begin(asked)


def test_only_json_is_taken(complete: Path) -> None:
    """A page from elsewhere can send a form without asking, but not JSON."""
    with serving(complete, export=True) as served:
        headers = {"content-type": "text/plain"}
        assert served.ask("/api/export", "POST", {}, **headers)[0] == 400


def finished(exporter: Exporter) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while exporter.state("0")["job"]["state"] == "working":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return exporter.state("0")


def test_an_export_takes_out_what_the_slider_shows(
    complete: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In processes of their own, one after the other, and only once at a time."""
    call = f"import sys; print(*sys.argv[1:], file=open({str(tmp_path / 'calls')!r}, 'a'))"
    monkeypatch.setattr("manynet.ui._export._CALL", call)
    exporter = Exporter(complete, allowed=True)
    before = exporter.state("0")["revision"]
    exporter.begin({"cost": "latency_ms", "limit": 0.25, "name": "mine"})
    with pytest.raises(InputError, match="mine is being exported"):
        exporter.begin({"cost": "macs", "limit": 1e6, "name": "other"})
    after = finished(exporter)
    assert after["job"]["state"] == "done"
    assert after["revision"] != before
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"extract {complete} --name mine --budget latency_ms=0.25 -q",
        f"export {complete} --name mine --format onnx -q",
    ]


def test_an_export_that_fails_says_why(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call = "import sys; sys.exit('a warning\\nmanynet: there are no weights')"
    monkeypatch.setattr("manynet.ui._export._CALL", call)
    exporter = Exporter(complete, allowed=True)
    exporter.begin({"cost": "macs", "limit": 1e6, "name": "mine"})
    job = finished(exporter)["job"]
    assert job == {"state": "failed", "name": "mine", "text": "there are no weights"}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path} holds no run"):
        ui(tmp_path)


def test_a_port_that_is_taken_is_named(complete: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"127.0.0.1:{port}: it is taken; .*--port 0"):
            ui(complete, port=port)
    with pytest.raises(InputError, match="the port 70000 must lie between 0 and 65535"):
        ui(complete, port=70000)


def test_a_missing_server_names_the_extra(complete: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(MissingExtraError, match=r"uvicorn.*manynet\[serve\]"):
        ui(complete)


def test_the_verb_serves_until_it_is_stopped(complete: Path) -> None:
    call = "import sys; from manynet.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", call, "ui", str(complete), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        killer = threading.Timer(120, process.kill)
        killer.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        address = line.split()[1]
        with urlopen(f"{address}/api/state") as answer:
            assert json.load(answer)["state"] == "finished"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        killer.cancel()


def test_a_run_that_vanishes_does_not_stop_the_server(complete: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(complete, tmp_path / "run"))
    with serving(run) as served:
        assert json.loads(served.ask("/api/state")[1])["state"] == "finished"
        shutil.rmtree(run)
        time.sleep(0.01)
        deadline = time.monotonic() + 30
        while json.loads(served.ask("/api/state")[1])["state"] != "gone":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert served.ask("/")[0] == 200
        assert served.ask("/front.csv")[0] == 404
        os.mkdir(run)  # noqa: PTH102 - and it may come back
        assert served.ask("/")[0] == 200
