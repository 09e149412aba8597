"""The arms of TangleNAS's proof: a plain network of four convolutions on digits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from manynet.data import batches, load_data
from manynet.deploy import calibrate
from manynet.elastic import elastic
from manynet.family import Family
from manynet.models import conv_macro
from manynet.search import accuracy, search
from manynet.space import Arch
from manynet.systems._proof import Figures, Proof
from manynet.train import (
    Descent,
    Dirichlet,
    Estimator,
    GumbelOneHot,
    Uniform,
    relax,
    step_times,
    train,
)

__all__ = ["conv_macro_family", "prove_with"]

EPOCHS, BATCH = 100, 64
RANDOM, EVOLVED = 100, 100
Recipe = Mapping[str, Any]


@dataclass(frozen=True)
class _Method:
    """The proof, the method, and what both arms train with."""

    proof: Proof
    tangle: Callable[..., Descent]
    recipe: Recipe


def conv_macro_family(seed: int = 0) -> Family:
    """Return the family of the proof: four widths and four kernels of three values each."""
    torch.manual_seed(seed)
    return elastic(
        conv_macro().train(),
        torch.zeros(2, 1, 16, 16),
        width={f"{n}.width": (0.25, 0.5, 1.0) for n in (0, 4, 8, 12)},
        depth=False,
        kernel=(3, 5, 7),
        importance=None,
        multiple_of=1,
    )


def prove_with(proof: Proof, tangle: Callable[..., Descent], recipe: Recipe) -> None:
    """Compare two estimators with a family trained by sampling and then searched.

    Args:
        proof: runs the arms.
        tangle: the method.
        recipe: options of training, of all arms.
    """
    method = _Method(proof, tangle, recipe)
    proof.run("tanglenas", lambda seed: _tangle_arm(method, seed, Dirichlet()))
    proof.run("tanglenas gdas", lambda seed: _tangle_arm(method, seed, GumbelOneHot()))
    proof.run("spos random", lambda seed: _spos_arm(method, seed, "random", RANDOM))
    proof.run("spos evolution", lambda seed: _spos_arm(method, seed, "nsga2", EVOLVED))


def _tangle_arm(method: _Method, seed: int, estimator: Estimator) -> Figures:
    """Search by gradients, then train what was found from the start."""
    data, family = _data(seed), conv_macro_family(seed)
    weights, unseen = _halves(data)
    current: dict[str, float] = {}
    every = max(1, method.proof.share(EPOCHS) // 4)

    def watch(step: int, arch: Arch) -> None:
        if step // _epoch(weights) % every == 0:
            current[f"validation at step {step}"] = _judged(family, arch, data, data.val)

    options: Any = {"validation": unseen, "estimator": estimator, "seed": seed, "watch": watch}
    found = method.tangle(family, weights, steps=_steps(method.proof, weights), **options)
    more = {"search seconds": found.seconds, "evaluations": 0, **current}
    more |= step_times(relax(family), torch.randn(BATCH, 1, 16, 16))
    return _retrained(method, seed, found.arch, 2 * found.steps, more)


def _spos_arm(method: _Method, seed: int, strategy: str, evaluations: int) -> Figures:
    """Train by uniform sampling, search by evaluations, then train what was found."""
    data, family = _data(seed), conv_macro_family(seed)
    weights, unseen = _halves(data)
    began, steps = time.monotonic(), _steps(method.proof, weights)
    train(family, weights, steps=steps, sampler=Uniform(1), warmup=0.0, seed=seed, **method.recipe)
    options: Any = {"strategy": strategy, "evaluations": evaluations, "seed": seed}
    options["calibrate"] = lambda member: calibrate(member, weights, batches=4)
    front = search(family.eval(), accuracy(unseen), **options)
    more = {"search seconds": time.monotonic() - began, "evaluations": float(evaluations)}
    best = max(front.history, key=lambda record: record.quality)
    return _retrained(method, seed, best.arch, steps, more)


def _retrained(
    method: _Method, seed: int, arch: Arch, steps: int, more: Mapping[str, float]
) -> Figures:
    """Train the member from the start on all training data; judge it on the test."""
    data, family = _data(seed), conv_macro_family(seed)
    member = family.extract(arch)
    torch.manual_seed(seed)
    for module in member.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    single = Family(member).train()
    own = _steps(method.proof, data.train)
    train(single, data.train, steps=own, sampler=Uniform(1), warmup=0.0, seed=seed, **method.recipe)
    size = float(sum(p.numel() for p in single.parameters()))
    value = 100 * float(accuracy(data.test)(single.eval().extract({})))
    count = sum(p.numel() for p in family.parameters())
    return Figures(value, (steps + own) * BATCH, count, {**more, "parameters found": size})


def _judged(family: Family, arch: Arch, data: Any, samples: Any) -> float:
    """Return the accuracy, in percent, of a member with the family's own weights."""
    member = family.extract(arch).eval()
    calibrate(member, data.train, batches=8)
    return 100 * float(accuracy(samples)(member))


def _data(seed: int) -> Any:
    return load_data("digits", image_size=16, validation=0.25, seed=seed)


def _halves(data: Any) -> list[Any]:
    """Return what the weights learn from, and what choices are judged on."""
    images: Any
    images, labels = next(iter(batches(data.train, len(data.train))))
    half = len(labels) // 2
    return [(images[:half], labels[:half]), (images[half:], labels[half:])]


def _epoch(samples: Any) -> int:
    return (len(samples[1]) if isinstance(samples, tuple) else len(samples)) // BATCH


def _steps(proof: Proof, samples: Any) -> int:
    return proof.share(EPOCHS) * _epoch(samples)
