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


def test_what_shares_a_tensor_goes_on_sharing_it_when_it_is_bound_again() -> None:
    """Of four tied layers, only the first was once rounded."""
    family = manynet.bind(network(), "[024].weight", recipes.tied())
    again = manynet.bind(family, "[024].weight", recipes.quantized(2))
    for member in (again.at({}), again.extract({})):
        assert member[0].weight is member[2].weight is member[4].weight
        assert max(len(row.unique()) for row in member[4].weight) <= 4
    assert "2.weight" not in again.state_dict()


@pytest.mark.parametrize("scale", [False, True])
def test_layers_tied_to_a_bound_one_read_what_it_reads(scale: bool) -> None:
    """They once read the first layer's numbers before rounding."""
    family = manynet.bind(network(), "[024].weight", recipes.quantized(2))
    member = manynet.bind(family, "[024].weight", recipes.tied(scale=scale)).at({})
    assert torch.equal(member[2].weight, member[0].weight)
    assert max(len(row.unique()) for row in member[2].weight) <= 4


class Tied(nn.Module):
    """Input and output embeddings of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(20, 8), nn.Linear(8, 20, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.tokens(ids))


@pytest.mark.parametrize("where", ["tokens.weight", "head.weight", nn.Linear, nn.Embedding])
def test_a_tensor_of_two_names_is_found_by_each(where: str | type[nn.Module]) -> None:
    family = manynet.bind(Tied(), where, recipes.quantized(4))
    member = family.at({})
    assert member.head.weight is member.tokens.weight
    assert "640 -> 640" in str(family.report())  # of the family, where it stands once


def test_the_report_names_what_weights_are_read_through() -> None:
    found = {
        name: manynet.bind(network(), "[024].weight", recipe).report().elastic[0].detail
        for name, recipe in RECIPES.items()
    }
    assert found == {
        "quantized": "quantize",
        "masked": "mask",
        "masked for tasks": "mask",
        "tied": "tied to 0.weight",
        "tied with scales": "tie",
        "mixed": "mix",
        "sharded": "shard",
        "generated": "generate",
        "generated in chunks": "generate",
        "companded": "compand",
    }


def test_types_and_weights_of_any_name_are_found() -> None:
    both = manynet.bind(network(), (nn.Linear, nn.ReLU), recipes.quantized(4))
    assert len(both.blueprint.bindings) == 4
    lstm = manynet.bind(nn.LSTM(4, 4), nn.LSTM, recipes.quantized(4))
    assert set(lstm.blueprint.bindings) == {"weight_ih_l0", "weight_hh_l0"}


def test_inputs_come_in_any_form() -> None:
    for inputs in (torch.zeros(1, 8), [torch.zeros(1, 8)], {"input": torch.zeros(1, 8)}):
        family = manynet.bind(network(), nn.Linear, recipes.quantized(4), example_inputs=inputs)
        assert "MACs" in str(family.report())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)


ONCE = recipes.quantized(4)
REFUSED = {
    "a pattern with a slip": ("4.wieght", ONCE, "no parameter matches '4.wieght'; near it are 4"),
    "one of several with a slip": (["0.weight", "9.weight"], ONCE, "no parameter matches '9.weigh"),
    "one of a group with a slip": ([["0.weight", "9.weight"]], ONCE, "matches '9.weight'"),
    "a module": ("0", ONCE, "'0' is a module; name parameters of it, such as 0.weight, 0.bias"),
    "a type that is not there": (nn.Conv2d, ONCE, "the model has no Conv2d; it has Linear"),
    "a type without a weight": (nn.ReLU, ONCE, "ReLU holds no weight itself"),
    "nothing": ([], ONCE, "where is \\[\\]; give a class of modules"),
    "a number": (3, ONCE, "where is 3; give a class of modules"),
    "a number in a list": (["0.weight", 3], ONCE, "3 in where is no pattern"),
    "two groups of one tensor": (
        [["0.weight", "2.weight"], ["2.weight", "4.weight"]],
        ONCE,
        "'2.weight' is in groups 1 and 2 of where",
    ),
    "no recipe": (nn.Linear, 4, "with_ is 4; give a recipe"),
    "a recipe that was not called": (nn.Linear, recipes.companded, "did you mean companded"),
    "one that takes a value": (nn.Linear, recipes.quantized, "did you mean quantized"),
    "no bindings": (nn.Linear, lambda group: [0 for _ in group.sites], "gave int for '0.weight'"),
    "another shape": (
        "0.weight",
        lambda group: [group.sites[0].parameter("other", torch.zeros(2, 2))],
        r"'0.weight' has the shape \(8, 8\), and its binding gives \(2, 2\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_bind_cannot_do_is_told(name: str) -> None:
    where, recipe, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        manynet.bind(network(), where, recipe)


def test_a_type_whose_weights_lie_deeper_is_told() -> None:
    with pytest.raises(InputError, match=r"with a pattern, such as 0\.up\.weight, 0\.up\.bias"):
        manynet.bind(nn.Sequential(Block()), Block, recipes.tied())


def test_other_things_than_models_and_inputs_that_do_not_fit_are_told() -> None:
    with pytest.raises(InputError, match=r"takes a model .* found str"):
        manynet.bind("model", nn.Linear, recipes.tied())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"does not run on the example inputs \(\(1, 3\)\)"):
        manynet.bind(network(), nn.Linear, recipes.tied(), example_inputs=torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (lambda: recipes.quantized(1), "bits is 1; give whole numbers from 2 to 8, or 16"),
        (lambda: recipes.quantized((4, 12)), "bits is 12"),
        (lambda: recipes.quantized("4"), "bits is '4'"),
        (lambda: recipes.masked(0.0), "above 0 up to 1"),
        (lambda: recipes.masked(1.5), "above 0 up to 1"),
        (lambda: recipes.masked(0.5, tasks=0), "masked: tasks is 0"),
        (lambda: recipes.mixed(0), "mixed: atoms is 0"),
        (lambda: recipes.sharded(0, 8), "sharded: rows is 0"),
        (lambda: recipes.generated(chunk=0), "generated: chunk is 0"),
    ],
)
def test_settings_that_make_no_sense_are_told_at_once(recipe: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe()


def test_layers_tied_to_a_mix_are_one_parameter_before_and_after_loading(tmp_path: Path) -> None:
    """They once were one only where the family had been loaded."""
    family = manynet.bind(network(), "[024].weight", recipes.mixed(2))
    family = manynet.bind(family, "[024].weight", recipes.tied())
    family.save(tmp_path)
    for one in (family, load_family(tmp_path, network())):
        member = one.at({})
        assert member[0].weight is member[2].weight is member[4].weight


@pytest.mark.parametrize("name", ["masked", "mixed", "tied with scales", "companded"])
def test_a_recipe_that_is_applied_twice_has_tensors_of_its_own_each_time(name: str) -> None:
    """The second once took the place of the first's, which were trained perhaps."""
    once = manynet.bind(network(), "[024].weight", RECIPES[name])
    added = {key: tensor.clone() for key, tensor in once.extra.items()}
    twice = manynet.bind(once, "[024].weight", RECIPES[name])
    assert len(twice.extra) == 2 * len(added)
    assert all(torch.equal(twice.extra[key], tensor) for key, tensor in added.items())
