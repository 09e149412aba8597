"""The arms of the proof of MoS: a small BERT with adapters, on sentences of SST-2."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from manynet.data import Data, LabeledTexts, load_data, local_data
from manynet.family import Family
from manynet.models import language_model, tokenizer_of
from manynet.models.language import library
from manynet.models.packaged import minilm_folder
from manynet.search import accuracy, loss
from manynet.systems._proof import Figures, Proof
from manynet.train import Task, Uniform, train

__all__ = ["prove_with"]

STEPS, BATCH, LENGTH, SENTENCES, ALPHA = 80, 32, 40, 1_500, 16.0
TARGETS = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
RATES, HELD_OUT = (5e-4, 2e-3), 400
"""Learning rates, and training sentences that are kept to choose between them."""
Adapt = Callable[[nn.Module], Any]


class MeanPooled(nn.Module):
    """A classifier of texts: the encoder's mean over the tokens that are there, and a linear head.

    Shapes: tokens and mask `(B, T)`, logits `(B, K)`.
    """

    def __init__(self, encoder: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the logits."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        there = attention_mask[..., None].to(hidden.last_hidden_state.dtype)
        pooled = (hidden.last_hidden_state * there).sum(1) / there.sum(1)
        logits: Tensor = self.head(pooled)
        return logits


def prove_with(proof: Proof, add_mos: Callable[..., Any]) -> None:
    """Compare with plain adapters of as many numbers, with pure sharing, and with four times.

    Args:
        proof: runs the arms.
        add_mos: the method.
    """
    pure = {"rank": 12, "private": 0, "pieces": 1, "dissociate": False}
    arms: dict[str, Adapt] = {
        "mos": partial(add_mos, targets=TARGETS, rank=7),  # the most: 6 public ones and 1 private
        "pure sharing": partial(add_mos, targets=TARGETS, **pure),
        "lora 2": partial(_plain, rank=2),
        "lora 8": partial(_plain, rank=8),
    }
    for arm, adapt in arms.items():
        proof.run(arm, partial(_arm, proof, adapt))


def _plain(model: nn.Module, rank: int) -> Any:
    peft = library("peft")
    config = peft.LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=list(TARGETS))
    return peft.get_peft_model(model, config)


def _arm(proof: Proof, adapt: Adapt, seed: int) -> Figures:
    data, held_out = _data(seed)
    steps, judge = proof.share(STEPS), loss(cast("Any", held_out))
    tried = {rate: _trained(data, seed, adapt, steps, rate) for rate in RATES}
    rate = min(RATES, key=lambda rate: float(judge(tried[rate])))
    model, dev = tried[rate], cast("Any", data.val)
    adapted: Any = [m for m in model.modules() if hasattr(m, "get_delta_weight")]
    ranks = [torch.linalg.matrix_rank(layer.get_delta_weight("default")) for layer in adapted]
    more = {
        "dev loss": float(loss(dev)(model)),
        "learning rate": rate,
        "smallest rank of a layer's product": float(min(ranks)),
        "largest rank of a layer's product": float(max(ranks)),
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return Figures(100 * float(accuracy(dev)(model)), steps * BATCH, trained, more)


def _trained(data: Data, seed: int, adapt: Adapt, steps: int, rate: float) -> nn.Module:
    torch.manual_seed(seed)
    encoder: Any = language_model(str(minilm_folder()), task="base")
    model = MeanPooled(adapt(encoder), encoder.config.hidden_size, 2)
    family = Family(model).train()
    train(
        family,
        _part(data.train, slice(SENTENCES)),
        steps=steps,
        sampler=Uniform(),
        objective=Task(),
        optimizer="adamw",
        learning_rate=rate,
        weight_decay=0.0,
        schedule="linear",
        warmup=0.03,
        clip=0.3,
        batch_size=BATCH,
        seed=seed,
    )
    return family.eval().extract({})


def _data(seed: int) -> tuple[Data, LabeledTexts]:
    """Return SST-2, whose dev set is `val`, and training sentences that nothing learns from."""
    files = local_data("text/sst2-train.tsv").parent / "sst2-*.tsv"
    data = load_data(
        f"text:{files}",
        tokenizer=tokenizer_of(str(minilm_folder())),
        length=LENGTH,
        limit=SENTENCES + HELD_OUT,
        seed=seed,
    )
    return data, _part(data.train, slice(SENTENCES, None))


def _part(texts: Any, rows: slice) -> LabeledTexts:
    return LabeledTexts(texts.tokens[rows], texts.lengths[rows], texts.targets[rows])
