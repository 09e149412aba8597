"""Bad input of every kind: one clear line, the right exit code, nothing lost, no code run."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from manynet import cli

NETWORKS = """
import torch
from torch import nn


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def wide():
    return nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 3))


def text():
    return "a network"


def broken():
    raise RuntimeError("no such layer")


def needs():
    def inner(width):
        return None
    return inner(3)


def rigid():
    return nn.Linear(8, 3)


class AsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        return {"out": self.net(x)}


def as_dict():
    return AsDict()


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x):
        if x.sum() > 1e9:
            raise ValueError("a branch that the data decide")
        return self.net(x)


def branch():
    return Branch()


def samples(count, seed, width=8, classes=3):
    inputs = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :classes].argmax(1)


def data():
    return samples(96, 1), samples(64, 2), samples(32, 3)


def nan_data():
    inputs, targets = samples(96, 1)
    inputs[3, 2] = float("nan")
    return (inputs, targets), samples(64, 2), samples(32, 3)


def odd_labels():
    inputs, targets = samples(96, 1)
    targets[0] = -4
    return (inputs, targets), samples(64, 2), samples(32, 3)


def uneven():
    inputs, targets = samples(96, 1)
    return (inputs, targets[:50]), samples(64, 2), samples(32, 3)


def not_data():
    return 7


def many_classes():
    return samples(96, 1, classes=8), samples(64, 2, classes=8), samples(32, 3, classes=8)
"""
CONFIG = """
model: {folder}/mine.py:network
data: {folder}/mine.py:data
train: {{epochs: 1, batch_size: 32}}
search: {{evaluations: 6, calibration: 32, latency_samples: 0}}
ranking: {{archs: 0}}
deploy: {{formats: [safetensors]}}
"""


class Marks:
    """Unpickled, it leaves a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.path, "code was run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that holds `mine.py`, `run.yaml` and a finished run in `done`."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "mine.py").write_text(NETWORKS)
    (folder / "run.yaml").write_text(CONFIG.format(folder=folder))
    assert cli.main(["run", str(folder / "run.yaml"), "--out", str(folder / "done"), "-q"]) == 0
    return folder


@pytest.fixture
def place(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working directory with a copy of all that; `mine.py` stays where it was."""
    shutil.copytree(finished / "done", tmp_path / "done")
    for name in ("mine.py", "run.yaml"):
        shutil.copy(finished / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def hashes(folder: Path) -> dict[str, str]:
    """Return what every file holds, the reader's notes of a database aside."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock"))
    }


def refused(
    capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1, says: str = ""
) -> str:
    """Run a command line that must fail; return the one line that it says."""
    capsys.readouterr()
    got = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("manynet: ")]
    assert got == code, captured.err
    assert len(told) == 1, captured.err
    assert told == lines[-1:], captured.err
    assert "Traceback" not in captured.err
    assert "this is a bug of manynet" not in captured.err
    assert says.lower() in told[0].lower(), told[0]
    return told[0]


