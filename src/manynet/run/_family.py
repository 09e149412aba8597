"""The first stages of a run: from the network to a trained family."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from manynet._inputs import call, evaluating
from manynet.cost import Cost, macs
from manynet.deploy import describable
from manynet.elastic import elastic
from manynet.elastic.importance import needs_data
from manynet.errors import BudgetError
from manynet.family import Family
from manynet.models import has_adapters, load, without_adapters
from manynet.run._plan import Pace, Plan
from manynet.run._work import Work
from manynet.search import Record
from manynet.space import Arch, Space
from manynet.train import (
    Distill,
    DistillOutputs,
    DistillTokens,
    Objective,
    Sampler,
    Sandwich,
    Task,
    TaughtBy,
    TrainingLog,
    Uniform,
    train,
)

__all__ = [
    "check_budget",
    "convert",
    "family_of_one",
    "help_training",
    "pace_of",
    "threads_for",
    "train_alone",
    "train_family",
]

START = Path("checkpoints", "start")
WARM_UP = Path("checkpoints", "warm-up")
_RANK = "*.lora_A.*"
_TIMED = 8
_WORTH_THREADS = 1e9
"""MACs of a batch below which PyTorch gets one thread."""
_WATCHED = 1024
"""Validation samples that the curves of the training are taken on."""
_WATCHED_TEXTS = 32
"""Sequences that the curves of a language model are taken on."""


def convert(work: Work) -> Family:
    """Return the family as it is before training; what was made once is read again."""
    step = work.progress("find what hangs together")
    step(0, 1, "")
    path = work.folder / START
    if not (path / "family.json").is_file():
        if _is_taught(work):
            work.material.network.original()  # read once: the family begins as a copy of it
        family = _elastic(work, work.material.network())
        check_budget(work, family)
        if work.config.elastic.warmup_epochs:
            family = _elastic(work, _warmed_up(work, family))
        family.save(path)
    family = load(path, model=work.material.network.form())
    torch.set_num_threads(threads_for(work, family))
    count = sum(parameter.numel() for parameter in family.parameters())
    step(1, 1, f"{family.space.count:,} members in {count:,} weights")
    return family.to(work.device)


def threads_for(work: Work, family: Family) -> int:
    """Return one thread for a small network, where several wait for each other more than they do.

    It follows from the network alone, so that a resumed run has the same.
    """
    if work.config.threads is not None:
        return work.config.threads
    arch = family.space.largest
    work_of_a_batch = macs().of_arch(family, arch) * work.config.train.batch_size
    return int(work.environment["threads"]) if work_of_a_batch > _WORTH_THREADS else 1


def _elastic(work: Work, model: nn.Module) -> Family:
    settings = work.config.elastic.model_dump(exclude={"warmup_epochs"})
    if work.config.train.lora is not None:
        settings["width"] = _whole_adapters(settings["width"])
    inputs = work.material.example_inputs()
    if needs_data(settings["importance"], settings["depth_importance"]):
        settings["data"] = work.samples
    family = elastic(model.train(), inputs, source=work.material.source, inplace=True, **settings)
    return describable(family) if "transformers" in work.config.deploy.formats else family


def _whole_adapters(width: Any) -> Any:
    """Return the widths with every adapter's rank left whole: it is merged away in the end."""
    if isinstance(width, Mapping):
        return {_RANK: (1.0,), **width}
    return {_RANK: (1.0,), "*": width} if width else width


