"""The state of a training run, and how a step changes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from manynet.data import Batch
from manynet.errors import TrainingError
from manynet.family import Family
from manynet.space import Arch
from manynet.train._hardware import Hardware
from manynet.train._seeds import seed_all, seed_of
from manynet.train.ema import Ema
from manynet.train.events import Event, Moment, cut_again
from manynet.train.log import Window
from manynet.train.objectives import Objective
from manynet.train.penalties import Penalty, penalty_at
from manynet.train.samplers import Sampler, drawn
from manynet.train.schedules import Schedule
from manynet.train.step import Dropout, accumulate, largest_first

__all__ = ["Run"]


@dataclass
class Run:
    """All that a step reads and changes.

    Attributes:
        step: steps taken.
        closed: whether the epoch that ended with the last step has been validated.
        whole: False within a step, when what could be saved would be half of one.
    """

    family: Family
    optimizer: Optimizer
    schedule: Schedule
    sampler: Sampler
    objective: Objective
    hardware: Hardware
    seed: int
    clip: float | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    ema: Ema | None = None
    dropout: Dropout = "all"
    penalty: Penalty | None = None
    events: Sequence[Event] = ()
    step: int = 0
    closed: bool = True
    whole: bool = True
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.scaler = (
            torch.amp.GradScaler(self.hardware.device.type)
            if self.hardware.precision == "fp16"
            else None
        )

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.rates[0] * self.schedule(self.step)

    def advance(self, batch: Batch) -> list[float]:
        """Take one step on `batch` and return the members' losses."""
        self.whole = False
        seed_all(seed_of(self.seed, 3, self.step, self.hardware.rank))
        rng = np.random.default_rng((self.seed, self.step))
        space = self.family.space
        archs = largest_first(drawn(self.sampler, space, rng, self.step), space.largest)
        if self.augment is not None and isinstance(batch[0], Tensor):
            batch = (self.augment(batch[0]), batch[1])
        self.family.zero_grad()
        losses = accumulate(
            self.family,
            batch,
            archs,
            self.objective,
            hardware=self.hardware,
            scale=self.scaler.scale if self.scaler else None,
            dropout=self.dropout,
            penalty=penalty_at(self.penalty, self.step),
        ).to(torch.float32)
        self.hardware.average(self.family, losses)
        values: list[float] = losses.tolist()
        self._check(values, archs)
        self._move()
        self.window.add([_label(arch, self.family) for arch in archs], values)
        self.step += 1
        self.closed = False
        self.whole = True
        return values

    def _move(self) -> None:
        factor = self.schedule(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.family.parameters(), self.clip)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.family)

    def moment(self, epoch: int, epochs: int) -> Moment:
        """Return what the events of an epoch's end see."""
        return Moment(self.family, self.optimizer, self.ema, epoch, epochs)

    def _check(self, values: Sequence[float], archs: Sequence[Arch]) -> None:
        for value, arch in zip(values, archs, strict=True):
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {self.step}, first for the "
                    f"{_label(arch, self.family)} member {dict(arch)}; the weights are those "
                    f"before this step. Try a learning rate below {self.learning_rate:.3g}, "
                    "clip=1.0, a longer warm-up, or look for wrong values in the data"
                )

    def check_weights(self) -> None:
        """Raise `TrainingError` if a shared weight is not finite, so that none such is saved."""
        for name, parameter in self.family.named_parameters():
            if not bool(torch.isfinite(parameter.detach()).all()):
                raise TrainingError(
                    f"the weights {name} are not finite after step {self.step}; this state is not "
                    "saved. Try a smaller learning rate, or clip=1.0"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs to go on from here, exactly."""
        return {
            "step": self.step,
            "closed": self.closed,
            "window": self.window.sums,
            "cuts": {name: list(kept) for name, kept in self.family.cuts.items()},
            "family": self.family.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.family.clear()
        cut_again(self.moment(0, 0), state.get("cuts", {}))
        self.family.load_state_dict(state["family"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.window.sums = state["window"]
        self.step, self.closed = state["step"], state["closed"]


def _label(arch: Arch, family: Family) -> str:
    if arch == family.space.largest:
        return "largest"
    return "smallest" if arch == family.space.smallest else "random"
