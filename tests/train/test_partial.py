"""Training a part of the shared weights."""

from __future__ import annotations

import pytest
import torch
from families import mlp_family

from manynet.errors import InputError
from manynet.train import Task, train, training_only

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
DATA = (X, X[:, :3].argmax(1))


def test_only_what_is_chosen_moves_and_all_is_free_again() -> None:
    family = mlp_family()
    first = next(iter(family.named_parameters()))[0]
    dict(family.named_parameters())[first].requires_grad_(False)
    before = {name: p.detach().clone() for name, p in family.named_parameters()}
    with training_only(family, lambda name, tensor: tensor.dim() == 1) as chosen:
        train(chosen, DATA, steps=3, batch_size=16, objective=Task())
    for name, parameter in family.named_parameters():
        assert torch.equal(parameter, before[name]) != (parameter.dim() == 1), name
        assert parameter.requires_grad == (name != first)
    train(family, DATA, steps=1, batch_size=16, objective=Task())
    moved = {n for n, p in family.named_parameters() if not torch.equal(p, before[n])}
    assert moved == before.keys() - {first}


def test_something_must_be_chosen() -> None:
    family = mlp_family()
    with (
        pytest.raises(InputError, match="none of the family's 6 trainable parameters is chosen"),
        training_only(family, lambda name, tensor: False),
    ):
        pass
    assert all(parameter.requires_grad for parameter in family.parameters())
