"""The live page's state: what it says of a run at each stage, and of one that came to grief."""

from __future__ import annotations

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manynet._files import write_json, write_text
from manynet.report._course import growth
from manynet.report._read import Record, look_at
from manynet.report._status import duration_text
from manynet.report._tail import Tail
from manynet.report.live import Live
from manynet.search import Front, Store, read_entries
from manynet.search.front import hypervolume
from manynet.space import Arch


def say(folder: Path, state: str, *stages: tuple[str, int, int], **more: Any) -> None:
    """Write what a run says of itself; by default this process is the run."""
    now = time.time()
    listed = [
        {"stage": name, "done": done, "total": total, "began": now - 10, "updated": now}
        for name, done, total in stages
    ]
    common = {"process": os.getpid(), "host": platform.node(), "updated": now}
    write_json(folder / "progress.json", {"state": state, **common, "stages": listed, **more})


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """Return the folder of a run that has only begun."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: torchvision:resnet18\ndata: digits\n")
    return folder


def judge(store: Store, width: int, quality: float) -> None:
    store.add(Arch({"width": width}), {"macs": 100.0 * width})
    store.add(Arch({"width": width}), {"accuracy": quality})


def looks_for(folder: Path, *costs: str) -> None:
    write_json(
        folder / "search.json", {"metric": "accuracy", "costs": list(costs), "evaluations": 9}
    )


def test_a_run_that_has_only_begun_says_so(begun: Path) -> None:
    state = Live(begun).state()
    assert state["state"] == "waiting"
    assert state["members"] == state["costs"] == []
    assert "No stage has begun yet" in state["html"]["status"]
    assert "the curves appear with the first lines" in state["html"]["training"]
    assert "resnet18" in state["html"]["headline"]
    assert 'id="pick" aria-labelledby="pick-title" hidden' in Live(begun).page()


def test_a_stage_tells_how_far_it_is_and_what_is_left(begun: Path) -> None:
    say(begun, "running", ("find what hangs together", 1, 1), ("train the family", 25, 100))
    state = Live(begun).state()
    assert state["state"] == "running"
    assert state["title"].startswith("25 % train the family")
    assert "about 30 s left" in state["html"]["status"]
    assert 'aria-valuenow="25"' in state["html"]["status"]


def test_the_front_grows_while_the_search_goes_on(begun: Path) -> None:
    looks_for(begun, "macs")
    say(begun, "running", ("search", 0, 9))
    live = Live(begun)
    assert live.state()["members"] == []
    with Store(begun / "evaluations.sqlite") as store:
        judge(store, 4, 0.9)
        judge(store, 8, 0.8)
        found = look_at(begun)
        assert [record.arch["width"] for record in found.front] == [4]
        assert [record.arch["width"] for record in found.evaluated] == [4, 8]
        judge(store, 2, 0.5)
        store.add(Arch({"width": 1}), {"macs": 100.0})  # not judged yet
        assert [record.arch["width"] for record in look_at(begun).front] == [2, 4]
    live._rested = 0.0
    state = live.state()
    assert [member["quality"] for member in state["members"]] == [0.5, 0.9]
    assert state["figures"]["growth"]["data"][0]["x"] == [1, 2, 3]
    assert state["figures"]["growth"]["layout"]["xaxis"]["range"][1] >= 9
    assert len(state["figures"]["judged"]["data"][0]["x"]) == 3


def test_an_older_front_waits_while_a_new_search_goes_on(run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    looks_for(folder, "macs", "bytes")
    saved = json.loads((folder / "front.json").read_text())
    write_json(folder / "front.json", saved[:1])
    say(folder, "finished", ("search", 9, 9))
    assert len(look_at(folder).front) == 1
    say(folder, "running", ("search", 3, 9))
    assert len(look_at(folder).front) > 1


def test_a_killed_run_is_found_out(begun: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    say(begun, "running", ("train the family", 3, 9), process=int(gone.stdout))
    state = Live(begun).state()
    assert state["state"] == "stopped"
    assert "interrupted during “train the family”" in state["html"]["status"]
    assert f"manynet run {begun}" in state["html"]["status"]


def test_a_silent_run_elsewhere_counts_as_stopped(begun: Path) -> None:
    say(begun, "running", ("search", 3, 9), host="elsewhere")
    assert Live(begun).state()["state"] == "running"
    say(begun, "running", ("search", 3, 9), host="elsewhere", updated=time.time() - 600)
    assert Live(begun).state()["state"] == "stopped"


def test_a_failed_run_says_why_and_nothing_of_it_is_html(begun: Path) -> None:
    say(begun, "failed", ("search", 3, 9), message="<b>the disk is full</b>")
    text = Live(begun).state()["html"]["status"]
    assert "&lt;b&gt;the disk is full&lt;/b&gt;" in text
    assert "<b>" not in text


@pytest.mark.parametrize("name", ["progress.json", "search.json", "front.json", "family.json"])
@pytest.mark.parametrize("text", ["", "{", "[1]", "\0" * 200])
def test_a_damaged_file_is_told_and_the_rest_shown(
    run_folder: Path, tmp_path: Path, name: str, text: str
) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    looks_for(folder, "macs")
    (folder / name).write_text(text)
    state = Live(folder).state()
    assert f"{name} could not be read" in state["html"]["about"]
    assert {"loss", "growth", "latency"} <= set(state["figures"])
    assert state["members"]


def test_a_damaged_store_costs_the_course_of_the_search(run_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run_folder, tmp_path / "run"))
    (folder / "evaluations.sqlite").write_text("\0" * 200)
    state = Live(folder).state()
    assert "evaluations.sqlite could not be read" in state["html"]["search"]
    assert "growth" not in state["figures"]
    assert state["members"]


def test_every_file_may_be_missing(run_folder: Path, tmp_path: Path) -> None:
    for path in sorted(run_folder.iterdir()):
        folder = Path(shutil.copytree(run_folder, tmp_path / path.name))
        target = folder / path.name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        assert Live(folder).page()


def test_what_has_not_changed_is_not_read_again(begun: Path) -> None:
    live = Live(begun)
    first = live.state()
    assert live.state() is first
    say(begun, "running", ("search", 3, 9))
    live._rested = 0.0
    assert live.state()["revision"] != first["revision"]


def test_growing_files_are_read_on_from_where_the_last_look_ended(begun: Path) -> None:
    parsed: list[int] = []

    def parse(row: Any) -> int:
        parsed.append(row["step"])
        return int(row["step"])

    tail, path = Tail(), begun / "training.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert tail.lines(path, parse) == [1, 2]
    with path.open("a") as file:
        file.write('ep": 3}\n')
    assert tail.lines(path, parse) == [1, 2, 3]
    assert parsed == [1, 2, 3]
    write_text(path, '{"step": 7}\n')  # a resumed run drops what came after its checkpoint
    assert tail.lines(path, parse) == [7]
    with path.open("a") as file:
        file.write("nothing\n")
    with pytest.raises(ValueError, match="row 2"):
        tail.lines(path, parse)
    with pytest.raises(ValueError, match="row 2"):
        tail.lines(path, parse)


def test_a_store_that_grows_or_is_replaced_is_read_whole(begun: Path) -> None:
    looks_for(begun, "macs")
    path, tail = begun / "evaluations.sqlite", Tail()
    with Store(path) as store:
        for width in range(1, 6):
            judge(store, width, 0.1 * width)
            assert [e.value for e in tail.entries(path)] == [e.value for e in read_entries(path)]
        store.replace(Arch({"width": 2}), {"accuracy": 0.9})
        assert look_at(begun, tail).evaluated == look_at(begun).evaluated
    path.unlink()
    with Store(path) as store:
        judge(store, 9, 0.5)
        assert len(tail.entries(path)) == 2


def test_a_store_is_read_while_it_is_written_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    with Store(path) as store:
        judge(store, 4, 0.9)
        assert {entry.metric for entry in read_entries(path)} == {"macs", "accuracy"}
        store.add(Arch({"width": 5}), {"macs": 3.0})
        assert len(read_entries(path)) == 3
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    assert len(read_entries(path)) == 3
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_hypervolume_grows_to_that_of_the_front() -> None:
    rng = np.random.default_rng(0)
    records = [
        Record(arch={"n": n}, quality=float(q), costs={"macs": float(m), "bytes": float(b)})
        for n, (q, m, b) in enumerate(rng.random((60, 3)))
    ]
    for costs in (["macs"], ["macs", "bytes"]):
        found = growth(records, costs).y
        assert len(found) == 60
        assert all(later >= earlier for earlier, later in itertools.pairwise(found))
        points = np.array([(-r.quality, *(r.costs[c] for c in costs)) for r in records])
        unit = (points - points.min(0)) / np.ptp(points, axis=0)
        whole = hypervolume(unit, np.full(len(costs) + 1, 1.1)) / 1.1 ** (len(costs) + 1)
        assert found[-1] == pytest.approx(whole)


def test_one_member_has_a_hypervolume() -> None:
    record = Record(arch={}, quality=0.5, costs={"macs": 3.0})
    assert growth([record], ["macs"]).y == [1.0]
    assert growth([], ["macs"]).y == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.7, "1 min"), (61, "1 min 1 s"), (1000, "16 min"), (3600, "1 h")],
)
def test_times_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_the_stops_of_a_live_front_pick_what_the_command_picks(run_folder: Path) -> None:
    state = Live(run_folder).state()
    front = Front.from_json(run_folder / "front.json")
    for cost in state["costs"]:
        for stop in cost["stops"]:
            best = front.best(**{cost["name"]: stop["limit"]})
            assert state["members"][stop["member"]]["costs"] == dict(best.costs)
