"""Estimators: from logits to shares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manynet.errors import InputError
from manynet.train import Dirichlet, GumbelOneHot, Softmax, Sparsemax, UniformOneHot
from manynet.train.estimators import Estimator, sparsemax

LOGITS = torch.tensor([0.3, -0.8, 1.1, 0.0], dtype=torch.float64)


@pytest.mark.parametrize(
    "estimator", [Softmax(), Sparsemax(), Dirichlet(), GumbelOneHot(), UniformOneHot()]
)
def test_shares_lie_on_the_simplex(estimator: Estimator) -> None:
    torch.manual_seed(0)
    for progress in (0.0, 0.5, 1.0):
        shares = estimator(LOGITS, progress)
        assert shares.shape == LOGITS.shape and shares.dtype == LOGITS.dtype
        assert float(shares.min()) >= 0
        assert float(shares.sum()) == pytest.approx(1)


def test_gumbel_draws_are_one_hot_with_the_soft_gradient() -> None:
    toward = torch.randn(4, dtype=torch.float64)
    for seed in range(20):
        hard_logits, soft_logits = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
        torch.manual_seed(seed)
        shares = GumbelOneHot(4.0, 0.5)(hard_logits, 0.5)
        assert sorted(shares.detach().round(decimals=12).tolist()) == [0, 0, 0, 1]
        torch.manual_seed(seed)
        noise = -(-torch.rand(4, dtype=torch.float64).log()).log()
        soft = ((soft_logits.log_softmax(0) + noise) / 2.25).softmax(0)
        assert int(shares.argmax()) == int(soft.argmax())
        found = torch.autograd.grad(shares, hard_logits, toward)[0]
        wanted = torch.autograd.grad(soft, soft_logits, toward)[0]
        torch.testing.assert_close(found, wanted)


def test_single_precision_draws_are_exactly_one_hot() -> None:
    for seed in range(200):
        torch.manual_seed(seed)
        shares = GumbelOneHot()(torch.randn(5, requires_grad=True), seed / 200)
        assert sorted(shares.tolist()) == [0, 0, 0, 0, 1]


def test_the_temperature_falls_in_a_straight_line() -> None:
    with pytest.raises(InputError, match="temperatures are above 0"):
        GumbelOneHot(end=0.0)


def test_dirichlet_draws_have_the_mean_of_their_concentrations() -> None:
    torch.manual_seed(0)
    draws = torch.stack([Dirichlet()(LOGITS, 0.0) for _ in range(4000)])
    concentration = functional.elu(LOGITS) + 1
    torch.testing.assert_close(
        draws.mean(0), concentration / concentration.sum(), rtol=0.05, atol=0.01
    )
    logits = LOGITS.clone().requires_grad_()
    Dirichlet()(logits, 0.0)[2].backward()
    assert logits.grad is not None and float(logits.grad[2]) > 0


def closest(logits: Tensor) -> Tensor:
    """Return the closest point of the simplex by bisection of the threshold."""
    low, high = float(logits.min()) - 1, float(logits.max())
    for _ in range(60):
        middle = (low + high) / 2
        more = float((logits - middle).clamp_min(0).sum()) > 1
        low, high = (middle, high) if more else (low, middle)
    return (logits - high).clamp_min(0)


def test_sparsemax_is_the_closest_point_of_the_simplex() -> None:
    for seed in range(20):
        logits = torch.randn(6, generator=torch.Generator().manual_seed(seed)).double()
        torch.testing.assert_close(sparsemax(logits), closest(logits))
    logits = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(sparsemax, (logits,))


def test_uniform_draws_learn_nothing_and_favor_none() -> None:
    torch.manual_seed(0)
    draws = torch.stack([UniformOneHot()(LOGITS.clone().requires_grad_(), 0) for _ in range(2000)])
    assert not draws.requires_grad
    torch.testing.assert_close(draws.mean(0), torch.full_like(LOGITS, 0.25), atol=0.04, rtol=0)
