"""Experts that a router mixes by the arch, against the plain slices and against hand-made sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.bindings.routed import coefficients as coefficients_of
from manynet.bindings.routed import routed
from manynet.errors import InputError

WHERE = (["0.weight", "0.bias"], ["2.weight", "2.bias"])
X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


def plain(dtype: torch.dtype = torch.float32) -> mn.Family:
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    )
    return mn.elastic(network.to(dtype), X[:2].to(dtype), width=(0.25, 0.5, 1.0))


def mixed(per: str = "layer", dtype: torch.dtype = torch.float32, **options: object) -> mn.Family:
    family = plain(dtype)
    recipe = routed(family.space, per=per, hidden=16, **options)  # type: ignore[arg-type]
    return mn.bind(family, WHERE, recipe, together=True)


def coefficients(family: mn.Family, arch: object, layer: str = "0") -> Tensor:
    """Return the softmax of the router's logits, computed by hand; `(experts,)` or `(rows, e)`."""
    t = family.state_dict()
    sizes = [family.space[name].values for name in family.space.names]
    own = family.space.arch(arch)  # type: ignore[arg-type]
    code = [own[n] / max(v) for n, v in zip(family.space.names, sizes, strict=True)]  # type: ignore
    x = torch.tensor(code).to(t[f"{layer}.weight.shared_router_in_weight"])
    x = functional.linear(
        x,
        t[f"{layer}.weight.shared_router_in_weight"],
        t[f"{layer}.weight.shared_router_in_bias"],
    ).relu()
    x = functional.linear(
        x,
        t[f"{layer}.weight.shared_router_out_weight"],
        t[f"{layer}.weight.shared_router_out_bias"],
    )
    return (x if len(x) == 2 else x.view(8, 2)).softmax(-1).detach()


def set_router(family: mn.Family, layer: str, weight: float | None, bias: Tensor | float) -> None:
    tensors = family.state_dict()
    with torch.no_grad():
        if weight is not None:
            tensors[f"{layer}.weight.shared_router_out_weight"].fill_(weight)
        own = tensors[f"{layer}.weight.shared_router_out_bias"]
        own.copy_(torch.as_tensor(bias).expand_as(own))


