"""The arms of ExSSNeT's proof: ten tasks of permuted MNIST, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from manynet.bindings.recipes import separated
from manynet.data import Data, load_data, permuted
from manynet.family import Family
from manynet.family.apply import bind
from manynet.family.masks import own_and_shared, pack_masks
from manynet.search import Metric, accuracy, average_accuracy, forgetting
from manynet.systems._proof import Figures, Proof
from manynet.train import train_stage

__all__ = ["prove_with"]

TASKS, IMAGES, EPOCHS, BATCH = 10, 8_000, 4, 128
RATES, DENSE_RATE = (1e-2, 1e-3), 1e-3
Method = tuple[Callable[..., Family], Callable[..., Any]]


def prove_with(
    proof: Proof, task_masks: Callable[..., Family], learn_task: Callable[..., Any]
) -> None:
    """Compare with frozen weights, with overwriting, with fine-tuning and with a network a task.

    Args:
        proof: runs the arms.
        task_masks: makes the family.
        learn_task: the method.
    """
    method = (task_masks, learn_task)
    rate = _tuned(proof, method, "masks", lambda rate: {"mask_rate": rate, **_SUPSUP})
    fixed = {"mask_rate": rate}
    weight = _tuned(proof, method, "weights", lambda rate: {"weight_rate": rate, **fixed})
    for name, density, changes in _ARMS:
        how = {"mask_rate": rate, "weight_rate": weight, **changes}
        proof.run(name, partial(_masked_arm, proof, method, density, how))
    proof.run("fine-tuned", partial(_plain_arm, proof, "4.weight"))
    proof.run("alone", partial(_plain_arm, proof, "*"))


def _tuned(
    proof: Proof, method: Method, what: str, settings: Callable[[float], dict[str, Any]]
) -> float:
    """Return the rate that does best on validation in the mean over seeds, after two tasks."""
    found = {}
    for rate in RATES:
        name, how = f"tuning {what} {rate:g}", settings(rate)
        proof.run(name, partial(_masked_arm, proof, method, 0.05, how, count=2))
        found[rate] = sum(one.more["validation"] for one in proof.arms[name])
    return max(RATES, key=lambda rate: found[rate])


_SUPSUP = {"weight_epochs": 0}
_ARMS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("exssnet", 0.05, {}),
    ("supsup", 0.05, _SUPSUP),
    ("ssnet", 0.05, {"exclusive": False}),
    ("exssnet 0.02", 0.02, {}),
    ("supsup 0.02", 0.02, _SUPSUP),
    ("exssnet 0.2", 0.2, {}),
    ("supsup 0.2", 0.2, _SUPSUP),
    ("exssnet transfer", 0.05, {"transfer": "best"}),
)


def _network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    sizes = ((784, 300), (300, 100), (100, 10))
    layers = [layer for a, b in sizes for layer in (nn.Linear(a, b, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def _epochs(proof: Proof) -> int:
    """Epochs of a stage: images and epochs are thinned alike, by the root of the budget."""
    return max(1, round(math.sqrt(proof.budget) * EPOCHS))


def _tasks(proof: Proof, seed: int, count: int) -> list[Data]:
    limit = round(math.sqrt(proof.budget) * IMAGES)
    data = load_data("mnist10k", validation=0.2, limit=limit, seed=seed)
    return permuted(data, count, seed=seed)


def _masked_arm(
    proof: Proof,
    method: Method,
    density: float,
    how: Mapping[str, Any],
    seed: int,
    *,
    count: int = TASKS,
) -> Figures:
    """Learn the tasks with masks, `how` as `learn_task` takes it; all arms take equal epochs."""
    epochs, (task_masks, learn_task) = _epochs(proof), method
    family = task_masks(_network(seed), count, density=density, seed=seed)
    settings = {"weight_epochs": epochs, "batch_size": BATCH, "seed": seed, **how}
    settings["mask_epochs"] = 2 * epochs - settings["weight_epochs"]
    told: list[Any] = []

    def learn(task: int, data: Data) -> None:
        told.append(learn_task(family, task, data, val=data.val, **settings))

    found = _learned_all(proof, _tasks(proof, seed, count), family, learn)
    values = [one.values + one.weight_values for one in told]
    reached = [next(n for n, v in enumerate(one) if v >= 0.9 * max(one)) for one in values[1:]]
    more = {
        "validation": 100 * sum(map(max, values)) / count,
        "epochs to 90 %": sum(reached) / len(reached),
        "overlap of the last": told[-1].overlap,
        "bytes packed": _bytes(pack_masks(family)),
    }
    return replace(found, more={**found.more, **more})


def _plain_arm(proof: Proof, separate: str, seed: int) -> Figures:
    """Train dense weights on task after task; what is separate, each task has for itself."""
    family = bind(_network(seed), separate, separated("task", range(TASKS)))

    def learn(task: int, data: Data) -> None:
        tasks = [{"task": n} for n in range(TASKS) if n != task]
        other = set().union(*(own_and_shared(family, one, [])[0] for one in tasks))
        names = {name for name, _ in family.named_parameters()} - other
        options = {"batch_size": BATCH, "seed": seed, "learning_rate": DENSE_RATE}
        epochs, judge = 2 * _epochs(proof), _judge(data.val)
        train_stage(
            family, data, arch={"task": task}, names=names, epochs=epochs, judge=judge, **options
        )

    return _learned_all(proof, _tasks(proof, seed, TASKS), family, learn)


def _learned_all(
    proof: Proof, tasks: list[Data], family: Family, learn: Callable[[int, Data], None]
) -> Figures:
    """Learn task after task; judge on the test split of all so far after each, in percent."""
    judges, table = [_judge(data.test) for data in tasks], []
    for task, data in enumerate(tasks):
        learn(task, data)
        family.eval()
        table.append([100 * judges[n](family.at({"task": n})) for n in range(task + 1)])
    lost = forgetting(table)
    more = {
        "forgetting": sum(lost) / len(lost),
        "worst forgetting": min(lost),
        "bytes": _bytes(family),
    }
    samples = len(tasks) * 2 * _epochs(proof) * len(tasks[0].train)  # type: ignore[arg-type]
    count = sum(parameter.numel() for parameter in family.parameters())
    return Figures(average_accuracy(table), samples, count, more)


def _judge(samples: Any) -> Metric:
    return accuracy(samples)


def _bytes(family: Family) -> float:
    return float(sum(tensor.nbytes for tensor in family.state_dict().values()))
