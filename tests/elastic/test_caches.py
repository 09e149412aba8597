"""Dictionaries in which forward passes cache tensors: no member may keep stale ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import manynet
from manynet.elastic._trace import Trace, trace_model

Verify = Callable[..., Trace]


class Cached(nn.Module):
    """Keeps a table computed from its weight for every later call in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(8) + 0.5)
        self.tables: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        key = str(x.device)
        if self.training:
            return self.last(self.first(x) * self.scale.exp())
        if key not in self.tables:
            self.tables[key] = self.scale.exp()
        return self.last(self.first(x) * self.tables[key])


class Constant(nn.Module):
    """Holds a dictionary of tensors that nobody fills again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.tables = {"shift": torch.tensor(2.0)}

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.tables["shift"].to(x.device))


@pytest.mark.parametrize("grad", [False, True])
def test_a_model_that_ran_hands_no_cache_to_its_members(grad: bool) -> None:
    model, x = Cached().eval(), torch.randn(4, 3)
    with torch.set_grad_enabled(grad):
        whole = model(x)
    family = manynet.elastic(model, x, width=(0.5, 1.0))
    assert model.tables
    assert torch.allclose(family.at(family.space.largest)(x), whole, atol=1e-6)
    assert family.at(family.space.smallest)(x).shape == (4, 2)
    assert trace_model(model, (x,)).caches == (("", "tables"),)


def test_permuted_axes_change_nothing_though_the_model_ran(verify: Verify) -> None:
    trace = verify(Cached(), (torch.randn(4, 3),))
    assert trace.caches == (("", "tables"),)


@torch.no_grad()
@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_a_member_forgets_its_cache_when_the_weights_change(which: str) -> None:
    x = torch.randn(4, 3)
    family = manynet.elastic(Cached().eval(), x, width=(0.5, 1.0))
    arch = getattr(family.space, which)
    member = family.at(arch)
    before = member(x)
    family.shared.scale.add_(1.0)
    assert not torch.allclose(member(x), before)
    assert torch.allclose(member(x), family.extract(arch)(x), atol=1e-6)
    assert pickle.loads(pickle.dumps(copy.deepcopy(member))) is not None


def test_a_dictionary_that_nobody_fills_again_is_kept() -> None:
    model, x = Constant().eval(), torch.randn(4, 3)
    family = manynet.elastic(model, x, width=(0.5, 1.0))
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-6)
    assert family.extract(family.space.smallest).tables == model.tables
    assert trace_model(model, (x,)).caches == ()