@pytest.mark.parametrize("per", ["layer", "row"])
def test_equal_experts_are_the_plain_slices_whatever_the_router_says(per: str) -> None:
    family, wanted = mixed(per, start="alike"), plain()
    for arch in wanted.space.enumerate():
        torch.testing.assert_close(family.at(arch)(X), wanted.at(arch)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per", ["layer", "row"])
def test_one_expert_is_the_plain_slice(per: str) -> None:
    family, wanted = mixed(per, experts=1, start="alike"), plain()
    for arch in wanted.space.enumerate():
        torch.testing.assert_close(family.at(arch)(X), wanted.at(arch)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("per", ["layer", "row"])
def test_a_router_of_zeros_takes_the_mean(per: str) -> None:
    family = mixed(per)
    set_router(family, "0", 0.0, 0.0)
    tensors, arch = family.state_dict(), {"0.width": 4}
    mean = (tensors["0.weight.expert0"] + tensors["0.weight.expert1"]) / 2
    torch.testing.assert_close(family.at(arch)[0].weight, mean[:4], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("per", ["layer", "row"])
def test_members_read_the_routers_sum_then_their_slice(per: str) -> None:
    family = mixed(per)
    for arch in family.space.enumerate():
        share = coefficients(family, arch)
        told = coefficients_of(family.blueprint.bindings, family.state_dict(), arch)
        assert told.keys() == {"0.weight", "0.bias", "2.weight", "2.bias"}
        torch.testing.assert_close(told["0.bias"], share, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(share.sum(-1), torch.ones(share.shape[:-1]))
        assert float(share.min()) >= 0
        tensors = family.state_dict()
        size = arch["0.width"]
        assert isinstance(size, int)
        for kind in ("weight", "bias"):
            atoms = [tensors[f"0.{kind}.expert{e}"] for e in range(2)]
            first, second = share[..., 0], share[..., 1]
            if per == "row" and kind == "weight":
                first, second = first[:, None], second[:, None]
            whole = first * atoms[0] + second * atoms[1]
            found = getattr(family.at(arch)[0], kind)
            torch.testing.assert_close(found, whole[:size], rtol=1e-6, atol=1e-6)


def test_rows_of_equal_logits_are_the_layers_mix() -> None:
    rows, layer = mixed("row"), mixed("layer")
    planted = torch.tensor([0.3, -1.2])
    for number in ("0", "2"):
        set_router(rows, number, 0.0, planted.repeat(8))
        set_router(layer, number, 0.0, planted)
    state = layer.state_dict()
    with torch.no_grad():
        for name, tensor in rows.state_dict().items():
            if "router" not in name:
                tensor.copy_(state[name])
    for arch in rows.space.enumerate():
        torch.testing.assert_close(rows.at(arch)(X), layer.at(arch)(X), rtol=1e-5, atol=1e-6)


def test_planted_logits_weigh_each_row() -> None:
    family = mixed("row")
    share = torch.rand(8, 2, generator=torch.Generator().manual_seed(2)) + 0.1
    share = share / share.sum(1, keepdim=True)
    set_router(family, "0", 0.0, share.log().flatten())
    tensors = family.state_dict()
    atoms = [tensors[f"0.weight.expert{e}"] for e in range(2)]
    wanted = sum(share[:, e, None] * atoms[e] for e in range(2))
    found = family.at({"0.width": 4})[0].weight
    torch.testing.assert_close(found, wanted[:4], rtol=1e-6, atol=1e-6)  # type: ignore[index]


@pytest.mark.parametrize("per", ["layer", "row"])
def test_gradients_of_experts_and_logits(per: str) -> None:
    family = mixed(per, torch.float64)
    arch = {"0.width": 4, "2.width": 4}
    member = family.at(arch)
    toward = torch.randn(4, 6, dtype=torch.float64)
    family.zero_grad()
    (member[0].weight * toward).sum().backward()
    share = coefficients(family, arch)
    share = share.expand(8, 2) if per == "layer" else share
    tensors = dict(family.named_parameters())
    atoms = [tensors[f"0.weight.expert{e}"] for e in range(2)]
    for number, atom in enumerate(atoms):
        assert atom.grad is not None
        torch.testing.assert_close(atom.grad[:4], share[:4, number, None] * toward)
        assert not atom.grad[4:].any()
    inner = torch.stack([(toward * a.detach()[:4]).sum(1) for a in atoms], 1)
    rows = share[:4] * (inner - (share[:4] * inner).sum(1, keepdim=True))
    bias = tensors["0.weight.shared_router_out_bias"].grad
    assert bias is not None
    if per == "layer":
        torch.testing.assert_close(bias, rows.sum(0))
    else:
        torch.testing.assert_close(bias.view(8, 2)[:4], rows)
        assert not bias.view(8, 2)[4:].any()


@pytest.mark.parametrize("per", ["layer", "row"])
def test_gradients_match_finite_differences(per: str) -> None:
    family = mixed(per, torch.float64)
    arch = {"0.width": 4}
    x = X.double()

    def loss() -> Tensor:
        return family.at(arch)(x).square().sum()  # type: ignore[no-any-return]

    family.zero_grad()
    loss().backward()
    step = 1e-5
    for name, parameter in family.named_parameters():
        if parameter.grad is None:
            continue
        toward = torch.randn_like(parameter)
        slope = float((parameter.grad * toward).sum())
        ends = []
        for side in (step, -2 * step):
            with torch.no_grad():
                parameter.add_(side * toward)
                ends.append(float(loss()))
        with torch.no_grad():
            parameter.add_(step * toward)
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-6), name


@pytest.mark.parametrize("per", ["layer", "row"])
def test_another_layers_size_changes_the_mix_unless_the_router_is_blind(per: str) -> None:
    def first(family: mn.Family, size: int) -> Tensor:
        return family.extract({"0.width": 4, "2.width": size})[0].weight  # type: ignore

    seeing, blind = mixed(per), mixed(per, sees=())
    assert not torch.equal(first(seeing, 2), first(seeing, 8))
    assert torch.equal(first(blind, 2), first(blind, 8))
    other = mixed(per, sees=("0.width",))
    assert torch.equal(first(other, 2), first(other, 8))


@pytest.mark.parametrize("per", ["layer", "row"])
def test_an_extracted_member_is_a_plain_network(per: str) -> None:
    family, wanted = mixed(per), plain()
    for arch in wanted.space.enumerate():
        alone = family.extract(arch)
        torch.testing.assert_close(alone(X), family.at(arch)(X), rtol=1e-5, atol=1e-6)
        names = {name: tensor.shape for name, tensor in alone.state_dict().items()}
        assert names == {n: t.shape for n, t in wanted.extract(arch).state_dict().items()}


def test_the_even_mix_starts_with_the_weights_own_spread() -> None:
    torch.manual_seed(0)
    family = mn.elastic(
        nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 4)),
        torch.zeros(1, 64),
        width=(0.5, 1.0),
    )
    spread = float(family.shared.get_parameter("0.weight").detach().std())
    family = mn.bind(family, "0.weight", routed(family.space, experts=4))
    set_router(family, "0", 0.0, 0.0)
    assert float(family.extract({})[0].weight.detach().std()) == pytest.approx(spread, rel=0.03)
    assert math.isclose(
        float(family.state_dict()["0.weight.expert0"].detach().std()), 2 * spread, rel_tol=0.01
    )


def test_it_saves_and_loads(tmp_path: object) -> None:
    family = mixed("row")
    family.save(str(tmp_path))
    again = mn.load(str(tmp_path), plain().shared)
    arch = {"0.width": 4}
    torch.testing.assert_close(again.at(arch)(X), family.at(arch)(X), rtol=1e-6, atol=1e-7)


def test_wrong_arguments_are_refused() -> None:
    family = plain()
    with pytest.raises(InputError, match="both are at least 1"):
        routed(family.space, experts=0)
    with pytest.raises(InputError, match=r"weights of \[3, 8\] rows"):
        recipe = routed(family.space, per="row")
        mn.bind(family, ["0.weight", "4.weight"], recipe, together=True)
