"""Weight Compander: its exact checks."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import manynet as mn
from manynet.bindings import Compand, compand, expand, whole
from manynet.bindings.recipes import companded
from manynet.errors import InputError
from manynet.systems.weight_compander import (
    SYSTEM,
    fold,
    shape_of,
    train_with_curve,
    with_curve,
)

A, B = torch.tensor(1.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 1, 6, 6, generator=generator)
    return x, x.flatten(1)[:, :4].argmax(1)


def slope_at(v: torch.Tensor) -> torch.Tensor:
    v = v.requires_grad_()
    (slope,) = torch.autograd.grad(compand(v, A, B).sum(), v)
    return slope


def test_values_slopes_and_crossing() -> None:
    v = torch.tensor([0.5, 1.0], dtype=torch.float64)
    assert compand(v, A, B).tolist() == pytest.approx([0.785398, 1.107149], abs=1e-6)
    slopes = slope_at(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert slopes.tolist() == pytest.approx([2.0, 1.0, 0.4])
    crossing = torch.tensor(1.16556, dtype=torch.float64)
    assert float(compand(crossing, A, B) - crossing) == pytest.approx(0.0, abs=1e-5)
    inside = torch.linspace(0.01, 1.16, 50, dtype=torch.float64)
    assert bool((compand(inside, A, B) > inside).all())
    beyond = torch.linspace(1.17, 9, 50, dtype=torch.float64)
    assert bool((compand(beyond, A, B) < beyond).all())


def test_it_is_odd_increasing_and_bounded() -> None:
    v = torch.linspace(-1e3, 1e3, 20_001, dtype=torch.float64)
    w = compand(v, A, B)
    assert torch.equal(w, -compand(-v, A, B)) and float(compand(0 * A, A, B)) == 0.0
    assert bool((w.diff() > 0).all()) and float(w.abs().max()) < math.pi / 2
    assert float(slope_at(torch.zeros(1, dtype=torch.float64))) == 2.0  # a / b


def test_the_inverse_both_ways() -> None:
    v = torch.linspace(-5, 5, 1001, dtype=torch.float64)
    assert torch.allclose(expand(compand(v, A, B), A, B), v, rtol=0, atol=1e-10)
    low, (a, b) = v.float(), (A.float(), B.float())
    assert torch.allclose(expand(compand(low, a, b), a, b), low, rtol=1e-5, atol=1e-5)
    w = torch.linspace(-0.95, 0.95, 1001) * math.pi / 2
    assert torch.allclose(compand(expand(w, a, b), a, b), w, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_a_trained_network_is_converted_and_folded_without_a_change(learned: bool) -> None:
    x, y = data()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    family = with_curve(model.eval(), companded(learned=learned))
    assert torch.allclose(family.eval().at({})(x), model(x), atol=1e-5)
    train_with_curve(family, (x, y), steps=10, batch_size=16)
    family.eval()
    plain = fold(family).eval()
    assert torch.allclose(plain(x), family.at({})(x), atol=1e-6)
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert not torch.equal(plain.get_parameter("0.weight"), model.get_parameter("0.weight"))


def test_a_wide_curve_is_a_straight_line_and_trains_as_the_plain_network() -> None:
    v = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    wide = 1000 * v.abs().max()
    assert torch.allclose(compand(v, wide, wide), v, rtol=4e-7, atol=0)
    x, y = data()
    plain = network()
    curved = with_curve(copy.deepcopy(plain), companded(height=1e5, slope=1.0))
    optimizer = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    other = torch.optim.SGD(curved.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        curved.zero_grad()
        functional.cross_entropy(plain(x), y).backward()
        functional.cross_entropy(curved.at({})(x), y).backward()
        optimizer.step()
        other.step()
    for name, tensor in fold(curved).named_parameters():
        assert torch.allclose(tensor, plain.get_parameter(name), atol=1e-5), name


def test_gradients_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    a = torch.tensor([0.8], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([0.6], dtype=torch.float64, requires_grad=True)
    binding = Compand(whole("v", v), whole("a", a), whole("b", b))
    weight = binding.value(mn.Arch({}), v, a, b)
    upstream = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(weight, (v, a, b), upstream)
    u = (v / b).detach()
    assert torch.allclose(found[0], upstream * (a / b) / (1 + u**2))
    assert torch.allclose(found[1], (upstream * torch.atan(u)).sum())
    assert torch.allclose(found[2], (upstream * -(a / b) * u / (1 + u**2)).sum())
    assert torch.autograd.gradcheck(compand, (v, a, b))


def test_learned_curves_stay_positive_and_do_not_decay() -> None:
    x, y = data()
    family = with_curve(network(), companded(learned=True, per="channel"))
    before = {n: t.detach().clone() for n, t in family.state_dict().items()}
    options = {"steps": 5, "batch_size": 16, "warmup": 0}
    train_with_curve(family, (x, y), curve_rate=0.0, weight_decay=0.5, **options)
    after = family.state_dict()
    for name in ("0.weight.height", "4.weight.width"):
        assert torch.equal(after[name], before[name]), name
    train_with_curve(family, (x, y), curve_rate=1.0, learning_rate=2.0, clip=1.0, **options)
    assert not torch.equal(after["0.weight.height"], before["0.weight.height"])
    reached = float(after["4.weight.height"].detach().exp().max()) * math.pi / 2
    assert float(fold(family).get_parameter("4.weight").detach().abs().max()) < reached


def test_the_rate_is_divided_by_the_squared_slope() -> None:
    rates = []
    x, y = data()
    train_with_curve(
        with_curve(network()), (x, y), learning_rate=0.09, slope=1.5, steps=1, warmup=0,
        schedule="constant",
        progress=lambda step, total, info: rates.append(info["learning_rate"]),
    )  # fmt: skip
    assert rates == pytest.approx([0.04])


def test_shapes_of_known_distributions() -> None:
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) - 0.5
    assert shape_of(normal)["kurtosis"] == pytest.approx(3.0, abs=0.05)
    assert shape_of(normal)["near zero"] == pytest.approx(0.0797, abs=0.003)
    assert shape_of(uniform)["kurtosis"] == pytest.approx(1.8, abs=0.01)
    assert shape_of(uniform)["largest"] == pytest.approx(3**0.5, abs=0.01)
    stats = pytest.importorskip("scipy.stats")
    assert shape_of(normal)["kurtosis"] == pytest.approx(
        stats.kurtosis(normal.numpy(), fisher=False), rel=1e-4
    )


def test_a_model_without_weights_is_refused() -> None:
    with pytest.raises(InputError, match="no linear or convolutional weight"):
        with_curve(nn.BatchNorm1d(3))


def test_the_example_runs() -> None:
    scope: dict[str, object] = {}
    exec(SYSTEM.example, scope)
    plain, source = scope["plain"], scope["network"]
    assert isinstance(plain, nn.Module) and isinstance(source, nn.Module)
    assert plain.state_dict().keys() == source.state_dict().keys()
