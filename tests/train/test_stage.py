"""Trainings that go by stages: what moves, what stays, and which epoch is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError
from manynet.train import Best, only, train_stage

DATA = (torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2)


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    return mn.elastic(model, (DATA[0],), width=(0.5, 1.0))


def copy_of(family: mn.Family) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in family.state_dict().items()}


def test_only_the_named_parameters_move(family: mn.Family) -> None:
    before = copy_of(family)
    scores = iter((0.1, 0.2, 0.3))
    values = train_stage(
        family, DATA, arch={}, names=["3.weight"], epochs=2, judge=lambda member: next(scores)
    )
    assert values == (0.1, 0.2, 0.3)
    for name, parameter in family.named_parameters():
        assert torch.equal(parameter, before[name]) == (name != "3.weight"), name
        assert parameter.requires_grad


def test_the_stage_ends_at_its_best_epoch_and_may_end_where_it_began(family: mn.Family) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def judge(member: nn.Module) -> float:
        seen.append(copy_of(family))
        return (0.2, 0.9, 0.9, 0.1)[len(seen) - 1]

    names = [name for name, _ in family.named_parameters()]
    train_stage(family, DATA, arch={}, names=names, epochs=3, judge=judge)
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, seen[1][name]), name
    assert not torch.equal(seen[1]["0.weight"], seen[2]["0.weight"])
    before, falling = copy_of(family), iter((0.5, 0.4, 0.3))
    train_stage(family, DATA, arch={}, names=names, epochs=2, judge=lambda member: next(falling))
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_the_best_can_be_the_least(family: mn.Family) -> None:
    values = iter((3.0, 1.0, 2.0))
    best = Best(family.space.largest, lambda member: next(values), higher_is_better=False)
    for _ in range(3):
        best(family)
    assert (best.value, best.values) == (1.0, [3.0, 1.0, 2.0])


def test_what_is_frozen_comes_back_after_a_failure(family: mn.Family) -> None:
    with pytest.raises(RuntimeError), only(family, ["3.bias"]):
        assert [n for n, p in family.named_parameters() if p.requires_grad] == ["3.bias"]
        raise RuntimeError
    assert all(parameter.requires_grad for parameter in family.parameters())


def test_a_member_gets_no_gradient_of_what_is_frozen(family: mn.Family) -> None:
    smallest = family.space.smallest
    with only(family, ["3.weight"]):
        family.at(smallest)(DATA[0]).sum().backward()
        assert [n for n, p in family.named_parameters() if p.grad is not None] == ["3.weight"]
    family.at(smallest)(DATA[0]).sum().backward()
    assert all(parameter.grad is not None for parameter in family.parameters())


def test_bad_stages_are_refused(family: mn.Family) -> None:
    with pytest.raises(InputError, match="has no parameter"), only(family, ["4.weight"]):
        pass
    with pytest.raises(InputError, match="sets 'sampler' itself"):
        train_stage(
            family,
            DATA,
            arch={},
            names=[],
            epochs=1,
            judge=len,
            sampler=mn.Uniform(),  # type: ignore[arg-type]
        )
    with pytest.raises(InputError, match="at least one arch"):
        mn.Fixed()
