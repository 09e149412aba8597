"""`descend`: a search by gradients. Weights and shares of the values are trained in turns.

One relaxed network holds all members, so a search is one training: no member is evaluated. A step
moves the logits on a batch that the weights do not see, and then the weights on one of theirs.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from manynet.data import Batch
from manynet.errors import InputError
from manynet.family import Family
from manynet.space import Arch
from manynet.train._architect import Architect, Settings
from manynet.train._hardware import find_hardware
from manynet.train._relax import relax
from manynet.train._seeds import own_randomness, seed_all, seed_of
from manynet.train._source import Source, TrainData, source_of
from manynet.train.estimators import Dirichlet, Estimator
from manynet.train.objectives import Objective, Task
from manynet.train.optimizers import MakeOptimizer, make_optimizer
from manynet.train.schedules import Schedule, schedule_of

__all__ = ["Descent", "Watch", "descend"]

Watch = Callable[[int, Arch], object]
"""Called with the steps taken and the arch of the highest logits so far."""


@dataclass(frozen=True)
class Descent:
    """What a search by gradients came to.

    Attributes:
        arch: the values of the highest logits.
        logits: of each choice, in the order of its values.
        path: the steps taken and the arch of the highest logits at the end of every epoch.
        steps: taken in all.
        seconds: how long it took.
    """

    arch: Arch
    logits: Mapping[str, tuple[float, ...]]
    path: tuple[tuple[int, Arch], ...]
    steps: int
    seconds: float = dataclasses.field(compare=False)


def descend(
    family: Family,
    data: TrainData,
    *,
    validation: TrainData | None = None,
    share: float = 0.5,
    estimator: Estimator | None = None,
    order: Literal[1, 2] = 1,
    arch_rate: float = 3e-4,
    arch_decay: float = 1e-3,
    objective: Objective | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    optimizer: str | MakeOptimizer = "sgd",
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    warmup: float = 0.0,
    schedule: str | Schedule = "cosine",
    clip: float | None = None,
    batch_size: int | None = None,
    augment: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    precision: str | None = None,
    device: str | None = None,
    watch: Watch | None = None,
) -> Descent:
    """Search a family by gradients, and train its shared weights on the way, in place.

    Args:
        family: its choices are sizes of slices and depths, see `relax`.
        data: what the weights learn from and, without `validation`, the logits as well.
        validation: what the logits learn from; by default a part of the data, which the weights
            then do not see.
        share: of the data that the weights keep, without `validation`.
        estimator: from logits to shares; `Dirichlet()` by default.
        order: 2 looks one step of the weights ahead when it moves the logits (DARTS), at five
            passes a step in place of two.
        arch_rate: learning rate of the logits, by Adam with betas 0.5 and 0.999. A short search
            needs a higher one: logits move by about this much a step.
        arch_decay: their L2 penalty.
        objective: the loss; `Task()` by default.
        epochs: passes over what the weights learn from. Give these or `steps`.
        steps: steps in all.
        optimizer: of the weights; it and the rest is as in `train`.
        learning_rate: of the weights.
        weight_decay: of the weights.
        warmup: steps if it is an integer, else a share of all steps.
        schedule: of the weights' learning rate.
        clip: the norm that the weights' gradients are clipped to.
        batch_size: samples of each of the two batches of a step.
        augment: changes the inputs of both.
        seed: decides every random number of the search.
        precision: `"no"` or `"bf16"`.
        device: another device than the one `accelerate` finds.
        watch: called at the end of every epoch.

    Returns:
        the arch, the logits and how the arch came about.

    Raises:
        InputError: an argument does not fit, or the family cannot be relaxed.

    Example:
        >>> import manynet, torch
        >>> from manynet.train import descend
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> data = (torch.randn(64, 4), torch.zeros(64, dtype=torch.long))
        >>> descend(family, data, epochs=2, batch_size=16).arch in family.space
        True

    Reference: Sukthanker et al. 2023, arXiv 2312.10440 (TangleNAS). The loop is that of Liu et
    al. 2019, arXiv 1806.09055 (DARTS); in its second order we leave the momentum out of the step
    ahead.
    """
    began = time.monotonic()
    hardware = find_hardware(precision, device)
    if hardware.processes > 1 or hardware.precision == "fp16":
        raise InputError(
            f"a search by gradients runs in one process without fp16, not in {hardware.processes} "
            f'with precision {hardware.precision!r}; use precision="bf16" or "no"'
        )
    source = source_of(data, batch_size=batch_size, seed=seed, hardware=hardware)
    parts = _held(data, validation, source, share=share, seed=seed)
    total = _total(epochs, steps, parts[0].steps)
    family.to(hardware.device)
    relaxed = relax(family)
    settings = Settings(
        schedule_of(schedule, total, warmup),
        estimator or Dirichlet(),
        objective or Task(),
        hardware,
        arch_rate=arch_rate,
        arch_decay=arch_decay,
        order=order,
        clip=clip,
        seed=seed,
    )
    made = make_optimizer(relaxed.family, optimizer, learning_rate, weight_decay)
    architect = Architect(relaxed, made, settings)
    with own_randomness(hardware.device):
        path = _go(architect, parts, total, augment or _as_it_is, watch or _look_away)
    family.clear()
    logits = {name: tuple(map(float, own.tolist())) for name, own in architect.logits.items()}
    return Descent(architect.arch(), logits, tuple(path), total, time.monotonic() - began)


def _go(
    architect: Architect,
    parts: tuple[Source, Source],
    total: int,
    augment: Callable[[Tensor], Tensor],
    watch: Watch,
) -> list[tuple[int, Arch]]:
    """Take all steps; return the archs on the way."""
    path: list[tuple[int, Arch]] = []
    pairs = zip(_endless(parts[0]), _endless(parts[1]), strict=False)
    for step, pair in enumerate(itertools.islice(pairs, total)):
        seed_all(seed_of(architect.settings.seed, 4, step))
        batch, unseen = (_changed(one, augment) for one in pair)
        architect.step(batch, unseen, step / max(1, total - 1))
        if (step + 1) % parts[0].steps == 0 or step + 1 == total:
            path.append((step + 1, architect.arch()))
            watch(*path[-1])
    return path


def _as_it_is(inputs: Tensor) -> Tensor:
    return inputs


def _look_away(step: int, arch: Arch) -> None:
    return None


def _total(epochs: int | None, steps: int | None, an_epoch: int) -> int:
    if (epochs is None) == (steps is None):
        raise InputError("give either epochs or steps, for example epochs=20")
    total = steps if steps is not None else (epochs or 0) * an_epoch
    if total < 1:
        raise InputError(f"epochs={epochs}, steps={steps}: there is nothing to do")
    return total


def _held(
    data: TrainData, validation: TrainData | None, source: Source, *, share: float, seed: int
) -> tuple[Source, Source]:
    """Return what the weights and what the logits learn from."""
    if validation is not None:
        size = source.batch_size
        other = source_of(validation, batch_size=size, seed=seed + 1, hardware=source.hardware)
        return source, other
    if isinstance(data, DataLoader):
        raise InputError("a loader cannot be split; give validation=, or the data set itself")
    if not 0 < share < 1:
        raise InputError(f"share={share}: it is a share of the data, above 0 and below 1")
    count = len(source.dataset)  # type: ignore[arg-type] # `source_of` has checked it
    kept = round(share * count)
    if not 0 < kept < count:
        raise InputError(f"share={share} of {count} samples leaves one of the parts empty")
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, 5)))
    return _part(source, shuffled[:kept]), _part(source, shuffled[kept:])


def _part(source: Source, chosen: Tensor) -> Source:
    """Return the batches of the `chosen` samples alone."""
    size = min(source.batch_size, len(chosen))

    def order(epoch: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed_of(source.seed, 2, epoch))
        shuffled = chosen[torch.randperm(len(chosen), generator=generator)]
        return torch.split(shuffled[: len(chosen) // size * size], size)

    return dataclasses.replace(source, batch_size=size, steps=len(chosen) // size, order=order)


def _endless(source: Source) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from source.epoch(epoch)
        epoch += 1


def _changed(batch: Batch, augment: Callable[[Tensor], Tensor]) -> Batch:
    return (augment(batch[0]), batch[1]) if isinstance(batch[0], Tensor) else batch
