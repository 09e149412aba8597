"""The arms of the proof of hypernetworks: six permuted MNIST tasks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from manynet.bindings.hyper import hypernetwork
from manynet.data import Data, Samples, load_data, permuted
from manynet.family import Family
from manynet.family.apply import bind
from manynet.space import Choice
from manynet.systems._proof import Figures, Proof
from manynet.train import (
    ElasticWeights,
    Objective,
    Task,
    Uniform,
    train,
)

__all__ = ["prove_with"]

TASKS, STEPS, BATCH, RATE, SIDE, WIDTH = 6, 500, 64, 1e-3, 14, 64
BETAS, STRENGTHS, SPREAD = (0.01, 0.1, 1.0), (10.0, 30.0, 100.0), 0.1
"""Of the regulariser, the first as in the paper; of the springs; of the codes, which is small
enough for the vectors of the chunks to bring the weights to their size."""
Learn = Callable[..., None]


def prove_with(proof: Proof, learn_in_turn: Learn) -> None:
    """Compare with elastic weights, with nothing that keeps, and with a network for each task.

    Elastic weights have a head for each task, or one for all.

    Args:
        proof: runs the arms.
        learn_in_turn: the method.
    """

    def hyper(seed: int, beta: float) -> Figures:
        return _hyper(proof, learn_in_turn, seed, beta)

    def springs(seed: int, *, heads: bool) -> Figures:
        return _best(STRENGTHS, lambda strength: _springs(proof, seed, strength, heads=heads))

    proof.run("hypernetwork", lambda seed: _best(BETAS, lambda beta: hyper(seed, beta)))
    proof.run("elastic weights", lambda seed: springs(seed, heads=True))
    proof.run("elastic weights, one head", lambda seed: springs(seed, heads=False))
    proof.run("nothing keeps", lambda seed: hyper(seed, 0.0))
    proof.run("six networks", lambda seed: _apart(proof, seed))


def network(outputs: int = 10) -> nn.Sequential:
    """Return the target: 196-64-10, or with a head for each task."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(SIDE**2, WIDTH), nn.ReLU(), nn.Linear(WIDTH, outputs)
    )


def _hyper(proof: Proof, learn_in_turn: Learn, seed: int, beta: float) -> Figures:
    tasks = _tasks(seed)
    recipe = hypernetwork(
        "chunks",
        condition=Choice("task", tuple(range(TASKS))),
        hidden=(50,),
        chunk=1000,
        chunk_code=16,
        spread=SPREAD,
        seed=seed,
    )
    torch.manual_seed(seed)
    family = bind(network(), "*", recipe, together=True)
    steps = proof.share(STEPS)
    learn_in_turn(
        family, [_tensors(task.train) for task in tasks], steps=steps, beta=beta, **_how(seed)
    )
    members = [family.extract({"task": number}) for number in range(TASKS)]
    kept, found = (
        [_judged(m, getattr(task, part)) for m, task in zip(members, tasks, strict=True)]
        for part in ("val", "test")
    )
    return _figures(found, kept, steps, sum(p.numel() for p in family.parameters()))


def _best(strengths: Sequence[float], run: Callable[[float], Figures]) -> Figures:
    """Return the run whose strength does best on validation images."""
    found = {strength: run(strength) for strength in strengths}
    strength = max(strengths, key=lambda one: found[one].more["validation"])
    best = found[strength]
    return replace(best, more={**best.more, "strength": strength})


def _springs(proof: Proof, seed: int, strength: float, *, heads: bool) -> Figures:
    tasks = _tasks(seed)
    torch.manual_seed(seed)
    family = Family(network(10 * TASKS if heads else 10))
    objective = ElasticWeights(family, strength=strength)
    steps = proof.share(STEPS)
    for number, task in enumerate(tasks):
        objective.objective = Task(_head(number * heads))
        _train_plain(family, task.train, steps, seed, objective)
        inputs, labels = _tensors(task.train)
        objective.hold({}, inputs[:1000], labels[:1000])
    member = family.extract({})
    kept, found = (
        [_judged(member, getattr(task, part), n * heads) for n, task in enumerate(tasks)]
        for part in ("val", "test")
    )
    return _figures(found, kept, steps, sum(p.numel() for p in family.parameters()))


def _train_plain(family: Family, data: Any, steps: int, seed: int, objective: Objective) -> None:
    how = {"weight_decay": 0.0, "schedule": "constant", "warmup": 0, **_how(seed)}
    train(family, data, steps=steps, sampler=Uniform(), objective=objective, **how)


def _head(number: int) -> Callable[[Tensor, Tensor], Tensor]:
    part = slice(10 * number, 10 * number + 10)
    return lambda logits, labels: functional.cross_entropy(logits[:, part], labels)


def _apart(proof: Proof, seed: int) -> Figures:
    found, kept, count, steps = [], [], 0, proof.share(STEPS)
    for number, task in enumerate(_tasks(seed)):
        torch.manual_seed(seed + number)
        family = Family(network())
        _train_plain(family, task.train, steps, seed, Task())
        member = family.extract({})
        found.append(_judged(member, task.test))
        kept.append(_judged(member, task.val))
        count += sum(p.numel() for p in family.parameters())
    return _figures(found, kept, steps, count)


def _how(seed: int) -> dict[str, Any]:
    return {"optimizer": "adamw", "learning_rate": RATE, "batch_size": BATCH, "seed": seed}


def _tasks(seed: int) -> list[Data]:
    return permuted(load_data("mnist10k", image_size=SIDE, seed=seed), TASKS, seed=seed)


def _tensors(samples: Samples) -> tuple[Tensor, ...]:
    assert isinstance(samples, TensorDataset)
    return samples.tensors


@torch.no_grad()
def _judged(member: nn.Module, samples: Samples, head: int = 0) -> float:
    inputs, labels = _tensors(samples)
    logits = member.eval()(inputs)[:, 10 * head : 10 * head + 10]
    return 100 * float((logits.argmax(1) == labels).float().mean())


def _figures(found: Sequence[float], kept: Sequence[float], steps: int, count: int) -> Figures:
    """Return the accuracy in each task on test images, and the mean on validation images."""
    more = {f"task {number + 1}": value for number, value in enumerate(found)}
    more["validation"] = float(np.mean(kept))
    return Figures(float(np.mean(found)), steps * TASKS * BATCH, count, more)
