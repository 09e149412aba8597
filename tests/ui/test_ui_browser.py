"""The live page in Chromium: it follows a run without a reload, compares, downloads, exports."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from page_server import Served, serving

from manynet._files import write_json
from manynet.search import Front, Store, read_entries

Open = Callable[[Served], Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Open]:
    """Return a function that opens a page; nothing may go wrong in it, or leave this machine."""
    complaints: list[str] = []
    requests: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 844}, accept_downloads=True)

    def visit(served: Served) -> Any:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.complaints = complaints
        page.goto(served.address)
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        return page

    yield visit
    context.close()
    assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests)
    expected = ("net::ERR_CONNECTION", "status of 400")  # a server that stops, a name that is taken
    assert not [text for text in complaints if not any(one in text for one in expected)]


def wait_until(page: Any, expression: str) -> None:
    """Wait for a truth; Playwright's own waiting needs `eval`, which the page forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"in vain: {expression}"
        page.wait_for_timeout(50)


def text_holds(page: Any, selector: str, text: str) -> None:
    wait_until(
        page, f"document.querySelector({selector!r})?.textContent.includes({json.dumps(text)})"
    )


def say(folder: Path, state: str, stage: str, done: int, total: int) -> None:
    now = time.time()
    one = {"stage": stage, "done": done, "total": total, "began": now - 9, "updated": now}
    common = {"process": os.getpid(), "host": platform.node(), "updated": now}
    write_json(folder / "progress.json", {"state": state, "stages": [one], **common})


def copy(source: Path, folder: Path, *names: str) -> None:
    for name in names:
        shutil.copy(source / name, folder / name)


def arch_shown(page: Any) -> dict[str, str]:
    rows = page.eval_on_selector_all(
        "#arch tr", "rows => rows.map(row => [...row.children].slice(0, 2).map(c => c.textContent))"
    )
    return dict(rows)


def points(page: Any, figure: str) -> int:
    found = f"document.querySelector('[data-figure={figure}]')?.data?.[0]?.x.length ?? 0"
    return int(page.evaluate(found))


