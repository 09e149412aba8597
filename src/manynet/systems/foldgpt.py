"""FoldGPT: a language model without its weakest blocks, whose other blocks share their matrices.

Three steps. A gate on each block is trained on a little text, all gates together and the weights
frozen; the blocks whose gates close are removed. The remaining ones are put into groups of
neighbors that use the matrices of their first, while norms and places in the key-value cache stay
with each. A short training then heals the damage, with the original model as a teacher of the last
hidden states and the logits.

The formulas of gate and penalty, the weights of the losses and all sizes of steps are
reconstructions: the paper's own were not at hand, nor was any code. That the first of a group is
its parent and that groups have one size is reconstructed too. The last hidden states are compared
behind the model's final norm, where single large entries of the residual stream do not outweigh
all others.

Removing a block saves bytes and multiplications, folding saves bytes alone. The proof judges the
parts of the method one by one: gates must be no worse than block influence where either removes 4
of 30 blocks, and both far better than removal at random; the cure must take away most of the damage
of 6 folded pairs, and distillation do at least as well as labels alone; pairs of blocks that are no
neighbors, drawn at random, must be worse at once. Then the whole at equal bytes: `influence`
removes 10 blocks and has the same cure of norms. In a trial with another seed strangers were better
at once: which six blocks lose their own matrices mattered far more than whether they took a
neighbor's.

Gates are trained in addition to the steps that both have; the influence sees the same text. The
proof runs 40 steps of gates and 40 of cure, of 256 tokens each, and judges 4,096 tokens; a budget
below 1 thins the steps of the cure, and down to a half the tokens of a step of gates and the tokens
that judge. At no budget here is the text usable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from manynet import bind
from manynet.bindings import across
from manynet.bindings.recipes import tied
from manynet.errors import InputError
from manynet.family import Family
from manynet.systems._condition import Condition
from manynet.systems._foldgpt_proof import prove_with
from manynet.systems._system import System
from manynet.train import (
    DistillTail,
    Objective,
    TaughtBy,
    TrainingLog,
    Uniform,
    only,
    showing_hidden_states,
    train,
)

__all__ = ["SYSTEM", "cure", "fold"]

RATES: Mapping[str, float] = {"norms": 1e-2, "all": 3e-4}
"""Learning rates of AdamW, chosen on validation text with a seed of no proof."""


def fold(model: nn.Module, groups: Sequence[Sequence[str]], *, inputs: Any = ()) -> Family:
    """Return a family of one member whose blocks use the matrices of the first of their group.

    Args:
        model: it stays as it is.
        groups: paths of blocks; norms and biases stay each block's own.
        inputs: to count MACs with.
    """
    roles = [names for group in groups for names in across(model, group)]
    return bind(model, roles, tied(), example_inputs=inputs)


def cure(
    family: Family,
    original: nn.Module,
    data: Any,
    *,
    steps: int,
    objective: Objective | None = None,
    trained: str = "norms",
    **options: Any,
) -> TrainingLog:
    """Train a folded model a little, with the original as its teacher; its weights change in place.

    Args:
        family: what `fold` returned.
        original: the model of `transformers` that it was made of, on the same device.
        data: what `manynet.train` takes.
        steps: of training.
        objective: by default `TaughtBy(original, DistillTail(labels=0.5))`.
        trained: `"norms"`, all vectors that is, or `"all"`.
        **options: of `manynet.train`; they override those of the recipe.
    """
    if trained not in ("norms", "all"):
        raise InputError(f'trained={trained!r} is unknown; use "norms" or "all"')
    recipe: dict[str, Any] = {
        "optimizer": "adamw", "learning_rate": RATES[trained], "weight_decay": 0.0,
        "batch_size": 1, "clip": 1.0, "sampler": Uniform(1),
        "objective": objective or TaughtBy(original, DistillTail(labels=0.5)),
    }  # fmt: skip
    free = [(name, p) for name, p in family.named_parameters() if p.requires_grad]
    moving = [name for name, p in free if trained == "all" or p.dim() < 2]
    with showing_hidden_states(family.shared, original), only(family, moving):
        log = train(family.train(), data, steps=steps, **{**recipe, **options})
    family.eval().clear()
    return log


SYSTEM = System(
    number=28,
    year=2024,
    reference="arXiv 2407.00928",
    claim="Removing blocks by gates and sharing the weights of neighbors is better than earlier "
    "ways of making language models shallower, at equal compression.",
    parts=(
        "depth mask",
        "gates on blocks, trained jointly",
        "ties across blocks, norms of each call site",
        "distillation of logits and last hidden states",
    ),
    metric="perplexity of SmolLM2-135M on WikiText-2",
    higher_is_better=False,
    margin=0.0,
    ours="4 removed by gates",
    baseline="4 removed by influence",
    prove=lambda proof: prove_with(proof, fold, cure),
    conditions=(
        Condition("4 removed by gates", "4 removed by random", 0.5, relative=True),
        Condition("4 removed by influence", "4 removed by random", 0.5, relative=True),
        Condition("foldgpt", "foldgpt", 0.5, "", "at once", relative=True),
        Condition("foldgpt", "labels only"),
        Condition("foldgpt", "strangers folded", 0.0, "at once"),
        Condition("foldgpt", "influence"),
    ),
    module=__name__,
    example="""\
import torch
import transformers
from manynet.bindings import neighbors
from manynet.elastic import Gates, remove_blocks
from manynet.systems.foldgpt import cure, fold

config = transformers.GPT2Config(vocab_size=64, n_embd=32, n_layer=6, n_head=4, n_positions=32)
model = transformers.GPT2LMHeadModel(config).eval()
tokens = torch.randint(64, (8, 17))
inputs, targets = tokens[:, :-1], tokens[:, 1:]

batches = [(inputs[:4], targets[:4]), (inputs[4:], targets[4:])]
shallow = remove_blocks(model, inputs, 2, data=batches, importance=Gates(keep=4 / 6, steps=8))
folded = fold(shallow, neighbors(["transformer.h.1", "transformer.h.2"]), inputs=(inputs,))
cure(folded, model, (inputs, targets), steps=4, batch_size=4)
small = folded.extract({})
print(folded.report())
""",
)
