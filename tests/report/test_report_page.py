"""The page as text: what it holds, what it leaves out, and that nothing of a run can run in it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from made_run import make_run

from manynet._files import write_json
from manynet.errors import MissingExtraError, StorageError
from manynet.report import write_report
from manynet.report._read import read_run

OPTIONAL = {
    "training.jsonl": "manynet train",
    "layers.json": "No layers.json",
    "latency.json": "No latency.json",
    "ranking.json": "No ranking.json",
}
BAD = '</script><script>window.stolen=1</script><img src=x onerror="window.stolen=1">'


class Reader(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_data(self, data: str) -> None:
        if self._inside[-1:] not in (["script"], ["style"]):
            self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._inside.append("")


def embedded(page: str) -> dict[str, object]:
    """Return the data that the page carries."""
    (text,) = re.findall(r'<script type="application/json" id="run">(.*?)</script>', page)
    return json.loads(text)  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _light(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plotly's five megabytes out where a test does not draw."""
    if "missing_plotly" not in request.node.name:
        monkeypatch.setattr("manynet.report._page.plotly_script", lambda: "0;")


@pytest.fixture
def folder(run_folder: Path, tmp_path: Path) -> Path:
    """Return a run's folder of the test's own."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def render(folder: Path) -> str:
    return write_report(folder).read_text(encoding="utf-8")


def test_a_run_becomes_a_page_with_every_part(run_folder: Path) -> None:
    page = Reader((run_folder / "report.html").read_text(encoding="utf-8"))
    assert "resnet18: one set of weights, 1,048,576 networks" in page.text
    assert "Elastic in width (8 choices) and depth (4 choices)." in page.text
    assert "Largest member" in page.text
    assert "Smallest member" in page.text
    assert "240 of 1,048,576 members were judged" in page.text
    figures = {attrs.get("data-figure") for tag, attrs in page.tags if tag == "div"} - {None}
    curves = {"loss", "accuracy", "learning_rate", "growth", "judged"}
    assert figures == {"front", *curves, "layers", "latency", "ranking"}
    assert "model.int8.onnx" in page.text
    assert "model: torchvision:resnet18" in page.text
    assert "machine.cpu" in page.text
    assert "its output is the classes" in page.text
    assert "mean error 4.3 %" in page.text


def test_the_headline_gives_the_ends_as_judged(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run.space is not None
    at = {tuple(one.arch.values()): one.quality for one in run.evaluated}
    text = Reader((run_folder / "report.html").read_text(encoding="utf-8")).text
    for arch, word in ((run.space.largest, "Largest"), (run.space.smallest, "Smallest")):
        quality = at[tuple(arch.values())]
        assert f"{word} member{100 * quality:.1f} %" in text


def test_the_page_asks_for_nothing_from_elsewhere(run_folder: Path) -> None:
    page = Reader((run_folder / "report.html").read_text(encoding="utf-8"))
    for tag, attrs in page.tags:
        assert tag not in {"iframe", "object", "embed"}
        assert "src" not in attrs
        assert (attrs.get("href") or "#").startswith(("#", "data:,"))
    policy = next(a for t, a in page.tags if "Content-Security-Policy" in a.values())
    assert str(policy["content"]).startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_part_without_data_says_how_to_get_it(folder: Path, name: str) -> None:
    (folder / name).unlink()
    page = Reader(render(folder))
    assert OPTIONAL[name] in page.text


def test_the_front_alone_is_enough(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "front.json", alone)
    page = render(alone)
    assert "No member was exported yet" in page
    assert "the network: one set of weights" in page
    assert "Largest on the front" in page
    assert not (alone / "evaluations.sqlite").exists()


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("latency.json", "{", "latency.json could not be read: Expecting property name"),
        (
            "latency.json",
            '{"predicted": [1], "measured": []}',
            "1 predicted values, but 0 measured ones",
        ),
        ("ranking.json", '{"members": [{"alone": 1}]}', "members.0.inherited: Field required"),
        ("layers.json", "[]", "layers.json could not be read"),
        ("training.jsonl", '{"step": 1}\n{"st\n{"step": 3}\n', "line 2:"),
        ("environment.json", "[1]", "environment.json could not be read"),
        ("family.json", '{"space": {"choices": 3}}', "family.json could not be read"),
        ("evaluations.sqlite", "not a database", "evaluations.sqlite could not be read"),
        ("members/small/manifest.json", "{}", "not a manifest"),
    ],
)
def test_a_damaged_file_costs_its_part_only(folder: Path, name: str, text: str, found: str) -> None:
    (folder / name).write_text(text)
    page = Reader(render(folder))
    assert found in page.text
    assert "Pick a member" in page.text


def test_a_log_that_a_killed_run_left_unfinished_is_read(folder: Path) -> None:
    with (folder / "training.jsonl").open("a") as file:
        file.write('{"step": 1200, "memb')
    run = read_run(folder)
    assert run.training[-1].step == 1197
    assert not run.notes


def test_losses_that_are_not_finite_are_left_out(folder: Path) -> None:
    lines = [
        '{"step": 1, "members": {"largest": {"loss": NaN}}}',
        '{"step": 2, "members": {"largest": {"loss": 2.0}}}',
        '{"step": 3, "members": {"largest": {"loss": Infinity}}}',
    ]
    (folder / "training.jsonl").write_text("\n".join(lines))
    data = embedded(render(folder))
    assert data["figures"]["loss"]["data"][0]["x"] == [2]  # type: ignore[index]
    assert "accuracy" not in data["figures"]  # type: ignore[operator]


def test_a_long_log_is_averaged_over_equal_stretches(folder: Path) -> None:
    lines = [
        json.dumps({"step": step, "members": {"largest": {"loss": float(step % 2)}}})
        for step in range(6000)
    ]
    (folder / "training.jsonl").write_text("\n".join(lines))
    curve = embedded(render(folder))["figures"]["loss"]["data"][0]  # type: ignore[index]
    assert len(curve["x"]) == 300
    assert set(curve["y"]) == {0.5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist, so there is nothing to report"),
        ("[]", "holds no member"),
        ("{", "cannot read"),
        ('[{"arch": {}, "costs": {}}]', "0.quality: Field required"),
        ('[{"arch": {}, "quality": NaN, "costs": {}}]', "0.quality: Input should be a finite"),
        ('[{"arch": {}, "quality": 1, "costs": {}}]', "no cost"),
    ],
)
def test_a_run_without_a_front_has_no_page(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "front.json").write_text(text)
    with pytest.raises(StorageError, match=re.escape(message)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_costs_may_stand_beside_the_quality_or_in_a_group(tmp_path: Path) -> None:
    flat = {"arch": {"n": 1}, "quality": 0.5, "metric": "accuracy", "macs": 5}
    group = {"arch": {"n": 1}, "quality": 0.5, "metric": "accuracy", "costs": {"macs": 5}}
    for name, record in (("flat", flat), ("group", group)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "front.json", [record])
    assert read_run(tmp_path / "flat").front == read_run(tmp_path / "group").front


def test_evaluations_may_come_as_json(folder: Path) -> None:
    (folder / "evaluations.sqlite").unlink()
    record = {"arch": {"n": 1}, "quality": 0.5, "costs": {"macs": 5}}
    write_json(folder / "evaluations.json", [record])
    assert [one.costs for one in read_run(folder).evaluated] == [{"macs": 5}]


def spoil(folder: Path) -> None:
    """Put a script into every name that the page shows."""
    front = json.loads((folder / "front.json").read_text())
    for record in front:
        record["arch"] = {BAD: BAD, "width": 3}
        record["metric"] = BAD
        record[BAD] = 4.0
    write_json(folder / "front.json", front)
    layers = {"members": {BAD: [{"path": BAD, "type": BAD, "macs": 5, "parameters": 3}]}}
    write_json(folder / "layers.json", layers)
    line = {"step": 1, "members": {BAD: {"loss": 1.0, "accuracy": 0.5}}}
    (folder / "training.jsonl").write_text(json.dumps(line))
    latency = {"predicted": [1, 2], "measured": [1, 2], "device": BAD}
    write_json(folder / "latency.json", latency)
    write_json(folder / "environment.json", {BAD: {BAD: BAD}})
    write_json(folder / "family.json", {"source": BAD, "report": {"fixed": [[BAD, BAD]]}})
    (folder / "config.yaml").write_text(f"model: '{BAD}'\n")
    manifest = json.loads((folder / "members/small/manifest.json").read_text())
    manifest["files"][0]["name"] = manifest["metric"] = BAD
    write_json(folder / "members/small/manifest.json", manifest)


def test_nothing_of_a_run_can_run_in_the_page(folder: Path) -> None:
    expected = len(Reader(render(folder)).tags)
    spoil(folder)
    page = Reader(render(folder))
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "window.stolen=1" in page.text
    assert len(page.tags) < expected + 100


def test_drawings_are_valid_and_escaped(folder: Path) -> None:
    spoil(folder)
    write_report(folder)
    drawings = sorted((folder / "figures").glob("*.svg"))
    assert {"front-macs.svg", "training-accuracy.svg", "training-loss.svg"} <= {
        path.name for path in drawings
    }
    for path in drawings:
        tags = {node.tag.rpartition("}")[2] for node in ElementTree.parse(path).iter()}
        assert tags <= {"svg", "style", "rect", "text", "line", "polyline", "circle"}


def test_the_command_names_the_folder_as_the_user_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run_folder, "my run")
    write_report("my run")
    data = embedded(Path("my run/report.html").read_text(encoding="utf-8"))
    command = data["costs"][0]["stops"][0]["command"]  # type: ignore[index]
    assert re.fullmatch(r"manynet extract 'my run' --budget macs=\d+", command)


def test_writing_again_replaces_the_page(folder: Path) -> None:
    before = render(folder)
    (folder / "config.yaml").write_text("model: timm:something_else\n")
    (folder / "family.json").unlink()
    after = render(folder)
    assert "something_else: one set of weights" in after
    assert before != after


def test_a_missing_plotly_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MissingExtraError, match=r"plotly.*manynet\[report\]"):
        write_report(folder)


def test_a_made_run_is_the_same_each_time(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a", judged=30), make_run(tmp_path / "b", judged=30)
    assert (first / "front.json").read_bytes() == (second / "front.json").read_bytes()
