"""TangleNAS: a search by gradients over slices, with the sum on the weights.

In spaces of widths and kernels a small choice is a slice of the large one's tensor. Searches by
gradients need a weighted sum over all candidates, one forward pass for each combination. Here the
sum is taken of the weights: every slice is padded with zeros, counts as much as its share, and the
sum of them is used once. A search is then one training of one network, at the cost and the memory
of the largest member, and evaluates nothing.

What is ours: the sum is a mask on the largest weight (the same number); the shares start as the
estimator's of logits near zero; the second order leaves out the momentum. Whether the paper's
entangled DARTS takes a softmax, where its code takes sparsemax, and the temperatures of GDAS were
not confirmed; `Softmax`, `Sparsemax` and `GumbelOneHot` offer them. Nor was it that 83.0 is the
paper's own figure. Head counts are sums of slices too (the paper runs one attention for each), and
depth is described in `manynet.train.relax`. Not built: the edges of cells, whose operations share a
tensor, and widths that are a ratio times another width, which no family of `elastic` has.

The learning rate of the logits is the paper's 3e-4 where a search is as long as the paper's (39,000
steps), and higher in a shorter one, so that logits can come as far.

The proof's network is the paper's convolutional space at a quarter of its channels, with a head of
two layers instead of four, pooling after the first two convolutions, and digits of 16 by 16 pixels.
At a budget below 1 all trainings have fewer epochs. One of the 359 test digits is 0.28 points, so
differences of that size say nothing. The evolution is NSGA-II with one objective.

Arms have equal steps of the weights; a search by gradients adds as many steps of the logits, where
the others evaluate 100 archs. The seconds of both are in the result: where an evaluation is as
cheap as here, the search by gradients is the slower one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from manynet.data import batches, load_data
from manynet.deploy import calibrate
from manynet.elastic import elastic
from manynet.family import Family
from manynet.models import conv_macro
from manynet.search import accuracy, search
from manynet.space import Arch
from manynet.systems._condition import Condition
from manynet.systems._proof import Figures, Proof
from manynet.systems._system import System
from manynet.train import (
    Descent,
    Dirichlet,
    Estimator,
    GumbelOneHot,
    Task,
    Uniform,
    descend,
    relax,
    step_times,
    train,
)

__all__ = ["SYSTEM", "conv_macro_family", "tangle"]

EPOCHS, BATCH, RATE, DECAY = 100, 64, 0.025, 5e-4
TRAVEL = 3e-4 * 39_000
"""How far the paper's rate can move a logit in its number of steps."""
RANDOM, EVOLVED = 100, 100
RECIPE: Mapping[str, Any] = {
    "objective": Task(),
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "batch_size": BATCH,
    "clip": 5.0,
}


def tangle(
    family: Family, data: Any, *, steps: int, estimator: Estimator | None = None, **options: Any
) -> Descent:
    """Search a family as TangleNAS does; its shared weights are trained on the way.

    Args:
        family: whose choices are sizes of slices or depths.
        data: what `manynet.train.descend` takes; half of it is for the logits.
        steps: of the search.
        estimator: `Dirichlet()` (DrNAS) by default.
        **options: of `manynet.train.descend`; they override those of the recipe.

    Returns:
        the arch of the highest logits, and how it came about. Train it anew, or go on with
        `family.extract(found.arch)` after a calibration.
    """
    own = {"arch_rate": max(3e-4, TRAVEL / steps), "estimator": estimator or Dirichlet()}
    return descend(family, data, steps=steps, **{**RECIPE, **own, **options})


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


def prove(proof: Proof) -> None:
    """Compare two estimators with a family trained by sampling and then searched."""
    proof.run("tanglenas", lambda seed: _tangle_arm(proof, seed, Dirichlet()))
    proof.run("tanglenas gdas", lambda seed: _tangle_arm(proof, seed, GumbelOneHot()))
    proof.run("spos random", lambda seed: _spos_arm(proof, seed, "random", RANDOM))
    proof.run("spos evolution", lambda seed: _spos_arm(proof, seed, "nsga2", EVOLVED))


