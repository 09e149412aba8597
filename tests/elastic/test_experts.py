"""The number of experts of a layer: an axis where they can change places, else whole."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet import elastic
from manynet.elastic._trace import trace_model
from manynet.elastic._tried import tried

EXPERTS, PICKED, WIDTH = 8, 2, 6


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.num_experts = EXPERTS
        self.up = nn.Parameter(torch.randn(EXPERTS, 10, WIDTH))
        self.down = nn.Parameter(torch.randn(EXPERTS, WIDTH, 10))

    def forward(self, x: Tensor, numbers: Tensor, shares: Tensor) -> Tensor:
        result = torch.zeros_like(x)
        mask = functional.one_hot(numbers, self.num_experts).permute(2, 1, 0)
        for number in mask.sum((1, 2)).gt(0).nonzero()[:, 0]:
            place, token = torch.where(mask[number])
            y = functional.linear(
                functional.linear(x[token], self.up[number]).relu(), self.down[number]
            )
            result.index_add_(0, token, y * shares[token, place, None])
        return result


class Layer(nn.Module):
    """A router that sends each token to two experts, as in Mixtral."""

    def __init__(self, *, in_order: bool = False) -> None:
        super().__init__()
        self.top_k = PICKED
        self.router = nn.Linear(WIDTH, EXPERTS)
        self.experts = Experts()
        self.in_order = in_order

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, WIDTH)
        scores = self.router(flat).softmax(-1)
        shares, numbers = torch.topk(scores, self.top_k, dim=-1)
        if self.in_order:
            shares = shares * (1 + numbers % 2)  # those of odd numbers count twice
        return self.experts(flat, numbers, shares).view_as(x)


def network(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, WIDTH), Layer(**options), nn.Linear(WIDTH, 3)).eval()


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1))


def test_members_have_fewer_experts_and_a_router_that_knows() -> None:
    model = network()
    family = elastic(model, X)
    choice = next(c for c in family.space.choices if "expert" in c.name)
    assert choice.name == "1.experts.num_experts"
    assert choice.values == (2, 4, 6, 8)
    with torch.no_grad():
        assert torch.allclose(family.at(family.space.largest)(X), model(X), atol=1e-5)
    small = family.extract({choice.name: 4})
    assert small[1].experts.num_experts == 4
    assert small[1].router.out_features == 4
    assert small[1].experts.up.shape == (4, 10, WIDTH)
    assert small[1].router.bias.shape == (4,)
    assert torch.equal(small(X), family.at({choice.name: 4})(X))


def test_a_token_always_finds_as_many_experts_as_it_goes_to() -> None:
    family = elastic(network(), X, width=(0.125, 0.5, 1.0))
    choice = next(c for c in family.space.choices if "expert" in c.name)
    assert choice.values == (4, 8)
    assert family.at(family.space.smallest)(X).shape == (2, 5, 3)


def test_the_strongest_experts_stay() -> None:
    model = network()
    with torch.no_grad():
        model[1].experts.up[5] *= 100
    family = elastic(model, X)
    small = family.extract({"1.experts.num_experts": 2})
    whole = model[1].experts.up.norm(dim=(1, 2))
    assert small[1].experts.up.norm(dim=(1, 2)).max() > 0.9 * whole.max()


def test_gradients_reach_the_experts_that_a_member_has_and_no_others() -> None:
    family = elastic(network(), X, importance=None).train()
    family.at({"1.experts.num_experts": 4})(X).square().mean().backward()
    grad = dict(family.named_parameters())["1.experts.up"].grad
    assert grad[:4].abs().sum() > 0
    assert not grad[4:].any()


@pytest.mark.parametrize("inplace", [False, True])
def test_experts_whose_places_matter_stay_whole_and_are_named(inplace: bool) -> None:
    model = network(in_order=True)
    before = copy.deepcopy(model)
    trace = trace_model(model, (X,))
    assert [axis.size for axis in trace.experts] == [EXPERTS]
    left = tried(model, (X,), trace, inplace=inplace)
    assert left.experts == ()
    assert EXPERTS not in {axis.size for axis in left.axes}
    with torch.no_grad():
        assert torch.equal(before(X), model(X))
    report = elastic(model, X, inplace=inplace).report()
    assert "the outputs change when experts change places" in {note.name for note in report.fixed}


def test_weights_without_values_keep_their_experts() -> None:
    with torch.device("meta"):
        model = network()
    trace = trace_model(network(), (X,))
    assert [axis.size for axis in trace.experts] == [EXPERTS]
    left = tried(model, (X,), trace)
    assert left.experts == ()
    assert {note.reason for note in left.frozen} > {
        "a model without values shows nothing of its experts"
    }


def test_experts_put_in_order_in_place_compute_the_same() -> None:
    model = network()
    with torch.no_grad():
        expected = model(X)
    family = elastic(model, X, inplace=True)
    with torch.no_grad():
        assert torch.allclose(family.at(family.space.largest)(X), expected, atol=1e-5)
