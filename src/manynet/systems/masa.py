"""MASA: the attention matrices of all layers are mixtures of a few shared ones.

The queries of every layer are weighted sums of the same few full-size matrices, the atoms; keys,
values and outputs have atoms of their own. With a third as many atoms as layers, two thirds of the
attention's weights are saved. From scratch, atoms and coefficients train together with the usual
loss; while they do, a perceptron makes each layer's coefficients from a code of that layer, and
afterwards only the coefficients are kept (`finish_masa`). A trained network is fitted without any
training (`fit_masa`): principal components of whole matrices within groups of similar layers, and
a low-rank residual of each matrix that heeds what goes into it.

Not confirmed from the paper, and ours: the sizes of code and perceptron, with one perceptron for
each projection; that each layer's coefficients start with a norm of one, and that codes and
perceptrons learn at 0.03 times the rate of the atoms (with norms of one in the mean and one rate
for all, a step throws a layer's coefficients about, and the network was behind tied layers; with
this start the smaller of 0.1 and 0.03 did better, on validation text with a seed of no proof); the
final norm before the logit lens, the direction of its
divergence and the cut at the largest ones, eight layers a group; how many atoms a group gets and
how residual rank is shared out (greedily by the relative error on calibration data that a stored
number takes away; a group may also keep its matrices).

The proof trains a character model of six layers on tiny-shakespeare with two atoms a projection.
Its baseline is the better of the two tied arms, seed by seed. The low-rank arm has rank d/6, which
matches the bytes of the others (the paper's d/3 does not). Thinned by the share: the steps, of all
arms alike. The second proof, without training on SmolLM2-135M, has not been measured here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from manynet import bind, settle
from manynet.bindings import Generate
from manynet.bindings.recipes import dictionary, low_rank, tied
from manynet.data import load_data
from manynet.family import Family
from manynet.fit import fit_dictionary, projections
from manynet.models import small_gpt
from manynet.search import perplexity
from manynet.systems._condition import Condition
from manynet.systems._proof import Figures, Proof
from manynet.systems._system import System
from manynet.train import Task, Uniform, token_loss, train
from manynet.train.optimizers import sparing

__all__ = ["SYSTEM", "finish_masa", "fit_masa", "share_attention", "train_masa"]

STEPS, BATCH, LENGTH, RATE, DECAY = 600, 16, 64, 3e-3, 0.05
CODER_RATE = 0.03
WIDTH, DEPTH, ATOMS = 60, 6, 2
ATTENTION = "*att*n*"


def share_attention(
    model: nn.Module, *, atoms: int, where: str | Sequence[str] = ATTENTION, seed: int = 0
) -> Family:
    """Return an untrained network as a family whose layers share atoms, a dictionary a projection.

    Args:
        model: its weights should be fresh: the atoms start as some of them.
        atoms: of each projection; a third of the layers in the paper.
        where: patterns of the weights that are shared.
        seed: of the perceptrons that make the coefficients.
    """
    groups = [list(names) for names in projections(model, where).values()]
    return bind(model, groups, dictionary(atoms, seed=seed))


def train_masa(family: Family, data: Any, *, steps: int, **options: Any) -> None:
    """Train a family of `share_attention`; codes and perceptrons do not decay, atoms do.

    Codes and perceptrons learn at `CODER_RATE` times the rate of all else: a step that moves each
    of a perceptron's thousands of weights by the rate of a matrix throws the few coefficients that
    it makes about. A family that has none is trained with the same recipe.

    Args:
        family: what to train.
        data: what `manynet.train` takes: tokens and those that follow, unless `objective` differs.
        steps: training steps.
        **options: of `manynet.train`; they override those of the recipe.
    """
    recipe = {**_RECIPE, **options}
    if "optimizer" not in recipe:
        rate = recipe.pop("learning_rate")
        names = [name for name, _ in family.named_parameters()]
        free = [n for n in names if n.endswith(".code") or ".shared_coder" in n]
        make = partial(torch.optim.AdamW, lr=rate)
        recipe["optimizer"] = sparing(family, free, make, learning_rate=rate * CODER_RATE)
    train(family, data, steps=steps, **recipe)


def finish_masa(family: Family) -> Family:
    """Return the trained family with its coefficients kept and what generated them dropped."""
    return settle(family, Generate)


def fit_masa(model: nn.Module, data: Any, *, share: float, **options: Any) -> Family:
    """Return a trained network as a family with shared attention matrices, without training.

    Args:
        model: the network.
        data: calibration data.
        share: bytes to be left, as a share of all but the embedding tables.
        **options: of `manynet.fit.fit_dictionary`; `where="*"` shares all linear maps.
    """
    return fit_dictionary(model, data, share=share, **{"where": ATTENTION, **options})


_RECIPE: dict[str, Any] = {
    "sampler": Uniform(1),
    "objective": Task(loss=token_loss),
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "batch_size": BATCH,
    "clip": 1.0,
}


def prove(proof: Proof) -> None:
    """Compare with no sharing, with two ways of tying, and with low rank at the same bytes."""
    proof.run("full", lambda seed: _arm(proof, seed, _whole))
    for arm, part in TIES.items():
        proof.run(arm, partial(_tied_arm, proof, part))
    proof.run("better tie", lambda seed: _better(proof, seed))
    proof.run("low rank", lambda seed: _arm(proof, seed, _low))
    proof.run("masa", lambda seed: _arm(proof, seed, _shared))


TIES: Mapping[str, Callable[[int], int]] = {
    "sequential": lambda layer: layer * ATOMS // DEPTH,
    "repeat all over": lambda layer: layer % ATOMS,
}
"""Which matrix each layer reads."""


def tie(model: nn.Module, part: Callable[[int], int]) -> Family:
    """Return a network whose layers of one part read one matrix for each attention projection."""
    groups: dict[tuple[str, int], list[str]] = {}
    for place, names in projections(model, ATTENTION).items():
        for number, name in enumerate(names):
            groups.setdefault((place, part(number)), []).append(name)
    return bind(model, list(groups.values()), tied())


def _tied_arm(proof: Proof, part: Callable[[int], int], seed: int) -> Figures:
    return _arm(proof, seed, lambda model, seed: tie(model, part))


def _whole(model: nn.Module, seed: int) -> Family:
    return Family(model)


def _low(model: nn.Module, seed: int) -> Family:
    return bind(
        model, list(projections(model, ATTENTION).values()), low_rank(WIDTH // 6, seed=seed)
    )


def _shared(model: nn.Module, seed: int) -> Family:
    return share_attention(model, atoms=ATOMS, seed=seed)


def _better(proof: Proof, seed: int) -> Figures:
    """Return the record of the tied arm that does better with this seed; nothing is trained."""
    records = [record for arm in TIES for record in proof.arms[arm] if record.seed == seed]
    best = min(records, key=lambda record: record.value)
    return Figures(best.value, best.samples_seen, best.parameters, best.more)


def _arm(proof: Proof, seed: int, make: Callable[[nn.Module, int], Family]) -> Figures:
    """Train the same fresh network, as `make` has it, and judge it on held-out text."""
    data: Any = load_data("shakespeare", length=LENGTH)
    torch.manual_seed(seed)
    model = small_gpt(len(data.tokenizer), width=WIDTH, depth=DEPTH, length=LENGTH)
    family, steps = make(model, seed), proof.share(STEPS)
    train_masa(family, data.train, steps=steps, seed=seed)
    family = finish_masa(family) if make is _shared else family
    attention = sum(p.numel() for n, p in family.named_parameters() if ".attention." in n)
    count = sum(p.numel() for p in family.parameters())
    loss = math.log(perplexity(data.test)(family.eval().at({})))
    return Figures(loss, steps * BATCH, count, {"attention weights": attention})


SYSTEM = System(
    number=23,
    year=2026,
    reference="AAAI 2026, arXiv 2508.04581",
    claim="With a third as many atoms as layers, which saves 66.7 % of the attention's weights, a "
    "transformer of 110M parameters trained from scratch reaches a WikiText perplexity of 72.82; "
    "without sharing it reaches 76.11, with tied layers 80.35 and 78.97, with low rank 83.25.",
    parts=(
        "mix of atoms, a dictionary a projection",
        "coefficients generated from codes, then settled",
        "principal components of whole matrices",
        "layers grouped by the drift of the logit lens",
        "low-rank residuals that heed the inputs",
        "ranks and atoms shared out by the error they take away",
    ),
    metric="loss on held-out text of tiny-shakespeare, in nats a character",
    higher_is_better=False,
    margin=0.01,
    ours="masa",
    baseline="better tie",
    prove=prove,
    conditions=(
        Condition("masa", "low rank", 0.01),
        Condition("masa", "full", -0.03),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.systems.masa import finish_masa, fit_masa, share_attention, train_masa

# from scratch: two atoms for four layers
model = mn.build("manynet:small_gpt", tokens=20, width=32, depth=4, length=32)
tokens = torch.arange(64 * 33).view(64, 33) % 20
family = share_attention(model, atoms=2)
train_masa(family, (tokens[:, :-1], tokens[:, 1:]), steps=30)
family = finish_masa(family)

# a trained network, without training: 80 % of its bytes but for the embedding tables
trained = family.extract({})
fitted = fit_masa(trained, tokens[:8, :-1], share=0.8)
print(fitted.report())
""",
)
