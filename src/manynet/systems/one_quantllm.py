"""One QuantLLM for all: a language model tuned once, deployed at any mean width of its weights.

Every linear layer keeps frozen integers of 2, 3 and 4 bits, and beside each its own low-rank
adapter, so that widths never pull at the same numbers. A step trains one mixture of widths, whose
mean rises and falls in a wave, so that members of few and of many bits are trained as often as
those in the middle. Then the layers' widths are searched under a budget, with no further training.
The adapters end in the zero points of the groups (QA-LoRA), so a member is integers, scales and
zero points: at groups of 32, one bit a weight more than its width.

Not confirmed are the paper's own settings of training, its figures, and its way of search; its
schedule is a normal distribution with a moving mean, here it is the draw of the largest entropy
around a wave. There is no dropout before the adapters.

The proof: SmolLM2-135M, whose 4-bit file read as float counts as the original, so 4 bits in groups
of 32 flatter every arm alike. The integers are the nearest ones: GPTQ with 2,048 tokens brought the
layers' own errors down to a fourth and the loss of the whole up. WikiText-2's validation file
trains, 60 steps of 2 x 96 tokens, rank 8. The metric is the mean loss of a token over six fixed
members, on 4,096 tokens of the test file. A smaller budget thins steps, judged tokens (to a quarter
at most) and evaluations of the search, of all arms alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from manynet.family import Family
from manynet.fit import average_bits, bit_sizes, fit_low_bit, reset_adapters, weight_rises
from manynet.search import Repaired, draw_at, lower, perplexity, search
from manynet.space import Arch
from manynet.systems._condition import Condition
from manynet.systems._proof import Figures, Proof
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.systems._system import System
from manynet.train import BitSchedule, Fixed, Sampler, Task, TrainingLog, Uniform, token_loss, train

__all__ = ["SYSTEM", "search_bits", "train_bits"]

STEPS, BATCH, LENGTH, CYCLES, JUDGED = 60, 2, 96, 4, 16
RATE = 1e-2
"""Of 0.001 and 0.01, the better on validation text, with a seed and a member of no proof."""
MEANS = (2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
EVALUATIONS, DRAWN, SEARCHED = 60, 20, 2.5
ENDS = (2.0, 2.25, 2.5)


def train_bits(
    family: Family, data: Any, *, steps: int, sampler: Sampler | None = None, **options: Any
) -> TrainingLog:
    """Train the adapters of a family of `fit_low_bit`; they change in place.

    Args:
        family: its adapters alone are trained.
        data: what `manynet.train` takes.
        steps: of training.
        sampler: by default `BitSchedule`, in four waves.
        **options: of `manynet.train`; they override those of the recipe.
    """
    recipe: dict[str, Any] = {
        "optimizer": "adamw", "learning_rate": RATE, "weight_decay": 0.0, "schedule": "constant",
        "warmup": 0.03, "clip": 0.3, "batch_size": BATCH, "objective": Task(token_loss),
        "sampler": sampler or BitSchedule(max(2, steps // CYCLES)),
    }  # fmt: skip
    log = train(family.train(), data, steps=steps, **{**recipe, **options})
    family.eval().clear()
    return log


def search_bits(
    family: Family,
    judge: Any,
    *,
    bits: float,
    original: nn.Module,
    evaluations: int = EVALUATIONS,
    seed: int = 0,
    **options: Any,
) -> Arch:
    """Return the best member found of at most so many bits a weight, by evolution with repair.

    What is above the budget is lowered where that harms the weights least.

    Args:
        family: a trained one.
        judge: a metric of members.
        bits: the most allowed, of the mean over all quantized weights.
        original: what the family was made of.
        evaluations: members judged.
        seed: of the evolution.
        **options: of `manynet.search`.
    """
    space, sizes, rise = family.space, bit_sizes(family), weight_rises(family, original)
    front = search(
        family,
        judge,
        evaluate=lambda arch: {"bits": average_bits(family, arch)},
        costs=["bits"],
        constraints={"bits": bits + 1e-9},
        strategy=Repaired(lambda arch: lower(space, arch, rise, sizes, bits)),
        evaluations=evaluations,
        seed=seed,
        **options,
    )
    sign = 1 if front.higher_is_better else -1
    return max(front.history, key=lambda record: sign * record.quality).arch


def prove(proof: Proof) -> None:
    """Compare with shared adapters, with uniform draws, and with adapters trained apart."""
    proof.run("scheduled", lambda seed: _arm(proof, seed, searched=True))
    proof.run("shared uniform", lambda seed: _arm(proof, seed, "shared", Uniform()))
    proof.run("own uniform", lambda seed: _arm(proof, seed, "own", Uniform()))
    proof.run("apart", lambda seed: _arm(proof, seed, "own", apart=True))


@cache
def _family(adapters: Any) -> Family:
    ids = torch.zeros(1, 8, dtype=torch.long)
    family = fit_low_bit(smollm2(), adapters=adapters, example_inputs=(ids,))
    family.cache_bytes = 0  # a member takes half a gigabyte, and none comes twice
    return family


def _arm(
    proof: Proof,
    seed: int,
    adapters: str = "own",
    sampler: Sampler | None = None,
    *,
    apart: bool = False,
    searched: bool = False,
) -> Figures:
    """Train one family and judge it at six mean widths."""
    family, text = _family(adapters), wikitext("valid", LENGTH)
    reset_adapters(family, seed)
    family.eval().clear()
    count = proof.share(STEPS)
    if apart:
        for number, width in enumerate((2, 3, 4)):
            only = Fixed(_uniform(family, width))
            train_bits(family, text, steps=count // 3, sampler=only, seed=3 * seed + number)
    else:
        train_bits(family, text, steps=count, sampler=sampler, seed=seed)
    found = {mean: _judged(proof, family, _member(family, mean)) for mean in MEANS}
    more = {f"loss at {mean:g} bits": value for mean, value in found.items()}
    more["mean loss up to 2.5 bits"] = float(np.mean([found[mean] for mean in ENDS]))
    if searched:
        more |= _searched(proof, family, seed)
    trained = sum(p.numel() for p in family.parameters() if p.requires_grad)
    return Figures(float(np.mean(list(found.values()))), count * BATCH, trained, more)


def _uniform(family: Family, width: int) -> Arch:
    return family.space.arch(dict.fromkeys(family.space.names, width))


def _member(family: Family, mean: float, number: int = 0) -> Arch:
    """Return a fixed member of a mean width."""
    rng = np.random.default_rng((int(100 * mean), number))
    return draw_at(family.space, bit_sizes(family), mean, rng)


def _judged(proof: Proof, family: Family, arch: Mapping[str, Any]) -> float:
    text: Any = wikitext("test", 256)
    limit = max(JUDGED // 4, proof.share(JUDGED))
    return math.log(perplexity(text, batch_size=1, limit=limit)(family.at(arch)))


def _searched(proof: Proof, family: Family, seed: int) -> dict[str, float]:
    """Search at 2.5 bits on validation text; judge the best and random members on the same."""
    text: Any = wikitext("valid", 256)
    rows: Sequence[int] = range(len(text) - 2, len(text))
    judge = perplexity(torch.utils.data.Subset(text, rows), batch_size=1)
    evaluations, drawn = proof.share(EVALUATIONS), proof.share(DRAWN)
    best = search_bits(
        family, judge, bits=SEARCHED, original=smollm2(), evaluations=evaluations, seed=seed
    )
    others = [_member(family, SEARCHED, 1 + n) for n in range(drawn)]
    losses = [math.log(judge(family.at(arch))) for arch in others]
    return {
        "searched at 2.5 bits, validation": math.log(judge(family.at(best))),
        "random at 2.5 bits, validation": float(np.mean(losses)),
        "searched at 2.5 bits, test": _judged(proof, family, best),
        "random at 2.5 bits, test": _judged(proof, family, others[0]),
    }


SYSTEM = System(
    number=3,
    year=2025,
    reference="ACL 2025, arXiv 2405.20202",
    claim="One fine-tuning of a quantized language model serves every mean width of its weights as "
    "well as models fine-tuned for each; decoupled adapters and a balanced draw each help.",
    parts=(
        "frozen integers of several widths, to the nearest or by GPTQ",
        "a low-rank adapter for each width, merged into the zero points",
        "a draw of widths whose mean moves in waves",
        "evolution under a budget of bits, with repair",
        "packed integers on disk",
    ),
    metric="mean loss of a token of SmolLM2-135M on WikiText-2, over members of 2 to 4 bits",
    higher_is_better=False,
    margin=0.05,
    ours="scheduled",
    baseline="shared uniform",
    prove=prove,
    conditions=(
        Condition("scheduled", "shared uniform", 0.1, "mean loss up to 2.5 bits"),
        *(
            Condition("scheduled", "apart", 0.0, f"loss at {bits} bits")
            for bits in ("2.25", "2.5", "3", "3.5")
        ),
        *(
            Condition("scheduled", "own uniform", 0.0, f"loss at {bits} bits")
            for bits in ("2", "4")
        ),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.fit import average_bits, bit_sizes, fit_low_bit
from manynet.models import small_gpt
from manynet.search import draw_at
from manynet.systems.one_quantllm import search_bits, train_bits

torch.manual_seed(0)
model = small_gpt(32, width=32, depth=2).eval()
tokens = torch.randint(32, (16, 17))
data = (tokens[:, :-1], tokens[:, 1:])

family = fit_low_bit(model, data, bits=(2, 3, 4), rank=2, example_inputs=(data[0][:1],))
train_bits(family, data, steps=16)
best = search_bits(family, mn.perplexity(data), bits=2.5, original=model, evaluations=12)
print(average_bits(family, best), average_bits(family, best, stored=True))
mn.export(family.extract(best), "small.safetensors", data[0][:2])
""",
)
