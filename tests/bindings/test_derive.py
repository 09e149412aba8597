"""Values that several tensors read: computed once, and gradients that go on through them."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

import manynet
from manynet.bindings import Binding
from manynet.bindings.derive import Block, derived
from manynet.bindings.hyper import hypernetwork
from manynet.bindings.site import Group
from manynet.errors import InputError
from manynet.family import Family

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def generated() -> Family:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    return manynet.bind(model, "*", hypernetwork(hidden=(10,)), together=True)


def halves(group: Group) -> list[Binding]:
    pool = group.parameter("pool", torch.randn(60))
    return [
        site.reads(Block(pool, 20 * number, tuple(site.tensor.shape)))
        for number, site in enumerate(group.sites)
    ]


def test_blocks_move_their_own_entries_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    family = manynet.bind(model, "*.weight", halves)
    pool = family.state_dict()["0.weight.shared_pool"]
    before = pool.detach().clone()
    assert torch.equal(family.at({})[1].weight, before[20:36].view(4, 4))
    optimizer = torch.optim.SGD(family.parameters(), 0.1, weight_decay=0.1)
    family.guard(optimizer)
    family.at({})[1](torch.randn(3, 4)).sum().backward()
    optimizer.step()
    moved = (pool != before).nonzero().flatten()
    assert moved.tolist() == list(range(20, 36))


def test_a_block_beyond_the_end_is_refused() -> None:
    with pytest.raises(InputError, match="entries 50 to 66 are read of 60"):
        manynet.bind(
            nn.Linear(4, 4),
            "weight",
            lambda group: [Block(group.parameter("pool", torch.zeros(60)), 50, (4, 4))],
        )


def test_only_what_several_read_is_derived() -> None:
    family = generated()
    values, changed = derived(family.blueprint.bindings)
    assert list(values) == ["derived.0"]
    assert all(binding.reads == ("derived.0",) for binding in changed.values())
    one = {"0.weight": family.blueprint.bindings["0.weight"]}
    assert derived(one) == ({}, one)


def test_a_backward_pass_that_fails_leaves_nothing_behind() -> None:
    family = generated()

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx, grad):  # type: ignore[no-untyped-def]
            raise RuntimeError("broken")

    member = family.at({})
    with pytest.raises(RuntimeError, match="broken"):
        member[2](torch.relu(Fails.apply(member[0](X)))).sum().backward()
    family.zero_grad()
    family.at({})(X).sum().backward()
    again = generated()
    again.at({})(X).sum().backward()
    for mine, theirs in zip(family.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_gradients_of_two_passes_add_up() -> None:
    family, once = generated(), generated()
    family.at({})(X).sum().backward()
    family.at({})(X).sum().backward()
    (2 * once.at({})(X).sum()).backward()
    for mine, theirs in zip(family.parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def test_members_are_freed_without_the_garbage_collector() -> None:
    family = generated()
    gc.disable()
    try:
        member = family.at({})
        member(X).sum().backward()
        seen = weakref.ref(member[0].weight)
        family.clear()
        del member
        assert seen() is None
    finally:
        gc.enable()
