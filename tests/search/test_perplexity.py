"""Perplexity against the plain formula, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import manynet as mn
from manynet.errors import InputError


class Guess(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 11)

    def forward(self, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": self.table(tokens)}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_token_counts_the_same_whatever_the_batch(batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 11, (7, 5), generator=generator)
    targets = torch.randint(0, 11, (7, 5), generator=generator)
    targets[2, 1:] = -100
    model = Guess()
    loss = functional.cross_entropy(model.table(tokens).flatten(0, 1), targets.flatten())
    found = mn.perplexity((tokens, targets), batch_size=batch_size)(model)
    assert found == pytest.approx(math.exp(float(loss.detach())), rel=1e-5)


def test_less_is_better_and_the_data_is_part_of_its_fingerprint() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    metric = mn.perplexity((tokens, tokens))
    assert not metric.higher_is_better
    assert metric.fingerprint != mn.perplexity((tokens + 1, tokens)).fingerprint


def test_nothing_to_guess_or_logits_that_do_not_fit() -> None:
    tokens = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(InputError, match="no token to guess"):
        mn.perplexity((tokens, torch.full_like(tokens, -100)))(Guess())
    with pytest.raises(InputError, match=r"perplexity needs logits"):
        mn.perplexity((torch.zeros(2, 4), tokens))(nn.Linear(4, 3))
