"""`train`: what a user hands over, put together into a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from manynet.errors import InputError
from manynet.family import Family
from manynet.train._hardware import find_hardware
from manynet.train._loop import Files, Loop, Progress, Validate, settings_of
from manynet.train._run import Run
from manynet.train._source import TrainData, source_of
from manynet.train.ema import Ema
from manynet.train.events import Event
from manynet.train.log import TrainingLog
from manynet.train.objectives import Distill, Objective
from manynet.train.optimizers import MakeOptimizer, make_optimizer
from manynet.train.penalties import Penalty
from manynet.train.samplers import Sampler, Sandwich
from manynet.train.schedules import Schedule, schedule_of
from manynet.train.step import Dropout

__all__ = ["train"]


def train(
    family: Family,
    train_data: TrainData,
    *,
    sampler: Sampler | None = None,
    objective: Objective | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: str | MakeOptimizer = "sgd",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    warmup: float = 0.05,
    schedule: str | Schedule = "cosine",
    clip: float | None = None,
    ema: float | None = None,
    dropout: Dropout = "all",
    penalty: Penalty | None = None,
    events: Sequence[Event] = (),
    batch_size: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    folder: Path | str | None = None,
    checkpoint_every: int | None = None,
    resume: bool = True,
    precision: str | None = None,
    device: str | None = None,
    workers: int = 0,
    log_every: int = 10,
    progress: Progress | None = None,
    validate: Validate | None = None,
) -> TrainingLog:
    """Train all members of a family together; the shared weights change in place.

    Each step draws some archs, runs each forward and backward on the same batch, and moves the
    shared weights once. With a `folder`, the run can be stopped at any moment (Ctrl-C, a power
    cut) and called again with the same arguments: it goes on from its newest checkpoint and comes
    to exactly the same weights and log. Launched by `accelerate launch` or `torchrun`, each
    process takes its share of every batch. The family stays on the device that it trained on.

    Args:
        family: what to train.
        train_data: a data set, a loader, a `Data`, or tensors (inputs, targets).
        sampler: which archs a step trains; `Sandwich()` by default.
        objective: the loss of each; `Distill()` by default.
        epochs: passes over the data. Give these or `steps`.
        steps: steps in all.
        optimizer: `"sgd"`, `"adamw"`, or a function from parameter groups to an optimizer.
        learning_rate: by default 0.1 for SGD, 0.001 for AdamW.
        weight_decay: by default 1e-4 for SGD, 0.05 for AdamW; norms and biases never decay.
        warmup: steps if it is an integer, else a share of all steps.
        schedule: `"cosine"`, `"linear"`, `"exponential"`, `"constant"`, or a function from the
            step to a factor.
        clip: the norm that all shared gradients together are clipped to.
        ema: decay of a moving average of the weights, for example 0.999; `validate` sees the
            average, and `log.ema.copy_to(family)` makes it the family's.
        dropout: whose dropout and stochastic depth act: `"all"` members', or the `"largest"`'s.
        penalty: a loss of the shared weights themselves, such as `UniformWeights()`, added once a
            step.
        events: what happens at the end of every epoch, in this order, such as `Shrink(…)` and
            `Prune(…)`; see `manynet.train.Event`.
        batch_size: samples a step over all processes; 128, or the loader's.
        augment: changes a batch's inputs, once for all members of the step.
        seed: decides every random number of the run.
        folder: the run's folder, for `checkpoints/` and `training.jsonl`; nothing is written
            without one.
        checkpoint_every: steps; by default an epoch's.
        resume: go on from the folder's checkpoint; False refuses a folder that has any.
        precision: `"no"`, `"bf16"` or `"fp16"`; by default what `accelerate` was told.
        device: another device than the one `accelerate` finds.
        workers: processes that load samples which are not held as tensors.
        log_every: steps between two rows of the log.
        progress: called after every step.
        validate: called at the end of every epoch with the family in eval mode.

    Returns:
        the log.

    Raises:
        InputError: an argument does not fit, or the checkpoint is of a run with other arguments.
        TrainingError: a loss or a weight is not finite; the last good checkpoint stays.
        StorageError: a file cannot be written, or no checkpoint is whole.
        KeyboardInterrupt: after a checkpoint has been saved.

    Example:
        >>> import manynet, torch
        >>> from manynet.train import train
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> data = (torch.randn(64, 4), torch.zeros(64, dtype=torch.long))
        >>> train(family, data, epochs=2, batch_size=16).steps
        8
    """
    began, hardware = time.monotonic(), find_hardware(precision, device)
    source = source_of(
        train_data, batch_size=batch_size, seed=seed, hardware=hardware, workers=workers
    )
    total = _total(epochs, steps, source.steps)
    _check(dropout, clip=clip, checkpoint_every=checkpoint_every, log_every=log_every)
    family.to(hardware.device)
    run = Run(
        family,
        make_optimizer(family, optimizer, learning_rate, weight_decay),
        schedule_of(schedule, total, warmup),
        sampler or Sandwich(),
        objective or Distill(),
        hardware,
        seed,
        clip,
        augment,
        Ema(family, ema) if ema is not None else None,
        dropout,
        penalty,
        tuple(events),
    )
    asked = (optimizer, learning_rate, weight_decay, schedule, warmup, log_every, dropout)
    settings = settings_of(run, source, total, asked)
    files = Files(None if folder is None else Path(folder), checkpoint_every or source.steps)
    loop = Loop(run, source, total, files, settings, log_every, progress, validate)
    loop.go(resume)
    seconds = time.monotonic() - began
    return TrainingLog(tuple(loop.log.rows), run.step, run.ema, files.folder, seconds)


def _check(dropout: str, **numbers: float | None) -> None:
    if dropout not in ("all", "largest"):
        raise InputError(f'dropout={dropout!r} is unknown; use "all" or "largest"')
    for name, number in numbers.items():
        if number is not None and not number > 0:
            raise InputError(f"{name} is {number}; it must be above 0")


def _total(epochs: int | None, steps: int | None, an_epoch: int) -> int:
    if (epochs is None) == (steps is None):
        raise InputError("give either epochs or steps, for example epochs=20")
    total = steps if steps is not None else (epochs or 0) * an_epoch
    if total < 1:
        raise InputError(f"epochs={epochs}, steps={steps}: there is nothing to do")
    return total