@dataclass(frozen=True)
class _Largest:
    """Trains the largest member alone."""

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the largest arch."""
        return [space.largest]


def _warmed_up(work: Work, family: Family) -> nn.Module:
    """Train the largest network for a while, so that its channels can be put in order."""
    settings = _settings(work, family) | {"sampler": _Largest(), "objective": _task(work)}
    _train(
        work,
        family,
        "warm up",
        epochs=work.config.elastic.warmup_epochs,
        folder=work.folder / WARM_UP,
        settings=settings,
    )
    return family.to("cpu").extract(family.space.largest)


def check_budget(work: Work, family: Family) -> None:
    """Refuse a budget that even the smallest member breaks, before any time is spent.

    Raises:
        BudgetError: its `nearest` is the smallest member.
    """
    from manynet.run._costs import counted

    for name, limit in work.config.budget.items():
        cost = counted(name)
        if cost is not None and _smallest(cost, family) > limit:
            arch = family.space.smallest
            record = Record(arch, float("nan"), {name: _smallest(cost, family)})
            raise BudgetError(
                f"no member has {name} <= {limit:g}; the nearest, the smallest of the family, has "
                f"{name} {record.costs[name]:g}; raise the budget, or let the family grow smaller "
                "members with elastic.width",
                record,
            )


def _smallest(cost: Cost, family: Family) -> float:
    return cost.of_arch(family, family.space.smallest)


def train_family(work: Work, family: Family, plan: Plan) -> Family:
    """Train the family once and save it; a family that is saved is read."""
    if (work.folder / "family.json").is_file():
        trained = load(work.folder, model=work.material.network.form()).to(work.device)
        work.progress("train the family")(1, 1, "done before")
        return trained
    settings = _settings(work, family)
    log = _train(
        work,
        family,
        "train the family",
        epochs=plan.epochs,
        folder=work.folder,
        settings=settings,
    )
    if log.ema is not None:
        log.ema.copy_to(family)
    family.eval().save(work.folder)
    return family


def help_training(work: Work, family: Family, plan: Plan) -> None:
    """Take this process's share of a training whose first process keeps the folder."""
    settings = _settings(work, family)
    _train(work, family, "train the family", epochs=plan.epochs, folder=None, settings=settings)


