"""Hypernetworks: a small network generates the weights of another, and so tasks share softly.

The review sorts hypernetworks by five criteria; here they are options of one recipe for `mn.bind`,
`manynet.bindings.hyper.hypernetwork`, and of two layers. *Input*: a learned code for each value of
a choice (`condition=Choice("task", …)`), the arch (`condition=[choices]`), noise (`"noise"`), or
the data (`manynet.layers.PerSample`, `HyperLinear`). *Output*: `"whole"`, chunk by chunk, or
component by component; Ha's kernels are `hyper_kernels`. A whole output whose head starts anew for
each tensor is the review's multi-head one: both are one linear map. *Input variability*: a table of
codes, or a network's. *Output variability*: where the family is elastic too, the weights of the
largest member are generated and cut. *Architecture*: bindings generate with a perceptron;
`PerSample` takes any module.

Members are ordinary: `family.at({"task": j})` reads what the generator makes, once a step for all
tensors; `family.extract` folds it, and needs the generator no more.

Where this differs from the papers: norms keep a start of their own and learn a generated offset;
the look-ahead of the continual learner is left out; the number of tasks is fixed at the start. The
review has no figures of its own; those of the claim are von Oswald et al.'s kind of experiment,
made anew. Ha et al.'s figures are recalled and not confirmed.

The proof: six permuted MNIST tasks in turn, from the 10,000 test images (8,000 to learn from), 14
by 14 pixels, no data kept, 500 Adam steps of batch 64 a task. Both ways of keeping take the best of
three strengths on validation images, chosen for each seed: the paper's 0.01 for outputs lets early
tasks slip. Elastic weights are the baseline with a head for each task, which makes them much
stronger; with one head for all they are reported too. What the budget thins is the number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manynet.family import Family
from manynet.space import Arch, Space, Value
from manynet.systems._condition import Condition
from manynet.systems._hypernetworks_proof import prove_with
from manynet.systems._system import System
from manynet.train import (
    Fixed,
    Objective,
    OutputRegulariser,
    Sampler,
    Task,
    Uniform,
    train,
)

__all__ = ["SYSTEM", "Redrawn", "learn_in_turn", "mean_probabilities", "redraw"]

BETA = 0.01
"""Of the regulariser, as in the paper."""


def learn_in_turn(
    family: Family,
    tasks: Sequence[Any],
    *,
    steps: int,
    choice: str = "task",
    beta: float = BETA,
    **options: Any,
) -> None:
    """Train the members of a choice one after the other, and keep the weights of the earlier ones.

    Args:
        family: whose weights a generator makes, told the choice.
        tasks: the data of each value of the choice, as `manynet.train` takes them.
        steps: training steps a task.
        choice: its name.
        beta: of the regulariser; 0 keeps nothing.
        **options: of `manynet.train`; `objective` is what the learning member is trained with.
    """
    values = next(c.values for c in family.space.choices if c.name == choice)
    objective: Objective = options.pop("objective", None) or Task()
    regulariser = OutputRegulariser(family, objective, beta=beta)
    given = {"optimizer": "adamw", "weight_decay": 0.0, "schedule": "constant", "warmup": 0}
    for number, (value, data) in enumerate(zip(values, tasks, strict=True)):
        regulariser.arm([{choice: earlier} for earlier in values[:number]])
        for name, parameter in family.named_parameters():
            if name.endswith(tuple(f".shared_code.{earlier}" for earlier in values[:number])):
                parameter.requires_grad_(False)
        family.clear()  # members look once at which of their sources are trained
        train(
            family,
            data,
            steps=steps,
            sampler=Fixed({choice: value}),
            objective=regulariser,
            **{**given, **options},
        )


def redraw(family: Family, rng: np.random.Generator) -> None:
    """Draw the random code of a family's generator anew, in place."""
    for name, tensor in family.state_dict().items():
        if name.endswith(".shared_noise"):
            drawn = rng.standard_normal(tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(drawn))


class Redrawn:
    """A sampler that draws the random code of a family's generator anew in every step."""

    def __init__(self, family: Family, sampler: Sampler | None = None) -> None:
        self.family, self.sampler = family, sampler or Uniform()

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return the archs of the sampler."""
        redraw(self.family, rng)
        return self.sampler.archs(space, rng)


@torch.no_grad()
def mean_probabilities(
    family: Family, arch: Mapping[str, Value], x: Tensor, *, draws: int, seed: int = 0
) -> Tensor:
    """Return the mean of the class probabilities of several networks that noise makes.

    Shapes: `x` as of the network, returned `(B, classes)`.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        redraw(family, rng)
        found.append(family.at(arch)(x).softmax(1))
    return torch.stack(found).mean(0)


SYSTEM = System(
    number=19,
    year=2024,
    reference="Artificial Intelligence Review 2024, arXiv 2306.06955",
    claim="A review; of what it reviews, hypernetworks learn task after task and keep them without "
    "keeping data (von Oswald et al., arXiv 1906.00695), where elastic weights forget.",
    parts=(
        "generated weights, once a step for all tensors",
        "codes of tasks, archs, noise and data",
        "whole, chunked and component-wise outputs",
        "Ha's kernel generator",
        "hyperfan initialisation",
        "output regulariser",
        "weights for each sample",
    ),
    metric="mean test accuracy over six permuted MNIST tasks at the end, in percent",
    higher_is_better=True,
    margin=10.0,
    ours="hypernetwork",
    baseline="elastic weights",
    prove=lambda proof: prove_with(proof, learn_in_turn),
    conditions=(Condition("hypernetwork", "six networks", -5.0),),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.bindings.hyper import hypernetwork
from manynet.systems.hypernetworks import learn_in_turn

images, labels = mn.load_data("digits").train.tensors
tasks = [(images, labels), (images.flip(2), labels), (images.transpose(2, 3), labels)]
network = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, stride=2),
    torch.nn.ReLU(),
    torch.nn.Flatten(),
    torch.nn.Linear(72, 10),
)
recipe = hypernetwork(
    "chunks", condition=mn.Choice("task", (0, 1, 2)), chunk=400, chunk_code=16, spread=0.1
)
family = mn.bind(network, "*", recipe, together=True)
learn_in_turn(family, tasks, steps=60, learning_rate=3e-3, beta=0.05)
first = family.extract({"task": 0})  # a plain network, without the generator
print(float((first(images).argmax(1) == labels).float().mean()))
""",
)
