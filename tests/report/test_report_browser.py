"""The page in a browser, offline: the slider picks the right member, on a phone and in the dark."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from made_run import make_run
from test_report_page import embedded, spoil

from manynet.report import write_report
from manynet.search import Front

Open = Callable[[Path], Any]


@pytest.fixture(scope="module")
def visit(browser: Any) -> Iterator[Open]:
    """Return a function that opens a run's page; nothing may go wrong in it or go online."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts = []

    def visit(folder: Path) -> Any:
        context = browser.new_context(
            viewport={"width": 1280, "height": 844},
            offline=True,
            permissions=["clipboard-read", "clipboard-write"],
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.complaints, page.requests = complaints, requests
        page.goto((folder / "report.html").as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        return page

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def opened(visit: Open, run_folder: Path) -> Any:
    """Return the page of the made run, opened once: it is large, and each load takes seconds."""
    return visit(run_folder)


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """Return the opened page at its first cost; afterwards look for complaints and requests."""
    opened.set_viewport_size({"width": 1280, "height": 844})
    opened.emulate_media(color_scheme="light")
    opened.select_option("#cost", "macs")
    yield opened
    assert_quiet(opened)


def wait_until(page: Any, expression: str) -> None:
    """Wait for a truth; Playwright's own waiting needs `eval`, which the page forbids."""
    deadline = time.monotonic() + 30
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"in vain: {expression}"
        page.wait_for_timeout(20)


def assert_quiet(page: Any) -> None:
    assert not page.complaints
    assert page.requests
    assert all(url.startswith("file:") and url.endswith(".html") for url in page.requests)


def picked(page: Any) -> tuple[dict[str, str], str, str]:
    """Return the arch, the quality and the command that the page shows."""
    rows = page.eval_on_selector_all(
        "#arch tr", "rows => rows.map(row => [...row.children].slice(0, 2).map(c => c.textContent))"
    )
    return dict(rows), page.inner_text("#quality"), page.text_content("#command")


def assert_is_best(page: Any, folder: Path, cost: str, limit: float) -> None:
    best = Front.from_json(folder / "front.json").best(**{cost: limit})
    arch, quality, command = picked(page)
    assert arch == {name: str(value) for name, value in best.arch.items()}
    assert quality == f"{100 * best.quality:.1f} %"
    budget = float(command.rpartition(f"--budget {cost}=")[2])
    assert Front.from_json(folder / "front.json").best(**{cost: budget}) == best
    ring = page.evaluate(
        """() => {const plot = document.querySelector('[data-figure=front]');
        const last = plot.data[plot.data.length - 1]; return [last.x[0], last.y[0]]}"""
    )
    assert ring == [best.costs[cost], best.quality]


def test_the_slider_picks_the_best_member_within_the_budget(page: Any, run_folder: Path) -> None:
    (macs, *_) = embedded((run_folder / "report.html").read_text("utf-8"))["costs"]  # type: ignore[misc]
    stops = macs["stops"]
    assert len(stops) >= 8
    page.focus("#budget")
    page.keyboard.press("Home")
    assert_is_best(page, run_folder, "macs", stops[0]["limit"])
    page.keyboard.press("ArrowRight")
    assert_is_best(page, run_folder, "macs", stops[1]["limit"])
    page.keyboard.press("End")
    assert_is_best(page, run_folder, "macs", stops[-1]["limit"])
    page.fill("#budget", "3")
    assert_is_best(page, run_folder, "macs", stops[3]["limit"])
    assert page.get_attribute("#budget", "aria-valuetext") == stops[3]["valueText"]
    assert page.inner_text("#limit") == stops[3]["limitText"]


def test_a_typed_budget_is_the_users_own(page: Any, run_folder: Path) -> None:
    page.fill("#typed", "0.6 M MACs")
    page.keyboard.press("Enter")
    assert_is_best(page, run_folder, "macs", 600_000)
    before = picked(page)
    page.fill("#typed", "many")
    page.keyboard.press("Enter")
    assert "“many” is not a number" in page.inner_text("#status")
    assert picked(page) == before
    page.fill("#typed", "1k")
    page.keyboard.press("Enter")
    assert "No member fits 1k. The nearest one needs" in page.inner_text("#status")
    smallest = Front.from_json(run_folder / "front.json").smallest
    assert_is_best(page, run_folder, "macs", smallest.costs["macs"])
    page.focus("#budget")
    page.keyboard.press("End")
    assert page.input_value("#typed") == ""
    assert "on the front with at most" in page.inner_text("#status")


def test_another_cost_has_a_slider_of_its_own(page: Any, run_folder: Path) -> None:
    quality = picked(page)[1]
    page.select_option("#cost", "latency_ms")
    assert float(picked(page)[1].rstrip(" %")) >= float(quality.rstrip(" %"))
    page.fill("#typed", "0.3 ms")
    page.keyboard.press("Enter")
    assert_is_best(page, run_folder, "latency_ms", 0.3)
    title = "document.querySelector('[data-figure=front]').layout.xaxis.title.text"
    assert page.evaluate(title) == "Latency (ms)"


def test_the_command_can_be_copied(page: Any) -> None:
    page.click("#copy")
    wait_until(page, "document.getElementById('copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == page.text_content("#command")


def test_every_figure_is_drawn_and_named(page: Any) -> None:
    figures = page.locator(".plot")
    assert figures.count() == 9
    for index in range(9):
        assert figures.nth(index).locator("svg.main-svg").count() > 0
        assert figures.nth(index).get_attribute("aria-label")
    page.select_option("#layers-of", "parameters")
    title = "document.querySelector('[data-figure=layers]').layout.xaxis.title.text"
    assert page.evaluate(title) == "Parameters"


def test_a_phone_shows_it_without_scrolling_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    wait_until(
        page,
        "[...document.querySelectorAll('.plot svg.main-svg')].every(svg => svg.clientWidth <= 390)",
    )
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_dark_mode_repaints_page_and_figures(page: Any) -> None:
    look = """() => [getComputedStyle(document.body).backgroundColor,
        document.querySelector('[data-figure=front]')._fullLayout.font.color]"""
    light = page.evaluate(look)
    page.emulate_media(color_scheme="dark")
    wait_until(page, f"JSON.stringify(({look})()[1]) !== '{json.dumps(light[1])}'")
    dark = page.evaluate(look)
    assert light[0] != dark[0]
    assert light[1] != dark[1]


def test_nothing_moves_while_it_loads_or_the_slider_moves(page: Any) -> None:
    top = "document.getElementById('training').getBoundingClientRect().top + scrollY"
    before = page.evaluate(top)
    page.focus("#budget")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        assert page.evaluate(top) == before
    shift = """() => new Promise(done => new PerformanceObserver(list => done(list.getEntries()
        .filter(e => !e.hadRecentInput).reduce((sum, e) => sum + e.value, 0)))
        .observe({type: 'layout-shift', buffered: true}) || setTimeout(() => done(0), 300))"""
    assert page.evaluate(shift) < 0.01


def test_a_script_in_a_runs_names_does_not_run(visit: Open, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", judged=30)
    spoil(folder)
    write_report(folder)
    page = visit(folder)
    page.hover("[data-figure=front] path.point >> nth=0", force=True)
    page.focus("#budget")
    page.keyboard.press("End")
    assert page.evaluate("window.stolen") is None
    assert page.locator("img").count() == 0
    assert "window.stolen=1" in page.inner_text("#arch")
    assert_quiet(page)


@pytest.mark.slow
def test_a_front_of_one_member_is_a_page_too(visit: Open, tmp_path: Path) -> None:
    record = {"arch": {"width": 4}, "quality": 0.5, "metric": "accuracy", "macs": 12}
    (tmp_path / "front.json").write_text(json.dumps([record]))
    write_report(tmp_path)
    page = visit(tmp_path)
    page.focus("#budget")
    page.keyboard.press("ArrowRight")
    assert picked(page)[0] == {"width": "4"}
    assert picked(page)[2].endswith("--budget macs=12")
    assert_quiet(page)


def test_no_button_of_a_figure_sends_it_elsewhere(page: Any) -> None:
    page.hover("[data-figure=front]")
    buttons = page.eval_on_selector_all(
        "[data-figure=front] .modebar-btn", "all => all.map(b => b.dataset.title.toLowerCase())"
    )
    assert buttons == ["download plot as a png", "zoom", "reset axes"]