# what is given on the command line beside `run.yaml`, and what the line must name
RUN = {
    "a model file that is missing": (["--model", "none.py:network"], "none.py"),
    "a function that is missing": (["--model", "mine.py:netwrk"], "did you mean 'network'"),
    "a function that raises": (["--model", "mine.py:broken"], "no such layer"),
    "a model that is text": (["--model", "mine.py:text"], "str"),
    "a model of nothing": (["--model", "mine.py:needs"], "NoneType"),
    "a model without choices": (["--model", "mine.py:rigid"], "elastic"),
    "a model that returns a dict": (["--model", "mine.py:as_dict"], "dict"),
    "a model of other inputs": (["--model", "mine.py:wide"], "8"),
    "an unknown library": (["--model", "torchvison:resnet18"], "did you mean 'torchvision'"),
    "an unknown network": (["--model", "torchvision:resnet81"], "did you mean"),
    "an unknown network of ours": (["--model", "manynet:small_cn"], "small_cnn"),
    "a model without a library": (["--model", "resnet18"], "torchvision:NAME"),
    "options that do not fit": (["--model", "manynet:small_cnn?colour=3"], "colour"),
    "a data folder that is missing": (["--data", "no/such/folder"], "no/such/folder"),
    "a data function that is missing": (["--data", "mine.py:dta"], "did you mean 'data'"),
    "data that are no data": (["--data", "mine.py:not_data"], "int"),
    "data with NaN": (["--data", "mine.py:nan_data"], "NaN"),
    "labels below zero": (["--data", "mine.py:odd_labels"], "-4"),
    "more inputs than labels": (["--data", "mine.py:uneven"], "50"),
    "more classes than outputs": (["--data", "mine.py:many_classes"], "class"),
    "no epochs": (["--epochs", "0"], "epochs"),
    "a number of epochs in words": (["--epochs", "many"], "many"),
    "no evaluations": (["--evaluations", "0"], "evaluations"),
    "a negative learning rate": (["--set", "train.learning_rate=-1"], "learning_rate"),
    "a key that is unknown": (["--set", "train.epoch=3"], "train.epochs"),
    "a section that is unknown": (["--set", "trian.epochs=3"], "train"),
    "a setting without a value": (["--set", "train.epochs"], "KEY=VALUE"),
    "a strategy that is unknown": (["--set", "search.strategy=nsga3"], "strategy"),
    "a cost that is unknown": (["--set", "search.costs=[mcas]"], "macs"),
    "a width of nothing": (["--set", "elastic.width=[0.0, 1.0]"], "width"),
    "a budget of an unknown cost": (["--budget", "mcas=3"], "macs"),
    "a budget that is no number": (["--budget", "macs=little"], "little"),
    "a budget without a number": (["--budget", "macs"], "macs"),
    "a device that is unknown": (["--device", "quantum"], "quantum"),
    "an option that is unknown": (["--modle", "x"], "--modle"),
    "a time of no hours": (["--hours", "0"], "hours"),
}