def test_a_page_follows_a_run_from_its_beginning_to_its_end(
    visit: Open, complete: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    copy(complete, folder, "config.yaml")
    with serving(folder) as served:
        page = visit(served)
        page.evaluate("window.unchanged = true")
        assert "No stage has begun yet" in page.inner_text("#now")
        assert not page.is_visible("#pick")
        assert not page.is_visible("#compare")
        assert not page.is_visible("nav a[href='#layers']")

        lines = (complete / "training.jsonl").read_text().splitlines(keepends=True)
        (folder / "training.jsonl").write_text("".join(lines[:40]))
        say(folder, "running", "train the family", 30, 120)
        text_holds(page, ".pill", "Running")
        wait_until(page, "document.querySelectorAll('[data-figure=loss] .main-svg').length > 0")
        assert page.title().startswith("25 % train the family")
        before = points(page, "loss")
        (folder / "training.jsonl").write_text("".join(lines[:80]))
        wait_until(
            page, f"document.querySelector('[data-figure=loss]').data[0].x.length > {before}"
        )
        assert points(page, "learning_rate") > 0

        search = {"metric": "accuracy", "costs": ["macs", "bytes"], "evaluations": 240}
        write_json(folder / "search.json", search)
        say(folder, "running", "search", 20, 240)
        entries = read_entries(complete / "evaluations.sqlite")
        with Store(folder / "evaluations.sqlite") as store:
            for entry in entries[:4]:  # one member
                store.add(entry.arch, {entry.metric: entry.value})
            wait_until(page, "!document.getElementById('pick').hidden")
            assert points(page, "growth") == 1
            for entry in entries[4:80]:
                store.add(entry.arch, {entry.metric: entry.value})
            wait_until(page, "document.querySelector('[data-figure=growth]').data[0].x.length > 9")
            some = points(page, "growth")
            page.focus("#budget")
            page.keyboard.press("End")
            for entry in entries[80:240]:
                store.add(entry.arch, {entry.metric: entry.value})
            wait_until(
                page, f"document.querySelector('[data-figure=growth]').data[0].x.length > {some}"
            )

        for name in ("front.json", "family.json", "layers.json", "latency.json"):
            copy(complete, folder, name)
        say(folder, "finished", "search", 240, 240)
        text_holds(page, ".pill", "Finished")
        wait_until(page, "document.querySelector('[data-figure=layers] .main-svg') !== null")
        assert page.evaluate("window.unchanged")
        assert page.is_visible("nav a[href='#layers']")
        front = Front.from_json(folder / "front.json")
        limits = page.evaluate("document.getElementById('cost').value")
        assert limits == "macs"
        page.focus("#budget")
        page.keyboard.press("End")
        best = front.best(macs=1e12)
        assert arch_shown(page) == {name: str(value) for name, value in best.arch.items()}


def two_members_stand_side_by_side(page: Any, complete: Path) -> None:
    front = Front.from_json(complete / "front.json")
    page.select_option("#first", "0")
    page.select_option("#second", str(len(front) - 1))
    rows = dict(
        page.eval_on_selector_all(
            "#compare-rows tr",
            "rows => rows.map(r => [r.children[0].textContent,"
            " [...r.children].slice(1).map(c => c.textContent)])",
        )
    )
    first, second = front[0], front[len(front) - 1]
    gain = 100 * (second.quality - first.quality)
    assert rows["accuracy"] == [
        f"{100 * first.quality:.1f} %",
        f"{100 * second.quality:.1f} %",
        f"+{gain:.1f} points",
    ]
    assert (
        rows["MACs"][2]
        == f"{second.costs['macs'] / first.costs['macs']:.3g} \N{MULTIPLICATION SIGN}"
    )
    differ = {name for name in first.arch if first.arch[name] != second.arch[name]}
    assert differ == {name for name in first.arch if rows[name][2] != "same"}
    assert f"{len(differ)} of {len(first.arch)} choices differ" in page.inner_text("#compare-note")
    page.select_option("#first", "picked")
    page.select_option("#second", "picked")
    assert "the same member" in page.inner_text("#compare-note")


def it_fits_a_phone_and_turns_dark(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    color = "document.querySelector('[data-figure=growth]')._fullLayout.font.color"
    light = page.evaluate(color)
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"{color} !== {light!r}")


def test_a_complete_run_can_be_looked_at_anywhere(
    visit: Open, complete: Path, served: Served
) -> None:
    page = visit(served)
    two_members_stand_side_by_side(page, complete)
    it_fits_a_phone_and_turns_dark(page)


def files_of_the_picked_member_are_downloaded(page: Any) -> None:
    page.focus("#budget")
    page.keyboard.press("Home")
    assert "Exported as small" in page.inner_text("#exported")
    with page.expect_download() as waiting:
        page.click("#exported a >> text=model.onnx")
    assert Path(waiting.value.path()).read_bytes() == b"weights"
    assert waiting.value.suggested_filename == "model.onnx"


def the_picked_member_is_exported(page: Any) -> None:
    page.focus("#budget")
    page.keyboard.press("End")
    assert page.inner_text("#command").startswith("manynet extract")
    page.fill("#name", "small")
    page.click("#exported button")
    text_holds(page, "#exported", "there is a member small already")
    page.fill("#name", "mine")
    page.click("#exported button")
    text_holds(page, "#exported", "Exported as mine")
    text_holds(page, "#exports", "mine")


def test_members_are_downloaded_and_exported_until_the_server_goes(
    visit: Open, complete: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(complete, tmp_path / "run"))
    (folder / "members" / "small" / "model.onnx").write_bytes(b"weights")
    shutil.rmtree(folder / "members" / "large")
    arch = json.dumps(Front.from_json(folder / "front.json").best(macs=1e12).arch.to_json())
    call = (
        "import json, pathlib, shutil, sys; a = sys.argv[1:]\n"
        "if a[0] == 'export': sys.exit()\n"
        "place = pathlib.Path(a[1], 'members', a[3])\n"
        "shutil.copytree(place.parent / 'small', place); path = place / 'manifest.json'\n"
        f"path.write_text(json.dumps(json.loads(path.read_text()) | {{'arch': {arch}}}))"
    )
    monkeypatch.setattr("manynet.ui._export._CALL", call)
    with serving(folder, export=True) as served:
        page = visit(served)
        files_of_the_picked_member_are_downloaded(page)
        the_picked_member_is_exported(page)
        assert not page.is_visible("#lost")
    wait_until(page, "!document.getElementById('lost').hidden")
    assert page.is_visible("#budget")
