"""`manynet train` under `torchrun`: one family, several processes, one folder, one voice."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from manynet.config import resolve
from manynet.errors import InputError
from manynet.run import run_config, train_verb

SETTINGS = {
    "model": "manynet:mlp?widths=[16]",
    "data": {"name": "digits", "limit": 200},
    "device": "cpu",
    "elastic": {"warmup_epochs": 1},
    "train": {"epochs": 2, "batch_size": 32, "ema": 0.9},
}


def launch(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    place = ["--standalone", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *place, "-m", "manynet.cli", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_two_processes_train_one_family(tmp_path: Path) -> None:
    config = tmp_path / "config.json"  # YAML reads JSON
    config.write_text(json.dumps(SETTINGS))
    folder, alone = tmp_path / "two", tmp_path / "one"
    done = launch("train", str(config), "--out", str(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("members share") == 1
    assert done.stderr.count("train the family") == 1
    train_verb(resolve(SETTINGS), alone)
    two, one = (load_file(f / "family.safetensors") for f in (folder, alone))
    for name, tensor in one.items():
        # sums of two halves round differently from a sum of the whole
        assert torch.allclose(two[name], tensor, atol=1e-4), name
    told = [(f / "training.jsonl").read_text().splitlines() for f in (folder, alone)]
    assert len(told[0]) == len(told[1])
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        path.name for path in alone.iterdir()
    )


@pytest.mark.slow
def test_a_stopped_launch_goes_on_from_the_folder_of_the_first(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps(SETTINGS))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        assert launch("train", str(config), "--out", str(folder)).returncode == 0
    newest = max((cut / "checkpoints").glob("step-*.safetensors"))
    newest.unlink()
    for name in ("family.json", "family.safetensors"):
        (cut / name).unlink()
    done = launch("train", str(cut))
    assert done.returncode == 0, done.stderr
    again, once = (load_file(f / "family.safetensors") for f in (cut, whole))
    assert all(torch.equal(again[name], tensor) for name, tensor in once.items())
    done = launch("train", str(cut))  # nothing is left to do
    assert done.returncode == 0, done.stderr


def test_other_verbs_work_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"manynet run works in one process.*one of 2.*torchrun"):
        run_config(resolve(SETTINGS), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_launch_of_one_process_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    found = train_verb(resolve(SETTINGS), tmp_path / "one")
    assert re.search(r"^\d+$", str(found["parameters"]))
