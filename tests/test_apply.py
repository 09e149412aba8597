"""`bind`: one call binds what it names, and says what that saves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import manynet
from manynet.bindings import recipes
from manynet.bindings.pack import pack, unpack
from manynet.bindings.quantize import Quantize
from manynet.errors import InputError
from manynet.family.file import load_family

RECIPES = {
    "quantized": recipes.quantized((2, 4)),
    "masked": recipes.masked(0.3),
    "masked for tasks": recipes.masked(0.3, tasks=2),
    "tied": recipes.tied(),
    "tied with scales": recipes.tied(scale=True),
    "mixed": recipes.mixed(2),
    "sharded": recipes.sharded(20, 8),
    "generated": recipes.generated(),
    "generated in chunks": recipes.generated(chunk=16),
    "companded": recipes.companded(),
}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3)
    )


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_bound_model_trains_extracts_and_loads(recipe: recipes.Recipe, tmp_path: Path) -> None:
    model, x = network(), torch.randn(5, 8)
    before = copy.deepcopy(model.state_dict())
    family = manynet.bind(model, "[024].weight", recipe, example_inputs=(x,))
    optimizer = torch.optim.AdamW(family.parameters(), 0.01)
    family.guard(optimizer)
    losses = []
    for _ in range(20):
        family.zero_grad()
        loss = (family.at(family.space.largest)(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    family.save(tmp_path)
    again = load_family(tmp_path, network())
    for arch in (family.space.largest, family.space.smallest):
        y = family.at(arch)(x)
        assert torch.allclose(y, family.extract(arch)(x), atol=1e-5)
        assert torch.allclose(y, again.at(arch)(x), atol=1e-5)
        assert len(list(family.at(arch).parameters())) == len(list(again.at(arch).parameters()))
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize("name", ["quantized", "masked", "mixed", "companded", "generated"])
def test_bindings_read_through_slices_of_an_elastic_family(name: str) -> None:
    x = torch.randn(5, 8)
    elastic = manynet.elastic(network(), (x,), width=(0.5, 1.0), multiple_of=1)
    family = manynet.bind(elastic, "[02].weight", RECIPES[name])
    smallest = family.at(family.space.smallest)
    assert smallest[0].out_features == 4
    assert torch.allclose(smallest(x), family.extract(family.space.smallest)(x), atol=1e-6)
    smallest(x).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in family.parameters())


@pytest.mark.parametrize("name", ["companded", "mixed", "tied"])
def test_bindings_that_can_start_as_the_model_does(name: str) -> None:
    model, x = network(), torch.randn(5, 8)
    if name != "companded":  # layers of one weight lose nothing when they share it
        model[2].weight = nn.Parameter(model[0].weight.detach().clone())
        model[4].weight = nn.Parameter(model[0].weight.detach().clone())
    family = manynet.bind(model, "[024].weight", RECIPES[name])
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-5)


def test_tied_layers_hold_one_parameter_and_keep_their_biases() -> None:
    family = manynet.bind(network(), "[024].weight", recipes.tied())
    for member in (family.at(family.space.largest), family.extract(family.space.largest)):
        assert member[0].weight is member[2].weight is member[4].weight
        assert member[0].bias is not member[2].bias
    assert "2.weight" not in family.state_dict()


def test_the_report_says_what_is_saved() -> None:
    family = manynet.bind(
        network(), "[024].weight", recipes.tied(), example_inputs=(torch.zeros(1, 8),)
    )
    text = str(family.report())
    assert "243 -> 115" in text
    assert "MACs" in text


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="no parameter matches"):
        manynet.bind(network(), "blocks.*", recipes.tied())


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per", ["tensor", "channel", 4])
def test_packed_integers_give_the_weight_back(bits: int, symmetric: bool, per: str | int) -> None:
    from manynet.bindings import whole
    from manynet.space import Space

    weight, arch = torch.randn(6, 8), Space(()).largest
    binding = Quantize(whole("w", weight), bits, per, symmetric)
    found = binding.integers(arch, weight)
    packed = pack(found.integers, bits)
    assert packed.numel() == -(-weight.numel() * bits // 8)
    assert torch.equal(unpack(packed, bits, 48).view(found.integers.shape), found.integers.long())
    assert torch.equal(found.weight(), binding.value(arch, weight, None, None))
    assert float((found.weight() - weight).abs().max()) <= float(found.scale.max()) * 0.51
