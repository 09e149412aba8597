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

from collections.abc import Mapping
from typing import Any

from manynet.family import Family
from manynet.systems._condition import Condition
from manynet.systems._system import System
from manynet.systems._tanglenas_proof import conv_macro_family, prove_with
from manynet.train import (
    Descent,
    Dirichlet,
    Estimator,
    Task,
    descend,
)

__all__ = ["SYSTEM", "conv_macro_family", "tangle"]

TRAVEL = 3e-4 * 39_000
"""How far the paper's rate can move a logit in its number of steps."""
RECIPE: Mapping[str, Any] = {
    "objective": Task(),
    "learning_rate": 0.025,
    "weight_decay": 5e-4,
    "batch_size": 64,
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
    prove=lambda proof: prove_with(proof, tangle, RECIPE),
    share=0.5,
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
