"""The order of a run's steps, epochs, rows and checkpoints, which a resume repeats exactly."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Protocol

import torch

from manynet.errors import InputError, TrainingError
from manynet.family import Family
from manynet.train._interrupt import uninterrupted
from manynet.train._run import Run
from manynet.train._seeds import own_randomness, seed_all, seed_of
from manynet.train._source import Source
from manynet.train.checkpoints import checkpoints_in, load_newest, save_checkpoint
from manynet.train.log import LogFile

__all__ = ["Files", "Loop", "Progress", "Validate", "settings_of"]

Validate = Callable[[Family], Mapping[str, Mapping[str, float]]]
"""From a family to metrics of members: `{"largest": {"accuracy": 0.9}, "smallest": …}`."""


class Progress(Protocol):
    """Is told of every step, so that someone can draw it."""

    def __call__(self, step: int, total: int, info: Mapping[str, object]) -> object:
        """Take note that `step` of `total` steps are done; `info` is like a row of the log."""


def _check_metrics(found: object) -> None:
    values = list(found.values()) if isinstance(found, Mapping) else [None]
    if not all(isinstance(value, Mapping) for value in values):
        raise InputError(
            f"validate returned {found!r}; it should return metrics of members, "
            "as {'largest': {'accuracy': 0.9}}"
        )


def settings_of(
    run: Run, source: Source, total: int, asked: tuple[object, ...]
) -> dict[str, object]:
    """Return what must be the same for a resumed run to end as the uninterrupted one."""
    shapes = [(name, list(tensor.shape)) for name, tensor in run.family.state_dict().items()]
    space = json.dumps([run.family.space.to_json(), shapes], sort_keys=True)
    names = (
        *("optimizer", "learning_rate", "weight_decay", "schedule", "warmup", "log_every"),
        "dropout",
    )
    return {
        **{name: _words(value) for name, value in zip(names, asked, strict=True)},
        "family": hashlib.sha256(space.encode()).hexdigest()[:12],
        "samples": len(source.dataset),  # type: ignore[arg-type] # checked by `source_of`
        "batch_size": source.batch_size,
        "steps": total,
        "seed": run.seed,
        "sampler": _words(run.sampler),
        "objective": _words(run.objective),
        "augment": _words(run.augment),
        "clip": run.clip,
        "ema": run.ema.decay if run.ema else None,
        "precision": run.hardware.precision,
        **({} if run.penalty is None else {"penalty": _words(run.penalty)}),
        **({"events": [_words(event) for event in run.events]} if run.events else {}),
    }


_OPTIONAL = ("penalty", "events")
"""Settings that are left out where a run has none."""


def _words(value: object) -> object:
    """Return a description that is the same in the next process."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    name = getattr(value, "__qualname__", None) or type(value).__qualname__
    return str(name)


@dataclass(frozen=True)
class Files:
    """Where a run's files lie, and how often a checkpoint is due."""

    folder: Path | None
    every: int

    @property
    def checkpoints(self) -> Path | None:
        return None if self.folder is None else self.folder / "checkpoints"

    @property
    def log(self) -> Path | None:
        return None if self.folder is None else self.folder / "training.jsonl"


