"""Checkpoints: what goes in comes out, and what is damaged is found."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from manynet.errors import StorageError
from manynet.train.checkpoints import (
    checkpoints_in,
    load_checkpoint,
    load_newest,
    save_checkpoint,
)

STATE: dict[str, Any] = {
    "step": 7,
    "rates": (0.1, 1e-300, float("inf")),
    "empty": {},
    "nested": [{"0": None}, {0: True, "a": {"b": torch.arange(4.0)}}],
    "scalar": torch.tensor(3),
    "half": torch.ones(2, 3, dtype=torch.bfloat16),
    "none": torch.zeros(0),
    "turned": torch.arange(6).view(2, 3).t(),
}


def equal(one: Any, two: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == two.dtype and torch.equal(one, two)
    if isinstance(one, dict):
        return list(one) == list(two) and all(equal(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(two) and len(one) == len(two) and all(map(equal, one, two))
    return type(one) is type(two) and one == two


def test_everything_comes_back_as_it_was(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, STATE)
    assert equal(load_checkpoint(path), STATE)


def test_shared_tensors_are_written_once_and_views_apart(tmp_path: Path) -> None:
    weight = torch.randn(100, 100)
    path = save_checkpoint(tmp_path, 1, {"a": weight, "b": weight, "row": weight[0]})
    assert path.stat().st_size < 1.2 * weight.nbytes
    state = load_checkpoint(path)
    assert equal(state, {"a": weight, "b": weight, "row": weight[0]})


def test_an_optimizers_state_survives(tmp_path: Path) -> None:
    parameters = [torch.nn.Parameter(torch.randn(3)) for _ in range(2)]
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    for parameter in parameters:
        parameter.grad = torch.ones(3)
    optimizer.step()
    state = load_checkpoint(save_checkpoint(tmp_path, 1, optimizer.state_dict()))
    assert equal(state, dict(optimizer.state_dict()))


def test_two_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 15, 1000):
        save_checkpoint(tmp_path, step, {"step": step})
    assert [load_checkpoint(path)["step"] for path in checkpoints_in(tmp_path)] == [15, 1000]
    assert len(list(tmp_path.iterdir())) == 2
    newest = load_newest(tmp_path)
    assert newest is not None
    assert newest["step"] == 1000


def test_what_json_cannot_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"optimizer\.odd is set"):
        save_checkpoint(tmp_path, 1, {"optimizer": {"odd": {1, 2}}})
    assert not checkpoints_in(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "header"])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path, step, {**STATE, "step": step})
    newest = checkpoints_in(tmp_path)[-1]
    data = bytearray(newest.read_bytes())
    if damage == "flipped":
        data[-3] ^= 1
    if damage == "header":
        data[data.index(b"1e-300")] ^= 1
    newest.write_bytes(b"" if damage == "emptied" else data[: -9 if damage == "cut" else None])
    with pytest.warns(UserWarning, match="going back"):
        state = load_newest(tmp_path)
    assert state is not None
    assert state["step"] == 1


def test_when_all_are_damaged_it_says_so(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, STATE).write_bytes(b"nothing")
    with pytest.raises(StorageError, match="train in a new folder"):
        load_newest(tmp_path)
    assert load_newest(tmp_path / "empty") is None


def test_foreign_files_are_refused_and_nothing_in_them_runs(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path(tmp_path / "ran").write_text, ("boom",)

    path = tmp_path / "step-000000001.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(StorageError, match="damaged or no checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(StorageError, match="no checkpoint of manynet"):
        load_checkpoint(path)
    header = {"manynet": "training checkpoint", "format": "99", "state": json.dumps(1)}
    save_file({"a": torch.ones(1)}, path, metadata=header)
    with pytest.raises(StorageError, match="format 99"):
        load_checkpoint(path)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        save_checkpoint(tmp_path / "file", 1, STATE)
