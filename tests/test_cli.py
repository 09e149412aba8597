"""The command line: exit codes, one line an error, JSON that parses, verb after verb."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import manynet as mn
from manynet import cli
from manynet.errors import StorageError

stages = importlib.import_module("manynet.run._run")
VERBS = (
    *("run", "train", "search", "extract", "export", "report"),
    *("serve", "systems", "reproduce", "doctor"),
)
Run = Callable[..., tuple[int, str, str]]

FILE = """
import torch
from torch import nn


def network():
    return nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
        nn.Linear(16, 3)
    )


def data():
    def samples(count, seed):
        inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
        return inputs, inputs[:, :3].argmax(1)

    return samples(160, 1), samples(120, 2), samples(40, 3)


def as_dict():
    class Net(nn.Linear):
        def forward(self, x):
            return {"out": super().forward(x)}

    return nn.Sequential(nn.Linear(8, 16), Net(16, 3))
"""
CONFIG = """
model: {file}:network
data: {file}:data
train: {{epochs: 1, batch_size: 32}}
search: {{evaluations: 8, calibration: 64, latency_samples: 0}}
ranking: {{archs: 0}}
deploy: {{formats: [safetensors]}}
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Return what runs a command line: exit code, what it printed, what it complained."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a config for a run of a second, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "run.yaml").write_text(CONFIG.format(file=tmp_path / "mine.py"))
    return tmp_path / "run.yaml"


def test_help_needs_no_torch() -> None:
    code = (
        "import sys, manynet.cli\n"
        "assert manynet.cli.main(['run', '--help']) == 0\n"
        "print(sorted({'torch', 'yaml', 'numpy', 'manynet.run'} & set(sys.modules)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert found.strip().endswith("[]")
    assert "Do everything" in found


def test_importing_the_library_brings_no_torch_either() -> None:
    code = "import sys, manynet; print('torch' in sys.modules, manynet.__version__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", mn.__version__]