@dataclass
class Loop:
    """Steps, epochs, rows and checkpoints, in an order that a resume repeats exactly."""

    run: Run
    source: Source
    total: int
    files: Files
    settings: dict[str, object]
    log_every: int
    progress: Progress | None
    validate: Validate | None

    def __post_init__(self) -> None:
        self.log = LogFile(self.files.log if self.run.hardware.first else None)
        self.saved: tuple[int, bool] | None = None

    def go(self, resume: bool) -> None:
        """Go on from the folder's checkpoint, if there is one, to the last step."""
        family = self.run.family
        was_training = family.training
        with own_randomness(self.run.hardware.device):
            try:
                family.train()
                self._begin(resume)
                self._take_steps()
            finally:
                family.train(was_training)

    def _begin(self, resume: bool) -> None:
        """Load the newest checkpoint, if there is one, and the log up to it.

        The first process reads it, and the others get it from there: they may have no such file.
        """
        run, folder = self.run, self.files.checkpoints
        if folder is not None and not resume and checkpoints_in(folder):
            raise InputError(
                f"{folder} holds checkpoints, and resume is False; choose a new folder, "
                "remove this one, or resume"
            )
        reads = folder is not None and run.hardware.first
        state = run.hardware.from_first(load_newest(folder) if folder and reads else None)
        if state is not None:
            self._check_settings(state["settings"])
            run.load_state_dict(state)
            self.saved = (run.step, run.closed)
        run.hardware.share_weights(run.family)
        self.log.begin(run.step if run.closed else run.step - 1)

    def _check_settings(self, saved: Mapping[str, object]) -> None:
        own = self.settings
        keys = [*own, *(key for key in _OPTIONAL if key in saved and key not in own)]
        both = own.keys() & saved.keys()
        other = [key for key in keys if key not in both or saved[key] != own[key]]
        if other:
            told = "; ".join(f"{key} was {saved.get(key)!r}, is {own.get(key)!r}" for key in other)
            raise InputError(
                f"{self.files.checkpoints} is of another run: {told}. "
                "Go on with the same arguments, or choose a new folder"
            )

    def _take_steps(self) -> None:
        """Take all steps that are left; a Ctrl-C saves a checkpoint and goes on up."""
        try:
            if not self.run.closed:
                self._close_step()
            while self.run.step < self.total:
                before = self.run.step
                epoch, start = divmod(before, self.source.steps)
                for batch in self.source.epoch(epoch, start):
                    with uninterrupted():
                        losses = self.run.advance(batch)
                    self._tell(losses)
                    self._close_step()
                    if self.run.step == self.total:
                        break
                if self.run.step == before:
                    raise TrainingError(
                        f"the data ran out at step {before}: they yield fewer batches than their "
                        f"length promises ({self.source.steps} an epoch)"
                    )
            self._save()
        except KeyboardInterrupt:
            if self.run.whole:
                self._save()
            raise

    def _tell(self, losses: list[float]) -> None:
        run = self.run
        if self.progress is not None and run.hardware.first:
            epoch = (run.step - 1) // self.source.steps + 1
            info = {
                "epoch": epoch,
                "loss": sum(losses) / len(losses),
                "learning_rate": run.optimizer.param_groups[0]["lr"],
            }
            self.progress(run.step, self.total, info)

    def _close_step(self) -> None:
        """Validate, write a row and save, where the step just taken calls for it."""
        run, step = self.run, self.run.step
        ends = step % self.source.steps == 0 or step == self.total
        moment = run.moment(step // self.source.steps, self.total // self.source.steps)
        events = run.events if step % self.source.steps == 0 else ()
        with uninterrupted(), torch.no_grad():
            for event in events:
                event.before(moment)
        metrics = self._metrics() if ends else {}
        with uninterrupted(), torch.no_grad():
            for event in events:
                event.after(moment)
        with uninterrupted():
            if ends or step % self.log_every == 0:
                self._write_row(metrics)
            run.closed = True
        if step % self.files.every == 0 or step == self.total:
            self._save()

    def _metrics(self) -> Mapping[str, Mapping[str, float]]:
        run = self.run
        if self.validate is None or not run.hardware.first:
            return {}
        seed_all(seed_of(run.seed, 4, run.step))
        run.family.eval()
        average = run.ema.swapped(run.family) if run.ema else contextlib.nullcontext()
        try:
            with average:
                found = self.validate(run.family)
        finally:
            run.family.train()
        _check_metrics(found)
        return found

    def _write_row(self, metrics: Mapping[str, Mapping[str, float]]) -> None:
        run = self.run
        loss, members = run.window.take()
        for name, values in metrics.items():
            members.setdefault(name, {}).update({key: float(v) for key, v in values.items()})
        self.log.add(
            {
                "step": run.step,
                "epoch": (run.step - 1) // self.source.steps + 1,
                "loss": loss,
                "learning_rate": run.optimizer.param_groups[0]["lr"],
                "members": members,
            }
        )

    def _save(self) -> None:
        run, folder = self.run, self.files.checkpoints
        if folder is None or not run.hardware.first or self.saved == (run.step, run.closed):
            return
        run.check_weights()
        with uninterrupted():
            save_checkpoint(folder, run.step, {**run.state_dict(), "settings": self.settings})
            self.saved = (run.step, run.closed)