def pace_of(work: Work) -> Pace:
    """Measure how long an epoch and an evaluation take, on a copy of the untrained family."""
    say = work.progress("measure the pace")
    say(0, 2, "")
    family = load(work.folder / START, model=work.material.network.form()).to(work.device)
    ticks: list[float] = []

    def note(step: int, total: int, info: Mapping[str, object]) -> None:
        ticks.append(time.perf_counter())

    data = work.material.train
    train(
        family,
        data,
        steps=_TIMED,
        seed=work.config.seed,
        device=str(work.device),
        progress=note,
        **_settings(work, family),
    )
    a_step = statistics.median(later - tick for tick, later in itertools.pairwise(ticks))
    loader = not isinstance(data, tuple) and hasattr(data, "batch_sampler")
    size = 1 if loader else work.config.train.batch_size
    count = len(data[0]) if isinstance(data, tuple) else len(data)
    an_epoch = a_step * max(1, count // size)
    say(1, 2, f"{an_epoch:.2f} s an epoch")
    seconds = [_evaluation_seconds(work, family) for _ in range(2)][-1]
    say(2, 2, f"{an_epoch:.2f} s an epoch, {seconds:.3f} s an evaluation")
    return Pace(an_epoch, seconds)


def _evaluation_seconds(work: Work, family: Family) -> float:
    start = time.perf_counter()
    work.metric(work.calibrated(family.extract(family.space.largest)))
    return max(time.perf_counter() - start, 1e-6)


def family_of_one(member: nn.Module, inputs: tuple[Any, ...]) -> Family:
    """Return a family whose only member is `member`, so that it can be trained as one is."""
    return Family(member, example_inputs=inputs)


def train_alone(
    work: Work,
    member: nn.Module,
    stage: str,
    epochs: int,
    folder: Path,
    *,
    rate: float = 1.0,
    part: tuple[int, int] = (0, 1),
) -> nn.Module:
    """Train one network by itself, with the settings of the family, and return it in eval mode.

    Args:
        work: the run.
        member: the network; it changes in place.
        stage: what to tell.
        epochs: how long.
        folder: keeps its checkpoints.
        rate: share of the family's learning rate.
        part: which of how many networks of this stage it is, counted from 0.
    """
    family = family_of_one(member.train(), work.material.example_inputs())
    settings = _settings(work, family) | {"objective": _task(work), "sampler": Uniform()}
    if rate != 1.0:
        known = settings["learning_rate"] or {"sgd": 0.1, "adamw": 1e-3}[settings["optimizer"]]
        settings["learning_rate"] = rate * known
    how: dict[str, Any] = {"epochs": epochs, "folder": folder, "settings": settings, "part": part}
    log = _train(work, family, stage, watch=False, **how)
    if log.ema is not None:
        log.ema.copy_to(family)
    return family.shared.eval()


def _train(
    work: Work,
    family: Family,
    stage: str,
    *,
    epochs: int,
    folder: Path | None,
    settings: Mapping[str, Any],
    watch: bool = True,
    part: tuple[int, int] = (0, 1),
) -> TrainingLog:
    say = work.progress(stage)
    before, parts = part
    which = f"{before + 1} of {parts}, " if parts > 1 else ""

    def progress(step: int, total: int, info: Mapping[str, object]) -> None:
        text = f"{which}epoch {info['epoch']} of {epochs}, loss {info['loss']:.3f}"
        say(before * total + step, parts * total, text)

    return train(
        family,
        work.material.train,
        epochs=epochs,
        seed=work.config.seed,
        folder=folder,
        device=str(work.device),
        progress=progress,
        validate=_curves(work) if watch else None,
        **settings,
    )


def _settings(work: Work, family: Family) -> dict[str, Any]:
    """Return the arguments of `train` that the config holds."""
    config = work.config.train
    named = {
        "epochs",
        "sampler",
        "random",
        "objective",
        "loss",
        "teacher",
        "lora",
        "checkpointing",
        "temperature",
        "label_smoothing",
        "augment",
    }
    return config.model_dump(exclude=named) | {
        "sampler": _sampler(work),
        "objective": _objective(work, family),
        "augment": _augment(work),
    }


def _sampler(work: Work) -> Sampler:
    config = work.config.train
    return Sandwich(config.random) if config.sampler == "sandwich" else Uniform(config.random + 2)


def _task(work: Work) -> Objective:
    return Task(work.loss)


def _objective(work: Work, family: Family) -> Objective:
    config = work.config.train
    if config.objective == "task":
        return _task(work)
    found = _distillation(work)
    return found if config.teacher == "largest" else TaughtBy(_original(work, family), found)


def _distillation(work: Work) -> Distill:
    config, task = work.config.train, work.material.task
    if task == "regress":
        return DistillOutputs(config.temperature, loss=work.loss)
    if task != "classify":
        return DistillTokens(config.temperature, loss=work.loss)
    smoothing = config.label_smoothing if work.loss is cross_entropy else 0.0
    return Distill(config.temperature, label_smoothing=smoothing, loss=work.loss)


def _is_taught(work: Work) -> bool:
    """Return whether the original network, as it came, teaches the members."""
    config = work.config.train
    return config.objective != "task" and config.teacher != "largest" and config.lora is None


def _original(work: Work, family: Family) -> nn.Module | Callable[[Any], object]:
    """Return the frozen original; adapted, the family holds it itself, under its adapters."""
    if not has_adapters(family.shared):
        return work.original

    def ask(inputs: Any) -> object:
        member = family.at(family.space.largest)
        with without_adapters(member), evaluating(member):
            return call(member, inputs)

    return ask


def _augment(work: Work) -> Callable[[Tensor], Tensor] | None:
    if not work.config.train.augment:
        return None
    from manynet.data import crop_and_flip

    return crop_and_flip()


def _curves(work: Work) -> Callable[[Family], Mapping[str, Mapping[str, float]]]:
    """Return what judges the largest, the smallest and one random member after each epoch."""
    watched = _WATCHED_TEXTS if work.material.task in ("causal", "masked") else _WATCHED
    metric = work.quality or work.judge(work.material.val, limit=watched)

    def validate(family: Family) -> dict[str, dict[str, float]]:
        space = family.space
        drawn = space.sample(np.random.default_rng(work.config.seed))
        archs = {"largest": space.largest, "smallest": space.smallest, "random": drawn}
        return {
            name: {metric.name: float(metric(work.calibrated(family.at(arch))))}
            for name, arch in archs.items()
        }

    return validate
