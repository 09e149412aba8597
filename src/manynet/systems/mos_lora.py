"""MoS: low-rank adapters whose matrices all layers put together from one pool of shards.

Plain sharing of adapters between layers hurts, because it makes the layers equal. MoS makes them
differ again at no cost in trained numbers: each layer draws its own subset of the pool, for `A` and
for `B` apart, in pieces of vectors rather than whole ones, and a part of the pool is its alone. So
with as many trained numbers as adapters of rank `budget`, each layer has the rank that one likes.

The draw is made once and saved beside the pools; the adapter is a method of `peft`, so everything
that works on a `peft` model works on it, and `as_lora` writes it as a plain adapter.

Where this differs from the reference code, or where that is not known: the pools start once, not
anew in each layer's constructor; they are sized for the layers that are adapted unless `layers`
says otherwise (the reference counts all layers); the "random scaling" of the paper's first table,
which the released code switches off, is left out. The rank, pieces, private share and learning
rates of the paper's tables are arguments of its scripts and are not confirmed. The headline figures
are those quoted in public reviews of the paper, and not confirmed either.

The proof: all-MiniLM-L6 (BERT) with frozen weights on SST-2, mean pooling and a linear head that
learns in every arm, alpha 16 in every arm as in the scripts. The rank is 7: with six layers, budget
2 and one private rank there are no more than six public ones. Each arm's learning rate is the
better of two on held-out training sentences, chosen for each seed. What the budget thins is the
number of steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from manynet.models.language import library
from manynet.systems._condition import Condition
from manynet.systems._mos_lora_proof import prove_with
from manynet.systems._system import System

__all__ = ["SYSTEM", "add_mos", "trained_numbers"]


def add_mos(
    model: nn.Module,
    targets: Sequence[str] | str,
    *,
    rank: int = 8,
    budget: int = 2,
    private: int = 1,
    pieces: int = 4,
    alpha: float = 16.0,
    **options: Any,
) -> Any:
    """Put adapters from pools of shards into a model, in place, and freeze the rest.

    Args:
        model: any module with linear layers.
        targets: which of them, as `target_modules` of `peft.LoraConfig`.
        rank: of each layer's adapter.
        budget: as many numbers are trained as plain adapters of this rank have.
        private: ranks of each layer that no other layer reads.
        pieces: shards that a vector is glued from.
        alpha: the adapter's output is multiplied by `alpha / rank`.
        **options: further fields of `manynet.models.shard_lora.ShardLoraConfig`, such as `dropout`,
            `seed`, or `dissociate=False` (with `private=0, pieces=1`: pure sharing).

    Returns:
        A `PeftModel` around the model.

    Raises:
        InputError: numbers that do not fit together or to the model.
        MissingExtraError: `peft` is not installed.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
        >>> model = add_mos(network, ["0", "1", "2", "3"], rank=4, budget=1, private=0, pieces=2)
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)
        64
    """
    peft = library("peft")
    from manynet.models.shard_lora import ShardLoraConfig

    config = ShardLoraConfig(
        r=rank,
        budget=budget,
        private=private,
        pieces=pieces,
        alpha=alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
        **options,
    )
    return peft.get_peft_model(model, config)


def trained_numbers(sizes: Iterable[tuple[int, int]], *, layers: int, budget: int) -> int:
    """Return how many numbers are trained for projections of `(inputs, outputs)` in each layer.

    Example:
        >>> trained_numbers([(8, 8)], layers=4, budget=1)
        64
    """
    return budget * layers * sum(inputs + outputs for inputs, outputs in sizes)


SYSTEM = System(
    number=36,
    year=2025,
    reference="ICLR 2025, arXiv 2410.00938",
    claim="At 5.00 M trained numbers, MoS on LLaMA-2-7B reaches 36.39 on the average of five "
    "benchmarks, plain LoRA 34.98; at 19.99 M it reaches 37.63, LoRA of 159.91 M 37.53.",
    parts=(
        "shards of a pool, for each projection",
        "indices drawn once, for A and B apart",
        "private shards",
        "a method of peft",
        "materialised to plain LoRA, or merged",
    ),
    metric="accuracy on the SST-2 dev set, in percent",
    higher_is_better=True,
    margin=-0.3,
    ours="mos",
    baseline="lora 2",
    prove=lambda proof: prove_with(proof, add_mos),
    share=0.125,
    conditions=(
        Condition("mos", "lora 2", -0.01, "dev loss", higher_is_better=False),
        Condition("mos", "lora 8", -0.5),
        Condition("mos", "pure sharing"),
        Condition("mos", 7, 0.0, "smallest rank of a layer's product"),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.models import merge_adapters
from manynet.models.shard_lora import as_lora
from manynet.systems.mos_lora import add_mos

torch.manual_seed(0)
data = mn.load_data("digits")
network = torch.nn.Sequential(
    torch.nn.Flatten(),
    torch.nn.Linear(64, 64),
    *[torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU()) for _ in range(4)],
    torch.nn.Linear(64, 10),
)
model = add_mos(network, ["2.0", "3.0", "4.0", "5.0"], rank=5)  # the four inner layers
images, labels = next(iter(torch.utils.data.DataLoader(data.train, batch_size=512)))
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
for _ in range(30):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
print(model.get_nb_trainable_parameters())
model = as_lora(model)  # a plain adapter, which any tool of peft reads
merged = merge_adapters(model.get_base_model())
""",
)
