"""Curves behind weights: every curve with its inverse, ranges, rows, and a choice of slopes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings import Compand, Power, compand, expand, whole
from manynet.bindings.compand import CURVES
from manynet.bindings.recipes import companded, powered
from manynet.errors import InputError

CURVE = pytest.mark.parametrize("curve", CURVES)
ONE = torch.tensor(1.0, dtype=torch.float64)


@CURVE
def test_a_curve_is_odd_increasing_and_bounded_with_slope_one(curve: str) -> None:
    v = torch.linspace(-5, 5, 4001, dtype=torch.float64, requires_grad=True)
    w = compand(v, 2 * ONE, 0.5 * ONE, curve=curve)
    assert torch.allclose(w, -compand(-v, 2 * ONE, 0.5 * ONE, curve=curve))
    assert bool((w.diff() > 0).all())
    assert float(w.detach().abs().max()) < 2 * CURVES[curve].limit
    (slope,) = torch.autograd.grad(w.sum(), v)
    assert float(slope[2000]) == pytest.approx(4.0, rel=1e-6)
    assert bool((slope[:2000].diff() > 0).all())


@CURVE
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_the_inverse_is_exact(curve: str, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    height, width = torch.tensor([0.7], dtype=dtype), torch.tensor([0.4], dtype=dtype)
    v = (torch.rand(1000, generator=generator, dtype=dtype) * 2 - 1) * 3 * width
    back = expand(compand(v, height, width, curve=curve), height, width, curve=curve)
    assert torch.allclose(back, v, rtol=tolerance, atol=tolerance)
    most = min(CURVES[curve].limit, 5.0) * 0.95 * height
    w = (torch.rand(1000, generator=generator, dtype=dtype) * 2 - 1) * most
    again = compand(expand(w, height, width, curve=curve), height, width, curve=curve)
    assert torch.allclose(again, w, rtol=tolerance, atol=tolerance)


def test_what_does_not_fit_is_refused_or_moved_with_a_warning() -> None:
    w, height = torch.tensor([0.1, 2.0, -3.0]), torch.tensor(1.0)
    with pytest.raises(InputError, match="2 weights are out of the curve's range"):
        expand(w, height, height)
    with pytest.warns(UserWarning, match="2 of 3 weights are out of the curve's range"):
        v = expand(w, height, height, clamp=True)
    back = compand(v, height, height)
    assert torch.allclose(
        back, torch.tensor([0.1, 0.999, -0.999]) * torch.tensor([1, math.pi / 2, math.pi / 2])
    )
    with pytest.raises(InputError, match="no curve 'arctn'"):
        Compand(whole("v", w), whole("a", w), whole("b", w), "arctn")
    with pytest.raises(InputError, match="no curve 'sine'"):
        companded(curve="sine")
    for bad in ({"slope": 0.0}, {"height": -1.0}, {"slope": ()}, {"per": "network"}):
        with pytest.raises(InputError):
            companded(**bad)  # type: ignore[arg-type]


def test_halves_are_computed_in_floats() -> None:
    v = torch.tensor([0.3, -4.0], dtype=torch.bfloat16)
    found = compand(v, torch.tensor(1.0).bfloat16(), torch.tensor(0.5).bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, torch.atan(v.float() / 0.5).bfloat16())


@CURVE
@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("learned", [False, True])
def test_a_family_starts_with_the_models_weights(curve: str, per: str, learned: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[0].weight[0] *= 30  # the largest do not fit three deviations of the layer
    x = torch.randn(5, 1, 4, 4)
    family = mn.bind(
        model, ["0.weight", "2.weight"], companded(curve=curve, per=per, learned=learned)
    )
    assert torch.allclose(family.at({})(x), model(x), rtol=1e-5, atol=1e-5)
    names = {name for name, _ in family.named_parameters()}
    assert ("0.weight.height" in names) == learned
    height = family.state_dict()["0.weight.height"]
    assert height.shape == ((1,) if per == "layer" else (4, 1, 1, 1))


def test_rows_of_their_own_are_cut_with_the_weight() -> None:
    x = torch.randn(5, 8)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    family = mn.elastic(model, (x,), width=(0.5, 1.0), multiple_of=1)
    before = family.extract(family.space.smallest)(x)
    family = mn.bind(family, "0.weight", companded(per="channel"))
    small = family.at(family.space.smallest)
    assert small[0].out_features == 4  # type: ignore[index]
    assert torch.allclose(small(x), before, atol=1e-5)


def test_slopes_are_a_choice_of_one_set_of_numbers() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 30)
    family = mn.bind(model, "weight", companded(slope=(4.0, 1.0, 2.0)))
    assert family.space.choices[0].values == (1.0, 2.0, 4.0)
    assert torch.allclose(family.extract({"slope": 4.0}).weight, model.weight, atol=1e-6)
    sizes = [family.extract({"slope": s}).weight.abs() for s in (1.0, 2.0, 4.0)]
    assert bool((sizes[0] <= sizes[1]).all()) and bool((sizes[1] <= sizes[2]).all())
    latents = [name for name in family.state_dict() if name.endswith("latent")]
    assert latents == ["weight.latent"]


@pytest.mark.parametrize("exponent", [1.0, 1.5, 2.0, 3.0])
def test_a_power_starts_as_the_model_and_has_no_bad_gradient(exponent: float) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 5)
    family = mn.bind(model, "weight", powered(exponent))
    assert torch.allclose(family.at({}).weight, model.weight, atol=1e-6)
    v = torch.tensor([-2.0, 0.0, 3.0], requires_grad=True)
    w = Power(whole("v", v), exponent).value(mn.Arch({}), v)
    w.sum().backward()
    assert v.grad is not None
    expected = exponent * v.detach().abs() ** (exponent - 1)
    assert torch.allclose(v.grad, expected, atol=1e-6)
    with pytest.raises(InputError, match="above 0"):
        powered(0)
