"""The whole loop: it learns, it writes down what it did, and it resumes to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import conv_family, copied, images, mlp_family, rows, same
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from manynet.data import crop_and_flip
from manynet.errors import InputError, StorageError, TrainingError
from manynet.family import Family
from manynet.train import Distill, Sandwich, Task, TrainingLog, Uniform, load_newest, train

Metrics = Mapping[str, Mapping[str, float]]


class Stop:
    """Progress that raises at a step, once."""

    def __init__(self, step: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.step, self.error, self.done = step, error, False

    def __call__(self, step: int, total: int, info: Mapping[str, object]) -> None:
        if step == self.step and not self.done:
            self.done = True
            raise self.error


def accuracies(family: Family) -> Metrics:
    inputs, targets = images(20, seed=2)
    noise = float(torch.rand(()))
    names = {"largest": family.space.largest, "smallest": family.space.smallest}
    found = {}
    for name, arch in names.items():
        member = family.at(arch)
        assert not member.training
        with torch.no_grad():
            found[name] = {"accuracy": float((member(inputs).argmax(1) == targets).float().mean())}
    return {**found, "random": {"noise": noise}}


SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 8,
    "learning_rate": 0.05,
    "augment": crop_and_flip(1),
    "ema": 0.9,
    "clip": 1.0,
    "log_every": 2,
    "validate": accuracies,
}


def go(folder: Path | None = None, **changes: Any) -> tuple[Family, TrainingLog]:
    family = conv_family()
    data = images()
    log = train(family, data, folder=folder, **{**SETTINGS, **changes})
    return family, log


def optimizer_state(folder: Path) -> dict[str, Any]:
    state = load_newest(folder / "checkpoints")
    assert state is not None
    return state


def equal_states(one: Any, two: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(equal_states(one[k], two[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(equal_states, one, two))
    return bool(one == two)


def test_the_ends_of_a_family_learn() -> None:
    family = mlp_family()
    inputs, targets = rows(400)
    how: dict[str, Any] = {"batch_size": 50, "learning_rate": 0.1, "log_every": 999}
    log = train(family, (inputs, targets), epochs=20, **how)
    family.eval()
    for arch in [family.space.largest, family.space.smallest]:
        accuracy = float((family.at(arch)(inputs).argmax(1) == targets).float().mean())
        assert accuracy > 0.9
    curve = log.curve("largest")
    assert [step for step, _ in curve] == [8 * epoch for epoch in range(1, 21)]
    assert curve[-1][1] < 0.2 * curve[0][1]
    assert log.steps == 160


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("sampler", [Sandwich(1), Uniform(1)])
def test_the_same_seed_gives_the_same_and_another_does_not(
    optimizer: str, sampler: Sandwich
) -> None:
    one, log = go(optimizer=optimizer, sampler=sampler, epochs=2)
    two, again = go(optimizer=optimizer, sampler=sampler, epochs=2)
    other, _ = go(optimizer=optimizer, sampler=sampler, epochs=2, seed=1)
    assert same(copied(one), copied(two))
    assert log == again
    assert not same(copied(one), copied(other))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [1, 4, 5, 8, 10, 14])
def test_an_interrupted_run_resumes_to_the_last_bit(
    tmp_path: Path, step: int, optimizer: str
) -> None:
    """Five steps an epoch: at its end, inside it, before and after its checkpoint."""
    whole, log = go(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", optimizer=optimizer, progress=Stop(step))
    assert optimizer_state(tmp_path / "cut")["step"] == step
    resumed, again = go(tmp_path / "cut", optimizer=optimizer)
    assert same(copied(resumed), copied(whole))
    assert again == log
    assert log.ema is not None
    assert again.ema is not None
    assert same(again.ema.averages, log.ema.averages)
    assert equal_states(optimizer_state(tmp_path / "cut"), optimizer_state(tmp_path / "whole"))
    written = [(tmp_path / name / "training.jsonl").read_text() for name in ("whole", "cut")]
    assert written[0] == written[1]
    assert [json.loads(line) for line in written[0].splitlines()] == list(log.rows)


def test_a_run_killed_between_checkpoints_resumes_to_the_last_bit(tmp_path: Path) -> None:
    """Killed: no handler runs, the log is ahead of the checkpoint and its last line is torn."""
    whole, log = go(tmp_path / "whole", checkpoint_every=3)
    with pytest.raises(SystemExit):
        go(tmp_path / "cut", checkpoint_every=3, progress=Stop(11, SystemExit))
    assert optimizer_state(tmp_path / "cut")["step"] == 9
    with (tmp_path / "cut" / "training.jsonl").open("a") as file:
        file.write('{"step": 10, "epo')
    resumed, again = go(tmp_path / "cut", checkpoint_every=3)
    assert same(copied(resumed), copied(whole))
    assert again == log


def test_an_interrupt_during_validation_validates_again(tmp_path: Path) -> None:
    calls = []

    def validate(family: Family) -> Metrics:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return accuracies(family)

    whole, log = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", validate=validate)
    state = optimizer_state(tmp_path / "cut")
    assert (state["step"], state["closed"]) == (10, False)
    resumed, again = go(tmp_path / "cut")
    assert same(copied(resumed), copied(whole))
    assert again == log


def test_ctrl_c_within_a_step_waits_for_its_end(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job has none

    def objective(outputs: object, batch: Any, teacher: object, is_teacher: bool) -> Tensor:
        if not is_teacher and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return Distill()(outputs, batch, teacher, is_teacher)

    sent: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, objective=objective)
    assert sent
    assert optimizer_state(tmp_path)["step"] == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_comes_through_within_a_step_saves_no_half_step(tmp_path: Path) -> None:
    def objective(outputs: object, batch: Any, teacher: object, is_teacher: bool) -> Tensor:
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return Distill()(outputs, batch, teacher, is_teacher)

    calls = [1] * 30
    whole, log = go(tmp_path / "whole", objective=objective)
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", objective=objective)
    assert optimizer_state(tmp_path / "cut")["step"] == 5
    resumed, again = go(tmp_path / "cut", objective=objective)
    assert same(copied(resumed), copied(whole))
    assert again == log


def test_a_finished_run_returns_at_once_with_its_weights(tmp_path: Path) -> None:
    whole, log = go(tmp_path)
    family = conv_family()
    told: list[int] = []
    again = train(
        family,
        images(),
        folder=tmp_path,
        **{**SETTINGS, "progress": lambda step, total, info: told.append(step)},
    )
    assert not told
    assert again == log
    assert same(copied(family), copied(whole))


def test_a_truncated_newest_checkpoint_falls_back(tmp_path: Path) -> None:
    whole, log = go(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "cut", progress=Stop(12))
    newest = max((tmp_path / "cut" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="going back"):
        resumed, again = go(tmp_path / "cut")
    assert same(copied(resumed), copied(whole))
    assert again == log


def test_a_folder_of_another_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    go(tmp_path, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"batch_size was 8, is 4"):
        go(tmp_path, epochs=1, batch_size=4)
    with pytest.raises(InputError, match=r"objective was .*Distill.*, is .*Task"):
        go(tmp_path, epochs=1, objective=Task())
    with pytest.raises(InputError, match="resume is False"):
        go(tmp_path, epochs=1, resume=False)
    with pytest.raises(InputError, match="family was"):
        train(mlp_family(), rows(), folder=tmp_path, **{**SETTINGS, "validate": None})
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("folder", [True, False])
def test_a_loss_that_is_not_finite_says_where_and_keeps_the_last_good_weights(
    tmp_path: Path, folder: bool
) -> None:
    inputs, targets = images()
    sick = inputs.clone()
    calls: list[int] = []

    def augment(batch: Tensor) -> Tensor:
        calls.append(1)
        return batch * float("nan") if len(calls) == 8 else batch

    family = conv_family()
    with pytest.raises(TrainingError, match=r"nan at step 7, first for the largest member") as said:
        train(
            family,
            (sick, targets),
            folder=tmp_path if folder else None,
            **{**SETTINGS, "augment": augment},
        )
    assert "learning rate below" in str(said.value)
    assert all(torch.isfinite(p).all() for p in family.parameters())
    if folder:
        assert optimizer_state(tmp_path)["step"] == 5


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"not finite after step|the loss is"):
        go(
            tmp_path,
            clip=None,
            learning_rate=1e30,
            checkpoint_every=1,
            warmup=0,
            schedule=lambda step: 0.0 if step < 2 else 1.0,
        )
    state = optimizer_state(tmp_path)
    assert all(torch.isfinite(t).all() for t in state["family"].values())


def test_clipping_bounds_one_norm_over_all_shared_gradients() -> None:
    norms: list[float] = []

    class Watching(torch.optim.SGD):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
            norms.append(float(torch.cat(grads).norm()))
            super().step()

    go(optimizer=lambda groups: Watching(groups, lr=0.01), clip=0.1, epochs=1, ema=None)
    assert norms == pytest.approx([0.1] * 5, rel=1e-4)


def test_validation_sees_the_average_and_the_weights_come_back() -> None:
    family = conv_family()
    seen: list[dict[str, Tensor]] = []

    def validate(family: Family) -> Metrics:
        seen.append(copied(family))
        return {}

    log = train(family, images(), **{**SETTINGS, "validate": validate})
    assert log.ema is not None
    names = list(log.ema.averages)
    assert all(torch.equal(seen[-1][name], log.ema.averages[name]) for name in names)
    assert not all(torch.equal(copied(family)[name], seen[-1][name]) for name in names)


def test_the_log_and_the_progress_tell_the_same_story() -> None:
    told: list[tuple[int, int, Mapping[str, object]]] = []
    _, log = go(progress=lambda step, total, info: told.append((step, total, info)))
    assert [step for step, _, _ in told] == list(range(1, 16))
    assert {total for _, total, _ in told} == {15}
    assert [row["step"] for row in log.rows] == [2, 4, 5, 6, 8, 10, 12, 14, 15]
    assert [row["epoch"] for row in log.rows] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    losses = [float(info["loss"]) for _, _, info in told]  # type: ignore[arg-type]
    assert log.rows[0]["loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert log.rows[2]["loss"] == pytest.approx(losses[4])
    assert [step for step, _ in log.curve("largest", "accuracy")] == [5, 10, 15]
    assert set(log.rows[0]["members"]) == {"largest", "smallest", "random"}  # type: ignore[call-overload]


def test_the_users_generators_and_the_familys_mode_are_left_as_they_were() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    wanted = (float(torch.rand(())), float(np.random.rand()), random.random())
    family = conv_family().eval()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    train(family, images(), **SETTINGS)
    assert (float(torch.rand(())), float(np.random.rand()), random.random()) == wanted
    assert not family.training


def test_a_loader_trains_like_its_data() -> None:
    data = TensorDataset(*images())
    for shuffle in (True, False):
        loader = DataLoader(data, batch_size=8, shuffle=shuffle)
        states = []
        for _ in range(2):
            family = conv_family()
            train(family, loader, epochs=2)
            states.append(copied(family))
        assert same(*states)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"epochs": None}, "either epochs or steps"),
        ({"steps": 5}, "either epochs or steps"),
        ({"epochs": 0}, "nothing to do"),
        ({"batch_size": 0}, "at least 1"),
        ({"optimizer": "sdg"}, "did you mean 'sgd'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "fp8"}, "'fp8' is unknown"),
        ({"precision": "fp16", "device": "cpu"}, "needs a GPU"),
        ({"clip": 0.0}, "clip is 0.0"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0"),
        ({"log_every": -1}, "log_every is -1"),
        ({"ema": 2.0}, "0.999"),
        ({"validate": lambda family: {"accuracy": 0.5}}, "metrics of members"),
        ({"validate": lambda family: None}, "metrics of members"),
    ],
)
def test_arguments_that_make_no_sense(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        go(**changes)


def test_a_full_disk_is_told_and_the_earlier_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        if (tmp_path / "checkpoints" / "step-000000005.safetensors").exists():
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        go(tmp_path)
    monkeypatch.undo()
    assert optimizer_state(tmp_path)["step"] == 5
    whole, log = go()
    resumed, again = go(tmp_path)
    assert same(copied(resumed), copied(whole))
    assert again == log


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot write"):
        go(tmp_path / "file")
