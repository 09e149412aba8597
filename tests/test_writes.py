"""Members follow the shared weights, however these are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim import SGD, AdamW, Optimizer

import manynet
from manynet.family import Family
from networks import make

WIDTHS = (0.25, 0.5, 1.0)


@pytest.fixture
def family() -> Family:
    model, x = make("residual")
    return manynet.elastic(model, x, width=WIDTHS, importance=None)


@pytest.fixture
def x() -> Tensor:
    return make("residual")[1]


class OneEntry(Optimizer):
    """Writes one entry of each kernel, past the version counters; no probe looks at it."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(params, {})

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.dim() == 4 and parameter.shape[-1] == 3:
                    parameter.data[0, 0, 0, 1] += 0.5


def by_hand(family: Family) -> None:
    for parameter in family.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad


def in_place(family: Family) -> None:
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.view(-1)[1] += 0.5


def average(family: Family) -> None:
    for parameter in family.parameters():
        parameter.data.lerp_(torch.randn_like(parameter), 0.1)


def copied(family: Family) -> None:
    for parameter in family.parameters():
        parameter.data.copy_(torch.randn_like(parameter))


def pruned(family: Family) -> None:
    for parameter in family.parameters():
        parameter.data.mul_(torch.rand_like(parameter) < 0.5)


def loaded(family: Family) -> None:
    family.load_state_dict({n: t + 0.1 for n, t in family.state_dict().items()})


def module_loaded(family: Family) -> None:
    state = family.shared.state_dict()
    family.shared.load_state_dict({n: t + 0.1 for n, t in state.items()})


def moving_average(family: Family) -> None:
    network = family.shared
    averaged = torch.optim.swa_utils.AveragedModel(network)
    in_place(family)
    averaged.update_parameters(network)
    network.load_state_dict(averaged.module.state_dict())


def stepping(make_optimizer: Callable[[list[nn.Parameter]], Optimizer]) -> Callable[[Family], None]:
    return lambda family: make_optimizer(list(family.parameters())).step()


WAYS: dict[str, Callable[[Family], None]] = {
    "in place": in_place,
    "data by hand": by_hand,
    "an average through data": average,
    "a copy through data": copied,
    "a mask through data": pruned,
    "the family's state": loaded,
    "the network's state": module_loaded,
    "a moving average": moving_average,
    "an optimizer that writes data": stepping(OneEntry),
    "SGD": stepping(lambda p: SGD(p, 0.1, foreach=False)),
    "foreach SGD": stepping(lambda p: SGD(p, 0.1, foreach=True)),
    "fused SGD": stepping(lambda p: SGD(p, 0.1, fused=True)),
    "foreach AdamW": stepping(lambda p: AdamW(p, 0.1, foreach=True)),
    "fused AdamW": stepping(lambda p: AdamW(p, 0.1, fused=True)),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("other", [False, True], ids=["own gradient", "another's gradient"])
def test_members_follow(
    family: Family, x: Tensor, way: Callable[[Family], None], other: bool
) -> None:
    space = family.space
    held = family.at(space.smallest)
    for _ in range(2):
        held(x)
        member = family.at(space.arch({c.name: c.values[1] for c in space.choices}))
        (member if other else held)(x).square().sum().backward()
        before = held(x).detach() if way is in_place else None
        way(family)
        expected = family.extract(space.smallest)(x)
        assert torch.equal(held(x), expected)
        assert before is None or not torch.equal(before, expected)


def test_a_member_that_ran_between_gradient_and_fused_step_follows(
    family: Family, x: Tensor
) -> None:
    """No gradient arrives after that pass, and no version counter moves."""
    arch = family.space.smallest
    optimizer = AdamW(family.parameters(), 0.1, fused=True)
    held = family.at(arch)
    held(x).square().sum().backward()
    before = held(x).detach()
    optimizer.step()
    expected = family.extract(arch)(x)
    assert not torch.equal(before, expected)
    assert torch.equal(held(x), expected)


@pytest.mark.parametrize("flat", [False, True])
def test_replaced_storage_is_read_once_the_family_has_forgotten_its_members(
    family: Family, x: Tensor, flat: bool
) -> None:
    arch = family.space.smallest
    family.at(arch)(x).square().sum().backward()
    if flat:
        vector = parameters_to_vector(family.parameters())
        vector_to_parameters(vector.detach() + 0.1, family.parameters())
    else:
        for parameter in family.parameters():
            parameter.data = parameter.data + 0.1
    family.clear()
    member = family.at(arch)
    assert torch.equal(member(x), family.extract(arch)(x))
    family.zero_grad()
    member(x).square().sum().backward()
    grads = {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
    assert grads
    member(x).square().sum().backward()
    for name, parameter in family.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, 2 * grads[name])


def test_nothing_is_copied_while_nothing_is_written(
    family: Family, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    member = family.at(family.space.smallest)
    copies: list[int] = []
    copy = torch._foreach_copy_
    monkeypatch.setattr(torch, "_foreach_copy_", lambda *args: (copies.append(1), copy(*args))[1])
    for _ in range(3):
        member(x).square().sum().backward()
    assert not copies
    in_place(family)
    member(x)
    assert copies == [1]
