"""Fresh shared weights: what a network starts with, and what settling keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings import Generate, Mix
from manynet.bindings.recipes import dictionary, low_rank, mixed, quantized
from manynet.errors import InputError

X = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def network(depth: int = 6, width: int = 24) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(depth)))


def test_a_dictionary_starts_with_the_spread_of_fresh_weights_and_distinct_layers() -> None:
    model = network()
    spread = float(torch.cat([m.weight.detach().flatten() for m in model]).std())  # type: ignore[operator]
    member = mn.bind(model, "*.weight", dictionary(2)).extract({})
    weights = torch.stack([m.weight.detach().flatten() for m in member.children()])  # type: ignore[operator]
    assert float(weights.std()) == pytest.approx(spread, rel=0.25)
    for number in range(1, 6):
        assert not torch.allclose(weights[0], weights[number], atol=0.1 * spread)


@pytest.mark.parametrize("atoms", [1, 2, 4])
def test_the_coefficients_of_each_site_start_at_a_norm_of_one(atoms: int) -> None:
    """In the mean alone is not enough: some layers began at 0.06 and others at 2.3, and stayed."""
    settled = mn.settle(mn.bind(network(12), "*.weight", dictionary(atoms, seed=1)), Generate)
    rows = [t for name, t in settled.named_parameters() if name.endswith(".generate")]
    assert len(rows) == 12
    norms = torch.stack(rows).norm(dim=1)
    assert torch.allclose(norms, torch.ones(12), atol=1e-3)


def test_all_of_it_learns() -> None:
    family = mn.bind(network(), "*.weight", dictionary(3))
    family.at({})(X).square().sum().backward()
    for name, parameter in family.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_low_rank_starts_with_the_spread_of_fresh_weights() -> None:
    model = network(2, 64)
    spread = float(model[0].weight.detach().std())  # type: ignore[index,union-attr,operator]
    member = mn.bind(model, "*.weight", low_rank(8)).extract({})
    weight = member[0].weight.detach()  # type: ignore[index]
    assert torch.linalg.matrix_rank(weight) == 8
    assert float(weight.std()) == pytest.approx(spread, rel=0.2)


def test_a_kernel_may_be_of_low_rank() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3))
    family = mn.bind(model, "*.weight", low_rank(2))
    assert family.at({})(torch.zeros(1, 4, 5, 5)).shape == (1, 6, 3, 3)
    with pytest.raises(InputError, match=r"low_rank\(2\) for 0\.bias of shape \(6,\)"):
        mn.bind(model, "*.bias", low_rank(2))


def test_more_atoms_than_sites_are_refused() -> None:
    with pytest.raises(InputError, match="a dictionary of 4 atoms for 3 sites; give 1 to 3"):
        mn.bind(network(3), "*.weight", dictionary(4))


def test_settling_keeps_every_output_and_drops_the_generator() -> None:
    family = mn.bind(network(), "*.weight", dictionary(2)).eval()
    before = family.at({})(X)
    settled = mn.settle(family, Generate)
    assert torch.equal(settled.at({})(X), before)
    assert not any("code" in name for name in settled.state_dict())
    assert sum(t.numel() for t in settled.extra.values()) == 2 * 24 * 24 + 6 * 2
    settled.at({})(X).sum().backward()
    assert all(p.grad is not None for p in settled.parameters())


def test_settling_a_whole_mix_makes_plain_weights() -> None:
    family = mn.bind(network(3), "*.weight", mixed(2)).eval()
    before = family.at({})(X)
    settled = mn.settle(family, Mix)
    assert torch.allclose(settled.at({})(X), before, atol=1e-6)
    assert sorted(settled.extra) == [f"{n}.weight.mix" for n in range(3)]


def test_what_hangs_on_the_arch_cannot_be_settled() -> None:
    from manynet.bindings import Quantize

    family = mn.bind(network(2), "0.weight", quantized((2, 8)))
    with pytest.raises(
        InputError, match=r"what 0\.weight reads through Quantize hangs on the arch"
    ):
        mn.settle(family, Quantize)
    with pytest.raises(InputError, match="no binding of the family is a Generate; it has Quantize"):
        mn.settle(family, Generate)


def test_generate_refuses_an_unknown_activation() -> None:
    with pytest.raises(InputError, match="activation='gelo' is unknown"):
        Generate(None, (), (2,), None, "gelo")  # type: ignore[arg-type]
