"""Penalties of the weights themselves, and steps in which each member teaches the next."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import manynet as mn
from manynet.bindings.recipes import quantized
from manynet.errors import InputError
from manynet.space import Choice, Space
from manynet.train import Distill, Staircase, Task, UniformWeights, accumulate, moments

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
BATCH = (X, X[:, :3].argmax(1))


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    return mn.bind(net, nn.Linear, quantized((2, 4, 8), learned=True), example_inputs=(X,))


def test_moments_of_known_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    kurtosis, skewness = moments(torch.rand(200_000, generator=generator) * 3 - 1)
    assert float(kurtosis) == pytest.approx(1.8, abs=0.02)
    assert float(skewness) == pytest.approx(0, abs=0.02)
    kurtosis, skewness = moments(torch.randn(200_000, generator=generator))
    assert float((kurtosis - 1.8) ** 2) == pytest.approx(1.44, abs=0.1)
    assert float(skewness) == pytest.approx(0, abs=0.02)
    lean = torch.rand(200_000, generator=generator).square()
    assert float(moments(lean)[1]) > 0.5


def test_the_penalty_is_the_mean_over_the_quantized_weights(family: mn.Family) -> None:
    weights = [p for name, p in family.named_parameters() if name.endswith(".weight")]
    expected = 0.0
    for weight in weights:
        kurtosis, skewness = moments(weight)
        expected += (0.3 * (kurtosis - 1.8) ** 2 + 0.2 * skewness**2) / len(weights)
    found = UniformWeights(kurtosis=0.3, skewness=0.2)(family)
    assert torch.allclose(found, torch.as_tensor(expected))
    assert not torch.equal(UniformWeights(1.0, 0.0)(family), UniformWeights(0.0, 1.0)(family))


def test_the_penalty_spreads_weights_evenly(family: mn.Family) -> None:
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            if name.endswith(".weight"):
                parameter.copy_(torch.randn_like(parameter).pow(3) + 0.5)
    before = float(UniformWeights(1.0, 1.0)(family).detach())
    options = {"steps": 60, "learning_rate": 0.05, "batch_size": 32, "objective": Task()}
    mn.train(family, BATCH, penalty=UniformWeights(1.0, 1.0), **options)
    assert float(UniformWeights(1.0, 1.0)(family).detach()) < 0.2 * before


def test_the_penalty_is_added_once_however_many_members(family: mn.Family) -> None:
    penalty = UniformWeights(1.0, 1.0)
    archs = [family.space.largest, family.space.smallest]
    grads = []
    for used in (None, penalty):
        family.zero_grad()
        accumulate(family, BATCH, archs, Task(), penalty=used)
        grads.append(
            {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
        )
    family.zero_grad()
    penalty(family).backward()
    for name, parameter in family.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(grads[1][name] - grads[0][name], parameter.grad, atol=1e-6), name


def test_a_family_without_rounding_has_nothing_to_spread() -> None:
    plain = mn.elastic(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)), X, width=(0.5, 1.0))
    with pytest.raises(InputError, match="quantizes no weight"):
        UniformWeights()(plain)


def test_in_a_chain_each_member_learns_from_the_one_before(family: mn.Family) -> None:
    rng = np.random.default_rng(0)
    archs = Staircase(2, rank="*bits").archs(family.space, rng)
    family.zero_grad()
    accumulate(family, BATCH, archs, Distill(labels=0.5, chained=True))
    together = {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
    family.zero_grad()
    before = None
    for arch in archs:
        logits = family.at(arch)(X)
        loss = functional.cross_entropy(logits, BATCH[1])
        if before is not None:
            soft = functional.cross_entropy(logits, before.softmax(1))  # the paper's own words
            loss = 0.5 * loss + 0.5 * soft
        loss.backward()
        before = logits.detach()
    for name, parameter in family.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(together[name], parameter.grad, atol=1e-6), name


def test_the_largest_learns_the_same_whoever_follows(family: mn.Family) -> None:
    largest, objective = family.space.largest, Distill(labels=0.5, chained=True)
    grads = []
    for count in (0, 2, 5):
        seen: list[torch.Tensor] = []
        copied = copy.deepcopy(family.extract(largest))
        archs = Staircase(count).archs(family.space, np.random.default_rng(0))
        assert archs[0] == largest
        first = accumulate(family, BATCH, archs, objective)[0]
        objective(copied(X), BATCH, None, True).backward()
        seen = [p.grad for p in copied.parameters() if p.grad is not None]
        grads.append((first, seen))
        family.zero_grad()
    for first, seen in grads[1:]:
        assert torch.equal(first, grads[0][0])
        assert all(torch.equal(a, b) for a, b in zip(seen, grads[0][1], strict=True))


def test_a_staircase_goes_down() -> None:
    choices = [Choice(f"{n}.bits", (2, 3, 4, 6, 8)) for n in range(6)]
    space = Space((*choices, Choice("0.per", ("tensor", "channel"))))
    for seed in range(5):
        archs = Staircase(4, rank="*.bits").archs(space, np.random.default_rng(seed))
        ranks = [sum(choices[0].place(arch[c.name]) for c in choices) for arch in archs]
        assert ranks == sorted(ranks, reverse=True)
        assert (archs[0], archs[-1]) == (space.largest, space.smallest)
    with pytest.raises(InputError, match="matches no choice"):
        Staircase(1, rank="*.width").archs(space, np.random.default_rng(0))
    with pytest.raises(InputError, match="cannot be negative"):
        Staircase(-1)
