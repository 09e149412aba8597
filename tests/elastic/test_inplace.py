"""Conversions that take over the model's weights, and models whose weights are not in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError
from networks import NETWORKS, make


@pytest.mark.parametrize("name", NETWORKS)
def test_in_place_gives_the_same_family(name: str) -> None:
    model, x = make(name)
    wanted = mn.elastic(model, x)
    same, _ = make(name)
    family = mn.elastic(same, x, inplace=True)
    assert family.shared is same
    assert family.space == wanted.space
    assert family.blueprint.depths == wanted.blueprint.depths
    state = wanted.state_dict()
    assert family.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[key]) for key, tensor in family.state_dict().items())
    for arch in (family.space.smallest, family.space.sample(np.random.default_rng(0))):
        assert torch.equal(family.at(arch)(x), wanted.at(arch)(x))
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-5)


def pointers(model: nn.Module) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}


def test_what_keeps_its_order_keeps_its_storage() -> None:
    model, x = make("residual")
    before = pointers(model)
    family = mn.elastic(model, x, inplace=True, importance=None)
    assert pointers(family.shared) == before
    model, x = make("residual")
    before = pointers(model)
    family = mn.elastic(model, x, inplace=True, width={"stem.width": (0.5, 1.0)})
    moved = {name for name, place in pointers(family.shared).items() if place != before[name]}
    assert "stem.weight" in moved
    assert "blocks.0.conv2.weight" not in moved
    assert "head.weight" not in moved


def test_a_copy_shares_no_storage_with_the_model() -> None:
    model, x = make("residual")
    family = mn.elastic(model, x)
    assert not set(pointers(model).values()) & set(pointers(family.shared).values()) - {0}


def test_ties_stay_ties_in_place() -> None:
    model, x = make("tied")
    count = len(list(model.parameters()))
    family = mn.elastic(model, x, inplace=True)
    assert len(list(family.parameters())) == count
    assert family.shared.b.weight is family.shared.c.weight


def test_a_member_that_was_only_tried_is_not_kept() -> None:
    model, x = make("mlp")
    family = mn.elastic(model, x, inplace=True)
    assert not family._cache


def test_weights_in_a_file_stay_there_until_they_move(tmp_path: Path) -> None:
    model, x = make("mlp")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    written = (tmp_path / "weights.pt").read_bytes()
    mapped, _ = make("mlp")
    state = torch.load(tmp_path / "weights.pt", mmap=True, weights_only=True)
    mapped.load_state_dict(state, assign=True)
    family = mn.elastic(mapped, x, inplace=True)
    assert torch.equal(family.shared[5].bias, model[5].bias)
    assert family.shared[5].bias.data_ptr() == state["5.bias"].data_ptr()
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-5)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert (tmp_path / "weights.pt").read_bytes() == written


def test_a_skeleton_without_weights_asks_for_them() -> None:
    model, x = make("mlp")
    model.to("meta")
    for options in ({}, {"importance": None, "depth_importance": "influence", "data": [x]}):
        with pytest.raises(InputError, match=r"0\.weight is on the meta device.*load the weights"):
            mn.elastic(model, x, **options)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", ["mlp", "residual", "attention"])
def test_a_skeleton_becomes_a_family_of_shapes(name: str, inplace: bool) -> None:
    model, x = make(name)
    wanted = mn.elastic(model, x, importance=None)
    family = mn.elastic(model.to("meta"), x, importance=None, inplace=inplace)
    assert family.space == wanted.space
    smallest = family.extract(family.space.smallest)
    assert all(parameter.is_meta for parameter in smallest.parameters())
    shapes = {key: value.shape for key, value in smallest.state_dict().items()}
    real = wanted.extract(wanted.space.smallest).state_dict()
    assert shapes == {key: value.shape for key, value in real.items()}
    assert mn.parameters().of_arch(family, family.space.smallest) == mn.parameters().of_arch(
        wanted, wanted.space.smallest
    )
