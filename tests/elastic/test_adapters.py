"""Adapters: what a module's attributes follow where watching cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manynet.bindings.axes import length
from manynet.elastic import adapters
from manynet.elastic._trace import Attribute, Trace, trace_model
from manynet.elastic.adapters import Site, adapter, adapter_of

Verify = Callable[..., Trace]


class Scaled(nn.Linear):
    """A layer of a user's own whose width is told by a number that nothing sizes."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.width = width


@pytest.fixture
def own_adapter() -> Iterator[None]:
    @adapter(Scaled, attributes=("width", "in_features", "out_features"))
    def follow(module: Scaled, site: Site) -> dict[str, Any]:
        rows, columns = site.dim("weight", 0), site.dim("weight", 1)
        return {"width": columns, "in_features": columns, "out_features": rows}

    yield
    del adapters.ADAPTERS[Scaled]


@pytest.mark.usefixtures("own_adapter")
def test_a_user_adds_an_adapter(verify: Verify) -> None:
    trace = verify(nn.Sequential(nn.Linear(3, 6), Scaled(6, 2)), (torch.randn(2, 3),))
    assert trace.attributes[Attribute("1", "width")] == (trace.axes[0],)


def test_without_it_the_number_follows_nothing() -> None:
    trace = trace_model(nn.Sequential(nn.Linear(3, 6), Scaled(6, 2)), (torch.randn(2, 3),))
    assert Attribute("1", "width") not in trace.attributes
    assert trace.attributes[Attribute("1", "in_features")] == (trace.axes[0],)


def test_a_subclass_has_the_adapter_of_its_base() -> None:
    assert adapter_of(Scaled(3, 2)) is adapters.ADAPTERS[nn.Linear]
    assert adapter_of(nn.ReLU()) is None


def test_a_site_ties_freezes_and_splits() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(6))
            self.whole = nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return x + (self.weight.sum() + self.other.sum() + self.whole.sum())

    @adapter(Odd, attributes=())
    def follow(module: Odd, site: Site) -> dict[str, Any]:
        site.tie(site.dim("weight", 0), site.dim("other", 0))
        site.freeze(site.dim("whole", 0), "the adapter says so")
        assert site.dim("missing", 0) is None
        outer, inner = site.split(site.dim("weight", 0), 2) or ((), ())
        assert [outer[0].size, inner[0].size] == [2, 3]
        return {}

    try:
        trace = trace_model(Odd(), (torch.randn(2, 3),))
    finally:
        del adapters.ADAPTERS[Odd]
    assert trace.tensors["weight"] == trace.tensors["other"]
    assert ("whole", 0, "the adapter says so") in trace.frozen


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_recurrent_cells(verify: Verify, cell: type[nn.RNNCellBase]) -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.cell, self.b = nn.Linear(3, 5), cell(5, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            state = self.cell(self.a(x))
            state = self.cell(self.a(x), state)
            return self.b(state[0] if isinstance(state, tuple) else state)

    trace = verify(Loop(), (torch.randn(2, 3),))
    assert {axis.size for axis in trace.axes} == {5, 6}
    assert length(trace.attributes[Attribute("cell", "hidden_size")]) == 6


def test_a_parametric_relu_follows_its_channels(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.PReLU(6), nn.Conv2d(6, 2, 1))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert trace.attributes[Attribute("1", "num_parameters")] == (trace.axes[0],)