def _tangle_arm(proof: Proof, seed: int, estimator: Estimator) -> Figures:
    """Search by gradients, then train what was found from the start."""
    data, family = _data(seed), conv_macro_family(seed)
    weights, unseen = _halves(data)
    current: dict[str, float] = {}
    every = max(1, proof.share(EPOCHS) // 4)

    def watch(step: int, arch: Arch) -> None:
        if step // _epoch(weights) % every == 0:
            current[f"validation at step {step}"] = _judged(family, arch, data, data.val)

    options: Any = {"validation": unseen, "estimator": estimator, "seed": seed, "watch": watch}
    found = tangle(family, weights, steps=_steps(proof, weights), **options)
    more = {"search seconds": found.seconds, "evaluations": 0, **current}
    more |= step_times(relax(family), torch.randn(BATCH, 1, 16, 16))
    return _retrained(proof, seed, found.arch, 2 * found.steps, more)


def _spos_arm(proof: Proof, seed: int, strategy: str, evaluations: int) -> Figures:
    """Train by uniform sampling, search by evaluations, then train what was found."""
    data, family = _data(seed), conv_macro_family(seed)
    weights, unseen = _halves(data)
    began, steps = time.monotonic(), _steps(proof, weights)
    train(family, weights, steps=steps, sampler=Uniform(1), warmup=0.0, seed=seed, **RECIPE)
    options: Any = {"strategy": strategy, "evaluations": evaluations, "seed": seed}
    options["calibrate"] = lambda member: calibrate(member, weights, batches=4)
    front = search(family.eval(), accuracy(unseen), **options)
    more = {"search seconds": time.monotonic() - began, "evaluations": float(evaluations)}
    best = max(front.history, key=lambda record: record.quality)
    return _retrained(proof, seed, best.arch, steps, more)


def _retrained(
    proof: Proof, seed: int, arch: Arch, steps: int, more: Mapping[str, float]
) -> Figures:
    """Train the member from the start on all training data; judge it on the test."""
    data, family = _data(seed), conv_macro_family(seed)
    member = family.extract(arch)
    torch.manual_seed(seed)
    for module in member.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    single = Family(member).train()
    own = _steps(proof, data.train)
    train(single, data.train, steps=own, sampler=Uniform(1), warmup=0.0, seed=seed, **RECIPE)
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


SYSTEM = System(
    number=5,
    year=2023,
    reference="arXiv 2312.10440",
    claim="One search by gradients over sliced weights, at the cost of one network and without "
    "evaluations, finds members as good as training by sampling and searching afterwards does "
    "(83.0 against about 81 % of a table whose best is 84.4 %).",
    parts=(
        "slices of width and kernel",
        "superposed weights as one mask",
        "Dirichlet and Gumbel estimators",
        "first- and second-order steps of logits and weights in turns",
        "baseline: uniform sampling, then random search or evolution",
    ),
    metric="test accuracy of the member found, trained from the start, on digits, in percent",
    higher_is_better=True,
    margin=-0.3,
    ours="tanglenas",
    baseline="spos evolution",
    prove=prove,
    conditions=(
        Condition("tanglenas", "tanglenas", 0.8, "step ms", "summed outputs step ms", False, True),
        Condition("tanglenas", 0, 0.0, "evaluations", higher_is_better=False),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.systems.tanglenas import tangle

data = mn.load_data("digits")
network = mn.build("manynet:small_cnn")  # widths, kernels and depths
family = mn.elastic(network, data.example_inputs(), width=(0.5, 1.0), kernel=True)
found = tangle(family, data.train, steps=20)
print(found.arch)
small = family.extract(found.arch)
mn.calibrate(small, data.train)
""",
)