@pytest.mark.parametrize(("arguments", "says"), RUN.values(), ids=RUN.keys())
def test_a_run_that_cannot_be(
    place: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    before = hashes(place / "done")
    refused(capsys, "run", "run.yaml", "--out", "new", "-q", *arguments, says=says)
    assert hashes(place / "done") == before


def test_a_branch_that_the_data_decide_is_no_obstacle(place: Path) -> None:
    arguments = ["run", "run.yaml", "--model", "mine.py:branch", "--out", "new", "-q"]
    assert cli.main(arguments) == 0


CONFIGS = {
    "not YAML": ("train: [1, 2", "run.yaml"),
    "a list": ("- 1\n- 2\n", "run.yaml"),
    "an unknown key": ("modle: digits\n", "model"),
    "an unknown key inside": ("train: {epoch: 3}\n", "train.epochs"),
    "a wrong type": ("train: {epochs: [1]}\n", "train.epochs"),
    "code in a tag": ("model: !!python/object/apply:os.system ['touch owned']\n", "run.yaml"),
}


@pytest.mark.parametrize(("text", "says"), CONFIGS.values(), ids=CONFIGS.keys())
def test_a_config_that_cannot_be(
    place: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    (place / "run.yaml").write_text(text)
    refused(capsys, "run", "run.yaml", "--out", "new", says=says)
    assert not (place / "owned").exists()
    assert not (place / "new").exists()


def test_a_config_that_is_missing(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "run", "none.yaml", says="none.yaml")


IMAGES = {
    "an empty folder": lambda folder: None,
    "an empty class": lambda folder: (folder / "dog").mkdir(),
    "a damaged image": lambda folder: (folder / "cat" / "1.png").write_bytes(b"no image"),
}


@pytest.mark.parametrize("damage", IMAGES.values(), ids=IMAGES.keys())
def test_a_folder_of_images_that_cannot_be(
    place: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    folder = place / "images"
    folder.mkdir()
    if damage(folder.joinpath("x")) if damage is None else damage is not IMAGES["an empty folder"]:
        for name in ("cat", "cow"):
            (folder / name).mkdir()
            for i in range(6):
                pixels = np.full((8, 8, 3), 9 * i, dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{i}.png")
    damage(folder)
    refused(
        capsys, "run", "--model", "manynet:small_cnn", "--data", folder, "--out", "new", "-q",
        says="images",
    )  # fmt: skip


def test_a_budget_that_nothing_meets_names_the_nearest(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = hashes(place / "done")
    line = refused(capsys, "extract", "done", "--budget", "macs=1", "--name", "tiny", code=2)
    assert "nearest" in line.lower()
    assert hashes(place / "done") == before


RUNS = {
    "a run that is missing": ("search", "nowhere", "nowhere"),
    "a folder that is no run": ("search", "plain", "plain"),
    "a report of no run": ("report", "plain", "plain"),
    "a member that is unknown": ("export", "done", "hughe"),
}


@pytest.mark.parametrize(("verb", "folder", "says"), RUNS.values(), ids=RUNS.keys())
def test_a_run_that_is_not_there(
    place: Path, capsys: pytest.CaptureFixture[str], verb: str, folder: str, says: str
) -> None:
    (place / "plain").mkdir()
    extra = ["--name", "hughe"] if verb == "export" else []
    refused(capsys, verb, folder, *extra, says=says)


def test_another_config_in_a_runs_folder(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = hashes(place / "done")
    refused(capsys, "run", "run.yaml", "--out", "done", "--seed", "7", says="seed")
    assert hashes(place / "done") == before


def test_a_place_that_cannot_be_written(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "file").write_text("in the way")
    refused(capsys, "run", "run.yaml", "--out", "file/run", "-q", says="file")
    assert (place / "file").read_text() == "in the way"


def test_a_disk_that_is_full(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = hashes(place / "done")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, "run", "run.yaml", "--out", "new", "-q", says="no space left")
    refused(capsys, "report", "done", says="no space left")
    assert hashes(place / "done") == before


def truncated(path: Path, mark: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def pickled(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Marks(mark)))


def torch_saved(path: Path, mark: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": Marks(mark)}, buffer)
    path.write_bytes(buffer.getvalue())


def emptied(path: Path, mark: Path) -> None:
    path.write_bytes(b"")


def foreign_json(path: Path, mark: Path) -> None:
    path.write_text(json.dumps({"format": "another"}))


DAMAGE = {
    "truncated weights": ("family.safetensors", truncated),
    "weights with pickled code": ("family.safetensors", pickled),
    "weights of torch.save with code": ("family.safetensors", torch_saved),
    "empty weights": ("family.safetensors", emptied),
    "a truncated description": ("family.json", truncated),
    "a foreign description": ("family.json", foreign_json),
    "a truncated front": ("front.json", truncated),
    "a front with pickled code": ("front.json", pickled),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_run(
    place: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path, Path], None],
) -> None:
    damage(place / "done" / name, place / "mark")
    before = hashes(place / "done")
    refused(capsys, "extract", "done", "--budget", "macs=1e12", "--name", "big", says=name)
    assert hashes(place / "done") == before
    assert not (place / "mark").exists()


def test_a_damaged_evaluation_store(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "done" / "evaluations.sqlite").write_bytes(b"not a database" * 300)
    before = hashes(place / "done")
    refused(capsys, "search", "done", "--evaluations", "7", says="evaluations.sqlite")
    assert hashes(place / "done") == before


def test_a_checkpoint_with_pickled_code_is_not_run(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every checkpoint is foreign: the run says so, and keeps them."""
    run = place / "half"
    shutil.copytree(place / "done", run)
    for path in run.iterdir():
        if path.name not in ("checkpoints", "config.yaml", "environment.json", "plan.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    checkpoints = [p for p in (run / "checkpoints").rglob("*") if p.is_file()]
    for path in checkpoints:
        pickled(path, place / "mark")
    cli.main(["run", "half", "-q"])
    captured = capsys.readouterr()
    assert not (place / "mark").exists()
    assert "Traceback" not in captured.err
