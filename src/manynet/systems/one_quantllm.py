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

from typing import Any

from torch import nn

from manynet.family import Family
from manynet.fit import average_bits, bit_sizes, weight_rises
from manynet.search import Repaired, lower, search
from manynet.space import Arch
from manynet.systems._condition import Condition
from manynet.systems._one_quantllm_proof import prove_with
from manynet.systems._system import System
from manynet.train import BitSchedule, Sampler, Task, TrainingLog, token_loss, train

__all__ = ["SYSTEM", "search_bits", "train_bits"]

BATCH, CYCLES, EVALUATIONS = 2, 4, 60
RATE = 1e-2
"""Of 0.001 and 0.01, the better on validation text, with a seed and a member of no proof."""


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
    prove=lambda proof: prove_with(proof, train_bits, search_bits),
    share=0.2,
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
