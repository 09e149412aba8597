"""EQ-Net: one training of weights and step sizes for every form of quantization.

Each layer of a member rounds its weight and its input in a form of its own: bits, granularity,
symmetry. All forms read one set of weights; each has a learned step. What keeps them from
disturbing each other is a penalty that spreads the weights evenly (skewness and kurtosis of a
uniform distribution) and a chain of teaching in every step, from the member of most bits over
random ones to that of fewest. A predictor of accuracy then finds mixed members by a genetic search.

Reconstructed, since the paper's values were not confirmed: the weights of the penalty, the learning
rates, and the numbers of the genetic search. The random members of a step are ordered by their mean
bits, as the paper's groups are; the released code does not order them. Two bits with a sign have
the levels -2 to 1: no form of rounding to 2 bits is symmetric in its reach. The cost is quoted in
bit operations or mean bits.

The proof here is thinned: a residual network of 44,000 weights on images of 16 by 16, and, by the
root of the budget each, fewer images and fewer epochs of training; the ten epochs of pretraining
stay. Its convolutions begin with normal weights, whose kurtosis is 3, as those of the paper do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manynet.elastic import mean_bits, uniform_arch
from manynet.family import Family
from manynet.search import fit_quality, search
from manynet.space import Arch
from manynet.systems._condition import Condition
from manynet.systems._eqnet_proof import prove_with
from manynet.systems._system import System
from manynet.train import Distill, Staircase, UniformWeights, train

__all__ = ["SYSTEM", "mean_bits", "search_eqnet", "train_eqnet", "uniform_arch"]

MEMBERS, RATE = 4, 0.02
PENALTY = UniformWeights(kurtosis=1.0, skewness=1.0)
"""Of 0, 0.1 and 1, the best on validation, with a seed that the proof does not use."""


def train_eqnet(
    family: Family, data: Any, *, steps: int, members: int = MEMBERS, **options: Any
) -> None:
    """Train a family of `elastic_bits` as EQ-Net does: a chain from high to low bits in every step.

    Args:
        family: best of a pretrained network.
        data: what `manynet.train` takes.
        steps: training steps.
        members: of a step, the largest and the smallest among them.
        **options: of `manynet.train`; they override those of the recipe.
    """
    recipe: dict[str, Any] = {
        "sampler": Staircase(members - 2, rank="*bits"),
        "objective": Distill(labels=0.5, chained=True),
        "penalty": PENALTY,
        "learning_rate": RATE,
    }
    train(family, data, steps=steps, **{**recipe, **options})


def search_eqnet(
    family: Family,
    judge: Callable[[Arch], float],
    *,
    bits: float,
    judged: int = 1_000,
    evaluations: int = 5_000,
    seed: int = 0,
) -> Sequence[Arch]:
    """Return archs of at most so many mean bits, the most promising first.

    Args:
        family: a trained one.
        judge: how good an arch is, measured; more is better.
        bits: the most mean bits allowed.
        judged: how many archs to measure for the predictor.
        evaluations: how many archs to predict.
        seed: of the archs measured, and of the search.
    """
    space, rng = family.space, np.random.default_rng(seed)
    archs = list(dict.fromkeys(space.sample(rng, by="choice") for _ in range(judged)))
    predict = fit_quality(
        space, archs, [judge(arch) for arch in archs], features=lambda a: (mean_bits(a) / 8,)
    )
    front = search(
        space,
        "quality",
        evaluate=lambda arch: {"quality": predict(arch), "bits": mean_bits(arch)},
        costs=["bits"],
        constraints={"bits": bits},
        strategy="genetic",
        population=100,
        evaluations=evaluations,
        seed=seed,
    )
    return [record.arch for record in sorted(front.history, key=lambda r: -r.quality)]


SYSTEM = System(
    number=27,
    year=2023,
    reference="ICCV 2023, arXiv 2308.07650",
    claim="One training serves every form of quantization, close to or above networks that are "
    "trained for one form each, at 8 to 4 bits on ImageNet.",
    parts=(
        "rounded reading of shared weights with a table of learned steps",
        "bits, granularity and symmetry as choices, of weights and of inputs",
        "penalty on kurtosis and skewness",
        "chained distillation from high to low bits",
        "accuracy predictor and genetic search",
        "packed integers in files",
    ),
    metric="mean accuracy of five uniform settings (8, 6, 4, 3 and 2 bits) on CIFAR-10, in percent",
    higher_is_better=True,
    margin=-1.0,
    ours="eqnet",
    baseline="alone",
    prove=lambda proof: prove_with(proof, train_eqnet, search_eqnet),
    share=0.04,
    conditions=(
        Condition("eqnet", "no regularization", 0.5, "2 to 4 bits"),
        Condition("eqnet", "no guidance", 0.5, "2 to 4 bits"),
        Condition("eqnet", "eqnet", 0.0, "mixed at 4 bits", "4 bits"),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.systems.eqnet import search_eqnet, train_eqnet, uniform_arch

data = mn.load_data("digits")
network = mn.build("manynet:small_cnn")
batch = torch.stack([data.train[n][0] for n in range(64)])
family = mn.elastic_bits(network, batch, bits=(2, 4, 8), input_bits=(4, 8))
train_eqnet(family, data.train, steps=10)
quality = mn.accuracy(data.val, limit=100)
archs = search_eqnet(
    family, lambda arch: quality(family.at(arch)), bits=5, judged=10, evaluations=100
)
small = mn.calibrate(family.extract(archs[0]).eval(), data.train)
mn.export(small, "small.safetensors", batch)  # a few bits a weight
""",
)