def test_version_and_verbs(run: Run) -> None:
    assert run("--version") == (0, f"manynet {mn.__version__}\n", "")
    code, out, _ = run()
    assert code == 0
    for verb in VERBS:
        assert f"  {verb} " in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_fits_80_columns(verb: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


WRONG: list[tuple[list[str], str]] = [
    (["bogus"], "No such command 'bogus'"),
    (["run", "--modle", "x"], "No such option: --modle"),
    (["run", "--seed", "x"], "Invalid value for '--seed'"),
    (["run", "--seed", "-1"], "seed: should be at least 0, and is -1"),
    (["run", "none.yaml"], "there is no config none.yaml"),
    (["run", "--set", "train.epoch=3"], "train.epoch: unknown; did you mean train.epochs?"),
    (["run", "--set", "train.epochs"], "'train.epochs' should be KEY=VALUE"),
    (["run", "--budget", "macs"], "--budget 'macs' should be COST=NUMBER"),
    (["run", "--budget", "macs=many"], "'many' is not a number"),
    (["run", "--budget", "mcas=3"], "budget: there is no cost called mcas (did you mean 'macs'?)"),
    (["run", "--model", "resnet18"], "model 'resnet18' is not a name that manynet knows"),
    (["run", "--model", "torchvision:resnet81"], "torchvision has no model 'resnet81'"),
    (["run", "--model", "none.py:net"], "'none.py:net': there is no file"),
    (["run", "--data", "digist"], "data 'digist': there is no such folder"),
    (["run", "--device", "cudo"], "device 'cudo' cannot be used"),
    (["search", "nowhere"], "nowhere holds no run"),
    (["serve", "nowhere", "--port", "0"], "nowhere holds no run"),
    (["device", "serve", "--token-file", "none"], "cannot read the token in none"),
    (["device", "serve", "--device", "cuda:99"], "on cuda:99"),
    (["serve", "nowhere", "--policy", "largst"], "no policy 'largst' (did you mean 'largest'?)"),
    (["serve", "nowhere", "--max-batch", "0"], "max_batch=0, max_queue=512"),
    (["extract", "nowhere", "--name", "small"], "nowhere holds no run"),
    (["extract", "nowhere", "--name", "../small"], "the name '../small' must be that of a folder"),
    (["export", "nowhere"], "Missing option '--name'"),
    (["export", "nowhere", "--name", "small"], "nowhere holds no run"),
    (["report", "nowhere"], "nowhere holds no run"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[m for _, m in WRONG])
def test_a_wrong_command_line_is_told_in_one_line(
    arguments: list[str],
    message: str,
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("manynet: ")
    assert message in err
    assert [path.name for path in tmp_path.rglob("*")] == []


def test_a_budget_that_nothing_meets_is_exit_code_2(config: Path, run: Run) -> None:
    code, out, err = run("run", config, "--budget", "macs=3", "--out", "one", "--json")
    assert (code, out) == (2, "")
    assert err.startswith("manynet: no member has macs <= 3; the nearest")
    assert err.count("\n") == 1
    assert not Path("one").exists()


def test_run_prints_json_that_parses_and_goes_on_or_says_no(config: Path, run: Run) -> None:
    code, out, err = run("run", config, "--out", "one", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads(Path("one/result.json").read_text())
    assert set(result["members"]) <= {"small", "medium", "large"}
    again = run("run", "one", "--json")
    assert again == (0, out, "")
    code, out, err = run("run", "one", "--epochs", "2")
    assert (code, out) == (1, "")
    assert "another config (train.epochs: 1, now 2)" in err
    assert run("run", "one", "--out", "two")[0] == 1
    code, out, err = run("run", config, "--out", "one")
    assert code == 0
    assert "Open one/report.html in a browser." in out
    assert "on the front" in out


def test_by_default_a_run_gets_a_folder_of_its_own(config: Path, run: Run) -> None:
    for number in (1, 2):
        assert run("train", config, "--quiet") == (0, "", "")
        assert Path(f"runs/mine-{number}/family.json").is_file()


def test_step_by_step(config: Path, run: Run) -> None:
    code, out, err = run("train", config, "--out", "one")
    assert code == 0
    assert "Next: manynet search one" in out
    assert "train the family" in err
    assert "finish the search" in run("extract", "one", "--name", "small")[2]
    code, out, _ = run("search", "one", "--evaluations", "6", "--json")
    assert code == 0
    front = json.loads(out)["front"]
    assert len(json.loads(Path("one/front.json").read_text())) == len(front)
    limit = front[len(front) // 2]["costs"]["macs"]
    assert run("extract", "one", "--name", "small", "--budget", "macs=1")[0] == 2
    code, out, _ = run("extract", "one", "--name", "small", "--budget", f"macs={limit}", "--json")
    assert code == 0
    member = json.loads(out)
    assert member["costs"]["macs"] <= limit
    assert [file["name"] for file in member["files"]] == ["model.safetensors"]
    other = front[0] if front[0]["arch"] != member["arch"] else front[-1]
    code, _, err = run(
        "extract", "one", "--name", "small", "--budget", f"macs={other['costs']['macs']}"
    )
    assert code == 1
    assert "holds another member already" in err
    assert "has no member 'large'; it has small" in run("export", "one", "--name", "large")[2]
    code, out, _ = run("export", "one", "--name", "small", "--format", "torch")
    assert code == 0
    assert "model.pt2" in out
    assert "model.safetensors" in out
    mn.check_manifest("one/members/small")
    code, out, _ = run("report", "one", "--json")
    assert (code, json.loads(out)) == (0, {"report": "one/report.html"})
    code, out, err = run("search", "one", "--set", "train.epochs=5")
    assert (code, out) == (1, "")
    assert "train.epochs was settled when the family was trained" in err


def test_a_search_again_with_the_same_settings_finds_the_same(config: Path, run: Run) -> None:
    run("train", config, "--out", "one", "--quiet")
    first = run("search", "one", "--json")
    assert first == run("search", "one", "--json")
    assert "finish the training first: manynet train none" not in first[2]


def test_a_run_whose_training_was_stopped_says_what_to_do(config: Path, run: Run) -> None:
    Path("one").mkdir()
    run("train", config, "--out", "one", "--quiet")
    Path("one/family.json").unlink()
    code, _, err = run("search", "one")
    assert code == 1
    assert "finish the training first: manynet train one" in err


def test_an_interrupt_says_how_to_go_on(
    config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    whole = stages.find_front
    monkeypatch.setattr(stages, "find_front", interrupted)
    code, out, err = run("run", config, "--out", "one", "--quiet")
    assert (code, out) == (130, "")
    assert err == "manynet: interrupted; go on with: manynet run one\n"
    monkeypatch.setattr(stages, "find_front", whole)
    assert run("run", "one", "--quiet") == (0, "", "")


def test_a_model_that_returns_a_dict_is_told_in_one_line(config: Path, run: Run) -> None:
    code, _, err = run("run", config, "--model", f"{config.parent / 'mine.py'}:as_dict", "-q")
    assert code == 1
    assert err.count("\n") == 1
    assert "the loss needs one tensor" in err


def test_a_bug_is_told_in_one_line_and_debug_shows_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(folder: Path) -> None:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(importlib.import_module("manynet.run"), "report_verb", broken)
    code, out, err = run("report", tmp_path)
    assert (code, out) == (1, "")
    assert err.startswith("manynet: ZeroDivisionError: oh no (this is a bug of manynet: please")
    assert err.count("\n") == 1
    with pytest.raises(ZeroDivisionError):
        run("report", tmp_path, "--debug")


def test_a_full_disk_is_told_in_one_line(
    config: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise StorageError("cannot write one/x: No space left on device; free some space")

    monkeypatch.setattr(stages, "rank_alone", full)
    code, out, err = run("run", config, "--out", "one", "--quiet")
    assert (code, out) == (1, "")
    assert "No space left" in err
    assert Path("one/front.json").exists()  # nothing that was there is lost


def test_the_doctor_lists_what_is_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["cores"] >= 1
    assert "cpu" in found["devices"]
    extras = {"data", "federate", "flower", "graphs", "language", "onnx", "openvino", "ray"}
    assert set(found["extras"]) == extras | {"report", "search", "serve", "vision"}
    import manynet.cli._doctor as doctor

    version = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: None if name == "plotly" else version(name)
    )
    code, out, _ = run("doctor")
    assert code == 0
    assert "plotly missing; try: pip install 'manynet[report]'" in " ".join(out.split())


def test_the_extras_that_the_doctor_knows_are_those_of_the_package(repository: Path) -> None:
    import tomllib

    from manynet.cli._doctor import EXTRAS

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    listed = {
        extra: tuple(one.split(">")[0] for one in requirements)
        for extra, requirements in project["optional-dependencies"].items()
        if extra in EXTRAS
    }
    assert listed == EXTRAS


def test_a_latency_table_is_built_and_shown(run: Run, tmp_path: Path) -> None:
    import torch

    source, x = "manynet:small_cnn", torch.zeros(1, 1, 8, 8)
    settings: dict[str, Any] = {"width": (0.5, 1.0), "importance": None}
    mn.elastic(mn.build(source), x, source=source, **settings).save(tmp_path / "family")
    code, out, err = run("device", "table", tmp_path / "family", "--seconds", "0.5")
    assert (code, err) == (0, "")
    assert "unseen members of" in " ".join(out.split())
    file = tmp_path / "family" / "latency-table.json"
    code, out, _ = run("device", "table", file, "--json")
    assert code == 0
    assert json.loads(out) == json.loads(file.read_text())
    code, _, err = run("device", "table", tmp_path / "family")
    assert code == 1
    assert "latency-table.json is there already; name another file with --out" in err


def narrow(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    return lines


def test_the_list_of_systems_reads_well_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claims once stood in a column of 14 characters, one or two words a line."""
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["systems"]) == 0
    lines = narrow(capsys)
    entry = next(line for line in lines if line.startswith("13  bignas"))
    assert re.search(r"(holds|misses) \(\+1\)", entry)
    claim = lines[lines.index(entry) + 1]
    assert claim.startswith("    Members of one family reach 76.5 to 80.9 % on ImageNet")


def test_a_front_of_many_costs_loses_no_digit_in_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers were once cut to `2.03…` where heads are long."""
    from manynet.cli._terminal import print_front

    monkeypatch.setenv("COLUMNS", "80")
    costs = {
        "macs": 2.03e6,
        "bytes": 15_600.0,
        "kv_cache_bytes": 131_072.0,
        "token_ms": 0.853,
        "a_long_cost_of_my_own_that_has_many_words": 17.25,
    }
    record = mn.Record(mn.Arch({"width": 1}), 155.0, costs)
    print_front(mn.Front.of([record], metric="perplexity", higher_is_better=False))
    found = narrow(capsys)[-1].replace("\N{NO-BREAK SPACE}", " ").split("  ")
    assert [word.strip() for word in found if word.strip()][:5] == [
        "155", "2.03 M", "15.6 KB", "131 KB", "0.853 ms",
    ]  # fmt: skip


def test_a_mistyped_option_points_to_the_help_of_its_verb(run: Run) -> None:
    code, _, err = run("systems", "13")
    assert (code, err.endswith("(13). See: manynet systems --help\n")) == (1, True)
    assert "See: manynet reproduce --help" in run("reproduce")[2]


def test_an_unknown_system_is_told_briefly(run: Run) -> None:
    code, _, err = run("reproduce", "zebra")
    assert (code, err) == (
        1, "manynet: there is no system 'zebra'; `manynet systems` lists them\n",
    )  # fmt: skip
