"""What keeps earlier tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

import manynet as mn
from manynet.errors import InputError
from manynet.family import Blueprint, Family
from manynet.space import Space
from manynet.train import ElasticWeights, OutputRegulariser, Task

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def family_of_one() -> Family:
    torch.manual_seed(0)
    return Family(
        nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), Space(()), Blueprint({})
    )


def test_springs_are_the_squared_gradients_of_each_sample() -> None:
    family = family_of_one()
    objective = ElasticWeights(family, strength=2.0)
    objective.hold({}, X, Y)
    wanted = {name: torch.zeros_like(p) for name, p in family.named_parameters()}
    for x, y in zip(X, Y, strict=True):
        family.zero_grad()
        functional.cross_entropy(family.at({})(x[None]), y[None]).backward()
        for name, parameter in family.named_parameters():
            assert parameter.grad is not None
            wanted[name] += parameter.grad.square() / len(X)
    family.zero_grad()
    _, fisher = objective.springs[0]
    for name, spring in fisher.items():
        torch.testing.assert_close(spring, wanted[name], rtol=1e-4, atol=1e-7)


def test_springs_pull_back_in_proportion() -> None:
    family = family_of_one()
    objective = ElasticWeights(family, strength=3.0, objective=Task(lambda a, b: 0 * a.sum()))
    objective.springs.append(
        (
            {n: p.detach().clone() for n, p in family.named_parameters()},
            {n: torch.full_like(p, 2.0) for n, p in family.named_parameters()},
        )
    )
    with torch.no_grad():
        family.state_dict()["0.bias"].add_(0.5)
    objective(family.at({})(X), ((X,), Y), None, False).backward()
    moved = family.state_dict()["0.bias"].grad
    assert moved is not None
    torch.testing.assert_close(moved, torch.full((5,), 3.0 * 2.0 * 0.5))
    other = family.state_dict()["2.bias"].grad
    assert other is not None and not other.any()


def test_families_whose_weights_are_computed_have_no_springs() -> None:
    from manynet.bindings.recipes import generated

    family = mn.bind(nn.Linear(4, 3), "weight", generated())
    with pytest.raises(InputError, match="read their weights as they are"):
        ElasticWeights(family, strength=1.0).hold({}, X, Y)


@pytest.mark.parametrize("options", [{"beta": -1.0}, {"drawn": 0}])
def test_numbers_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="0 or more"):
        OutputRegulariser(family_of_one(), **options)  # type: ignore[arg-type]
