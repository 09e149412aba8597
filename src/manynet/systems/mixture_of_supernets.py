"""Mixture-of-Supernets: several experts a layer, mixed by a router that sees the arch.

In a plain family all members cut their weights from one matrix and pull its entries in different
directions. Here a layer stores several matrices, and a small router, whose input is the arch and
not the token, says how a member mixes them: layer-wise by one coefficient a matrix, neuron-wise by
one for each row. Of the mix the member reads its slice. The mix depends on the arch alone, so it is
computed once a step, and an extracted member is a plain network without router or experts.

Where we differ: the router sees every choice of the space, each value over its largest (the paper's
code has ten hand-made numbers for translation; that its default is not one-hot is from its code).
The experts are scaled so that their even mix has the plain spread. There is no dropout in the
router. The table of average GLUE that circulates is from memory and not confirmed.

The proof is translation from English to German (multi30k), one vocabulary of 1,000 pieces, the
12,000 shortest pairs. Choices are the widths of both sides, the inner width of every feed-forward
layer and the decoder's depth; heads are fixed, since here they would change the size of a head and
no weight, and the decoder attends to the encoder's last layer. Not measured: two plain families
split by width, and the gap to archs trained alone. Every arm has the same number of updates, and
the seconds of a step are reported. A budget below 1 means fewer updates for all. A router that does
not see the arch has done as well: at this size the experts help, not the routing.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from manynet.bindings.routed import coefficients, routed
from manynet.data import local_data, sentence_pairs
from manynet.elastic import elastic
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.apply import bind
from manynet.models.translator import Translator
from manynet.search import loss
from manynet.space import Arch, Space
from manynet.systems._condition import Condition
from manynet.systems._proof import Figures, Proof
from manynet.systems._system import System
from manynet.train import Sandwich, Task, token_loss, train

__all__ = ["SYSTEM", "mix_experts", "spread"]

UPDATES, BATCH, PAIRS, PIECES, RATE = 500, 48, 12_000, 1_000, 1e-3
VALIDATION = 400
"""Sentences that each arch is judged on."""
WIDTHS = {"*.feed.*": (0.25, 0.5, 1.0), "*.attn.*": (1.0,), "*.cross.*": (1.0,), "*": (2 / 3, 1.0)}


def mix_experts(
    family: Family,
    layers: Sequence[str | Sequence[str]],
    *,
    experts: int = 2,
    per: Literal["layer", "row"] = "row",
    **options: Any,
) -> Family:
    """Give layers experts that a router mixes by the arch.

    Args:
        family: what to extend; the new family owns its weights from then on.
        layers: paths of linear layers or convolutions. A name or a pattern gives each layer that
            fits a router of its own; several names together share one, as the two matrices of a
            feed-forward block do layer-wise.
        experts: how many each weight has.
        per: coefficients for a `"layer"` or for each `"row"` of its weight (neuron-wise).
        **options: of `manynet.bindings.routed.routed`.

    Returns:
        the family with experts. Train it without weight decay, which would pull the routers to even
        mixes.

    Raises:
        InputError: no layer fits.
    """
    known = [path for path, part in family.named_modules() if hasattr(part, "weight")]
    groups: list[list[str]] = []
    for asked in layers:
        names = [asked] if isinstance(asked, str) else list(asked)
        found = [path for name in names for path in known if fnmatch.fnmatchcase(path, name)]
        if not found:
            raise InputError(f"no layer fits {asked!r}; there are, for example, {known[:4]}")
        groups += [[path] for path in found] if isinstance(asked, str) else [found]
    own = {name for name, _ in family.named_parameters()}
    where = [
        [name for path in group for kind in ("weight", "bias") if (name := f"{path}.{kind}") in own]
        for group in groups
    ]
    recipe = routed(family.space, experts=experts, per=per, **options)
    return bind(family, where, recipe, together=True)


def prove(proof: Proof) -> None:
    """Compare experts by the arch with a plain family, and with routers that see nothing."""
    proof.run("neuron-wise", lambda seed: _arm(proof, seed, per="row"))
    proof.run("plain", lambda seed: _arm(proof, seed))
    proof.run("blind", lambda seed: _arm(proof, seed, per="row", sees=()))
    proof.run("layer-wise", lambda seed: _arm(proof, seed, per="layer"))


def _arm(proof: Proof, seed: int, **options: Any) -> Figures:
    """Train a family; judge six of its archs."""
    data = _data()
    family = _family(seed, data)
    if options:
        pairs = [path for path, _ in family.named_modules() if path.endswith(".feed")]
        both = [(f"{path}.fc1", f"{path}.fc2") for path in pairs]
        layers = both if options["per"] == "layer" else [name for pair in both for name in pair]
        family = mix_experts(family, layers, seed=seed, **options)
    log = train(
        family,
        data.train,
        sampler=Sandwich(1),
        objective=Task(loss=token_loss),
        steps=proof.share(UPDATES),
        optimizer="adamw",
        learning_rate=RATE,
        weight_decay=0.0,
        warmup=0.1,
        batch_size=BATCH,
        seed=seed,
    )
    judge = loss(data.val, token_loss, limit=VALIDATION)
    found = {
        f"arch {number}": float(judge(family.extract(arch).eval()))
        for number, arch in enumerate(six_archs(family.space))
    }
    more = {**found, "ms a step": 1000 * log.seconds / log.steps}
    if options:
        more["spread of the coefficients over archs"] = spread(family, six_archs(family.space))
    count = sum(p.numel() for p in family.parameters())
    return Figures(float(np.mean(list(found.values()))), 3 * log.steps * BATCH, count, more)


def spread(family: Family, archs: Sequence[Arch]) -> float:
    """Return how far the coefficients of archs differ; zero means that nothing is routed."""
    bindings, tensors = family.blueprint.bindings, family.state_dict()
    mixes = [coefficients(bindings, tensors, arch) for arch in archs]
    parts = [torch.stack([mix[name] for mix in mixes]).std(0).mean() for name in mixes[0]]
    return float(torch.stack(parts).mean())


def six_archs(space: Space) -> list[Arch]:
    """Return the largest arch, the smallest, and four at random, the same ones every time."""
    rng = np.random.default_rng(100)
    return [space.largest, space.smallest, *(space.sample(rng, by="choice") for _ in range(4))]


@functools.cache
def _data() -> Any:
    folder = local_data("multi30k/train.parquet").parent
    return sentence_pairs(folder, vocabulary=PIECES, limit=PAIRS)


def _family(seed: int, data: Any) -> Family:
    torch.manual_seed(seed)
    longest = max(tensor.shape[1] for tensor in data.train.tensors)
    network: nn.Module = Translator(PIECES, positions=longest).train()
    inputs = tuple(tensor[:2] for tensor in data.train.tensors[:2])
    keep = ("encoder.0", "encoder.1")  # the encoder keeps its depth
    return elastic(network, inputs, width=WIDTHS, keep=keep, importance=None, multiple_of=1)


SYSTEM = System(
    number=6,
    year=2024,
    reference="Findings of ACL 2024, arXiv 2306.04845",
    claim="Experts mixed by the arch make members out of the family better than plain slices do, "
    "at the same cost of a member; neuron-wise more than layer-wise.",
    parts=(
        "slices of width, feed-forward width and depth",
        "experts mixed by a router that sees the arch, for each layer or row",
        "sandwich sampler",
        "folding: a member is a plain network",
    ),
    metric="mean validation loss of six archs out of the family, in nats a piece, on multi30k",
    higher_is_better=False,
    margin=0.01,
    ours="neuron-wise",
    baseline="plain",
    prove=prove,
    conditions=(Condition("neuron-wise", "blind"),),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.systems.mixture_of_supernets import mix_experts

data = mn.load_data("digits")
network = mn.build("manynet:small_cnn")  # convolutions, which the paper never mixed
family = mn.elastic(network, data.example_inputs(), width=(0.5, 1.0))
family = mix_experts(family, ["stages.*.conv1"])
mn.train(family, data.train, steps=20, weight_decay=0.0)
small = family.extract(family.space.smallest)
""",
)
