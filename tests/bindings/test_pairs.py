"""Every binding reads through every other one: values, gradients, files, and what steps leave."""

from __future__ import annotations

import runpy
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from manynet import Choice, Family, Space
from manynet.bindings.operation import evaluate
from manynet.family import Blueprint
from manynet.family.file import load_family

DOCS = Path(__file__).parents[2] / "docs"
PAIRS = runpy.run_path(str(DOCS / "binding_pairs.py"))
KINDS = list(PAIRS["MAKES"])
OUTER = [*KINDS, *PAIRS["OTHERS"]]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh())


def family_of(outer: str, inner: str) -> Family:
    binding, extra = PAIRS["pair"](outer, inner)
    torch.manual_seed(1)
    space = Space((Choice("task", (0, 1)),))
    return Family(network(), space, Blueprint({"0.weight": binding}), extra=extra)


def expected(family: Family) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value and the leaves of a graph that autograd makes of the binding itself."""
    leaves = {
        name: tensor.detach().clone().requires_grad_(tensor.is_floating_point())
        for name, tensor in family.state_dict().items()
    }
    reading = family.blueprint.bindings["0.weight"].at(family.space.largest, {})
    return evaluate(reading, leaves), leaves


@pytest.fixture(params=product(OUTER, KINDS), ids="-".join)
def family(request: pytest.FixtureRequest) -> Family:
    return family_of(*request.param)


def test_member_extraction_and_saved_family_agree(family: Family, tmp_path: Path) -> None:
    x, arch = torch.randn(5, 4), family.space.largest
    assert "0.weight" not in family.state_dict()
    member = family.at(arch)(x)
    value, leaves = expected(family)
    assert torch.allclose(member, (x @ value.T + leaves["0.bias"]).tanh(), atol=1e-5)
    assert torch.allclose(family.extract(arch)(x), member, atol=1e-5)
    family.save(tmp_path)
    again = load_family(tmp_path, network())
    assert torch.allclose(again.at(arch)(x), member, atol=1e-5)
    assert again.blueprint.bindings["0.weight"].reads == family.blueprint.bindings["0.weight"].reads


def test_gradients_are_those_of_the_composed_function(family: Family) -> None:
    x = torch.randn(5, 4)
    value, leaves = expected(family)
    (x @ value.T + leaves["0.bias"]).tanh().square().sum().backward()
    for _ in range(2):  # twice: gradients add up
        family.at(family.space.largest)(x).square().sum().backward()
    for name, parameter in family.named_parameters():
        mine, theirs = parameter.grad, leaves[name].grad
        assert (mine is None) == (theirs is None), name
        if mine is not None:
            assert torch.allclose(mine, 2 * theirs, atol=1e-5), name


def test_steps_leave_alone_what_no_gradient_can_reach(family: Family) -> None:
    x = torch.randn(5, 4)
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, weight_decay=0.1)
    family.guard(optimizer)
    value, leaves = expected(family)
    trained = [name for name, leaf in leaves.items() if leaf.requires_grad]
    probe = torch.autograd.grad(
        (value * (torch.rand(value.shape) + 0.5)).sum(),
        [leaves[name] for name in trained],
        allow_unused=True,
    )
    before = {name: p.detach().clone() for name, p in family.named_parameters()}
    family.at(family.space.largest)(x).square().sum().backward()
    optimizer.step()
    moved = False
    for name, grad in zip(trained, probe, strict=True):
        if name == "0.bias":
            continue
        now, reached = family.state_dict()[name], torch.zeros(()) if grad is None else grad
        still = (reached == 0).expand_as(now)
        assert torch.equal(now[still], before[name][still]), name
        moved |= not torch.equal(now, before[name])
    assert moved


def test_page_is_current() -> None:
    text = (DOCS / "concepts" / "binding-pairs.md").read_text(encoding="utf-8")
    assert text == PAIRS["page"](), "renew it with `python docs/binding_pairs.py`"
