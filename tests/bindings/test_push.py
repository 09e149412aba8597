"""Gradients wait until their backward pass is over, and none is lost or counted twice."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import manynet
from manynet.bindings import push
from manynet.bindings.leaf import Touched, bind
from manynet.bindings.protocol import Part
from networks import make

WHOLE = slice(None)


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))


def leaf_of(
    weight: nn.Parameter, touched: Touched, rows: int = 3, columns: int = 4
) -> nn.Parameter:
    return bind(Part("w", (slice(0, rows), slice(0, columns))), {"w": weight}, touched).tensor


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("out of memory")


def test_runs_at_equal_distances_gather_like_any_index(weight: nn.Parameter) -> None:
    for rows in (np.array([0, 1, 3, 4]), np.array([0, 1, 3])):
        weight.grad = None
        leaf = bind(Part("w", (rows, slice(0, 4))), {"w": weight}, Touched()).tensor
        factor = torch.randn(leaf.shape)
        (leaf * factor).sum().backward()
        expected = torch.zeros(6, 6)
        expected[torch.from_numpy(rows), :4] = factor
        assert torch.equal(weight.grad, expected)


def test_two_members_of_one_backward_pass_both_arrive(weight: nn.Parameter) -> None:
    touched = Touched()
    small, large = leaf_of(weight, touched, 2, 2), leaf_of(weight, touched, 3, 4)
    (small.sum() + 2 * large.sum()).backward()
    expected = torch.zeros(6, 6)
    expected[:2, :2] += 1
    expected[:3, :4] += 2
    assert torch.equal(weight.grad, expected)


def test_a_little_at_a_time_is_the_same(weight: nn.Parameter, monkeypatch) -> None:
    monkeypatch.setattr(push, "GATHERED_BYTES", 0)
    touched = Touched()
    leaf = leaf_of(weight, touched)
    leaf.sum().backward()
    assert weight.grad.sum() == 12
    assert not touched.waiting


def test_the_gradient_of_a_failed_pass_is_not_added_later() -> None:
    family, x = _family()
    member = family.at(family.space.smallest)
    last = [m for m in member.modules() if isinstance(m, nn.Linear)][-1]
    hidden = []
    handle = last.register_forward_pre_hook(
        lambda m, args: (hidden.append(1), (Broken.apply(*args),))[1]
    )
    with pytest.raises(RuntimeError, match="out of memory"):
        member(x).square().sum().backward()
    handle.remove()
    family.zero_grad()
    member(x).square().sum().backward()
    got = {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
    fresh, _ = _family()
    fresh.at(fresh.space.smallest)(x).square().sum().backward()
    for name, parameter in fresh.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(got[name], parameter.grad, atol=1e-6), name


def _family() -> tuple[manynet.Family, torch.Tensor]:
    model, x = make("mlp")
    return manynet.elastic(model, x, width=(0.25, 0.5, 1.0), importance=None), x


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_changes_no_gradient(reentrant: bool) -> None:
    family, x = _family()
    arch = family.space.smallest
    family.at(arch)(x).square().sum().backward()
    plain = {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
    family.zero_grad()
    x = x.clone().requires_grad_()
    checkpoint(family.at(arch), x, use_reentrant=reentrant).square().sum().backward()
    for name, grad in plain.items():
        got = dict(family.named_parameters())[name].grad
        assert torch.allclose(got, grad, atol=1e-6), name


def test_a_second_derivative_goes_through(weight: nn.Parameter) -> None:
    leaf = leaf_of(weight, Touched())
    (first,) = torch.autograd.grad(leaf.pow(3).sum(), leaf, create_graph=True)
    first.square().sum().backward()
    block = weight[:3, :4].detach()
    assert torch.allclose(weight.grad[:3, :4], 36 * block**3, rtol=1e-4)
    weight.grad = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using backward\\(\\) with create_graph")
        leaf.pow(2).sum().backward(create_graph=True)
    assert torch.allclose(weight.grad[:3, :4], 2 * block)
    assert not weight.grad.requires_grad


def test_a_gradient_given_other_storage_gets_what_arrives(weight: nn.Parameter) -> None:
    leaf = leaf_of(weight, Touched())
    leaf.sum().backward()
    weight.grad.data = torch.zeros(6, 6)  # as `Module.to` does
    leaf.sum().backward()
    assert weight.grad.sum() == 12


def test_a_gradient_of_other_strides_gets_what_arrives(weight: nn.Parameter) -> None:
    leaf = leaf_of(weight, Touched(), 2, 4)
    factor = torch.randn(2, 4)
    (leaf * factor).sum().backward()
    weight.grad = torch.zeros(6, 6).t()
    (leaf * factor).sum().backward()
    expected = torch.zeros(6, 6)
    expected[:2, :4] = factor
    assert torch.equal(weight.grad, expected)


def test_a_copied_or_saved_gradient_carries_nothing_of_ours(weight: nn.Parameter) -> None:
    leaf = leaf_of(weight, Touched())
    leaf.sum().backward()
    copied = copy.deepcopy(weight.grad)
    assert torch.equal(copied, weight.grad)
    assert not copied.__dict__.get("_places")
    file = io.BytesIO()
    torch.save(weight.grad, file)
    assert b"manynet" not in file.getvalue()
    file.seek(0)
    loaded = torch.load(file)
    assert torch.equal(loaded, weight.grad)
    for grad in (copied, loaded):  # what arrives goes to the gradient that is there
        weight.grad = grad
        leaf.sum().backward()
        assert weight.grad.sum() == 24
