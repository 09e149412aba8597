"""MASA: its exact checks, on networks small enough to compute by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import manynet as mn
from manynet.bindings import Mix
from manynet.bindings.recipes import mixed
from manynet.bindings.site import Group
from manynet.models import small_gpt
from manynet.systems.masa import (
    CODER_RATE,
    SYSTEM,
    TIES,
    finish_masa,
    fit_masa,
    share_attention,
    tie,
    train_masa,
)

TOKENS = torch.randint(0, 13, (4, 10), generator=torch.Generator().manual_seed(0))
PLACES = ("query", "key", "value", "out")


def network(width: int = 12, depth: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return small_gpt(13, width=width, depth=depth, heads=2, length=10)


def given(coefficients: Tensor) -> mn.Family:
    """Return the family of six layers whose coefficients are these, in every projection."""
    count = coefficients.shape[1]

    def apply(group: Group) -> list[Mix]:
        chosen = [coefficients[:, s].argmax() for s in range(count)]
        atoms = group.parameter("atoms", torch.stack([group.sites[n].tensor for n in chosen]))
        return [
            Mix((atoms,), site.parameter("coefficients", row))
            for site, row in zip(group.sites, coefficients, strict=True)
        ]

    groups = [[f"blocks.*.attention.{place}.weight"] for place in PLACES]
    return mn.bind(network(), groups, apply)


def one_hot(part: list[int], count: int) -> Tensor:
    return torch.eye(count)[part]


def test_member_extraction_and_settled_family_agree() -> None:
    family = share_attention(network(), atoms=2).eval()
    atom_model = family.at({})(TOKENS)
    materialized = family.extract({})(TOKENS)
    assert torch.allclose(materialized, atom_model, atol=1e-5)
    settled = finish_masa(family)
    assert torch.equal(settled.at({})(TOKENS), atom_model)
    assert not any("code" in name for name in settled.state_dict())


@pytest.mark.parametrize("name", TIES)
def test_one_hot_coefficients_are_tied_layers(name: str) -> None:
    part = [TIES[name](layer) for layer in range(6)]
    mix, tied = given(one_hot(part, 2)).eval(), tie(network(), TIES[name]).eval()
    assert torch.equal(mix.at({})(TOKENS), tied.at({})(TOKENS))
    expected = {"sequential": [0, 0, 0, 1, 1, 1], "repeat all over": [0, 1, 0, 1, 0, 1]}
    assert part == expected[name]


def test_as_many_atoms_as_layers_and_one_each_is_the_model() -> None:
    family = given(torch.eye(6)).eval()
    assert torch.equal(family.at({})(TOKENS), network().eval()(TOKENS))


def test_a_projection_takes_atoms_and_coefficients() -> None:
    plain = share_attention(network(60), atoms=2)
    family = finish_masa(plain)
    own = [t for n, t in family.named_parameters() if ".query." in n]
    assert sum(t.numel() for t in own) == 2 * (60 * 60 + 6) == 7_212
    whole = [t for n, t in network(60).named_parameters() if ".query." in n]
    assert sum(t.numel() for t in whole) == 21_600


def test_gradients_of_atoms_and_coefficients_are_those_of_the_chain_rule() -> None:
    family = mn.bind(network(), [["blocks.*.attention.query.weight"]], mixed(2))
    family.at({})(TOKENS).square().mean().backward()
    found = dict(family.named_parameters())
    names = [f"blocks.{n}.attention.query.weight" for n in range(6)]
    plain = family.extract({})
    plain.zero_grad()
    plain(TOKENS).square().mean().backward()
    grads = [plain.get_parameter(name).grad for name in names]
    atoms = found[f"{names[0]}.shared_atoms"]
    own = [found[f"{name}.coefficients"] for name in names]
    for s in range(2):
        expected = sum(
            float(c[s].detach()) * g for c, g in zip(own, grads, strict=True) if g is not None
        )
        assert atoms.grad is not None
        assert torch.allclose(atoms.grad[s], torch.as_tensor(expected), atol=1e-6)
        for c, g in zip(own, grads, strict=True):
            assert c.grad is not None and g is not None
            assert torch.allclose(c.grad[s], (atoms[s].detach() * g).sum(), atol=1e-6)


def test_codes_and_perceptrons_do_not_decay_and_atoms_do_once() -> None:
    """With a learning rate but no gradient, decay is all that moves a weight."""
    family = share_attention(network(), atoms=2)
    before = {name: p.detach().clone() for name, p in family.named_parameters()}
    still = mn.Task(loss=lambda logits, targets: logits.sum() * 0.0)
    options = {"schedule": "constant", "warmup": 0, "learning_rate": 0.1, "weight_decay": 0.5}
    train_masa(family, (TOKENS, TOKENS), steps=1, batch_size=4, objective=still, **options)
    for name, parameter in family.named_parameters():
        if name.endswith(".code") or ".shared_coder" in name:
            assert torch.equal(parameter, before[name]), name
        if name.endswith(".shared_atoms"):
            assert torch.allclose(parameter, before[name] * (1 - 0.1 * 0.5)), name


def test_a_fitted_network_keeps_all_but_its_attention() -> None:
    model = network(16, 4)
    family = fit_masa(model, TOKENS, share=0.85)
    fitted, plain = family.extract({}).state_dict(), model.state_dict()
    for name, value in plain.items():
        assert torch.equal(fitted[name], value) is (".attention." not in name), name
    total = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("blocks", "norm")))
    found = sum(p.numel() for n, p in family.named_parameters() if n.startswith(("blocks", "norm")))
    assert 0.84 * total < found <= 0.85 * total


def test_coefficients_move_slowly_beside_the_atoms() -> None:
    """At the atoms' rate one step threw a layer's coefficients about; tied layers did better."""
    family = share_attention(network(24), atoms=2)
    before = {n: t.detach().clone() for n, t in family.named_parameters()}
    options = {"schedule": "constant", "warmup": 0, "weight_decay": 0.0, "batch_size": 4}
    train_masa(family, (TOKENS[:, :-1], TOKENS[:, 1:]), steps=1, learning_rate=0.01, **options)
    moved = {n: float((t.detach() - before[n]).abs().max()) for n, t in family.named_parameters()}
    (atom,) = (n for n in moved if ".query." in n and n.endswith(".shared_atoms"))
    (last,) = (n for n in moved if ".query." in n and n.endswith("coder2_weight"))
    assert moved[atom] == pytest.approx(0.01, rel=0.05)
    assert moved[last] == pytest.approx(0.01 * CODER_RATE, rel=0.05)


class Encoder(nn.Module):
    """A network of a user's own, which is no decoder: layers of PyTorch over vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(4))
        self.head = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return self.head(x)  # type: ignore[no-any-return]


def test_the_recipe_trains_and_fits_any_network() -> None:
    torch.manual_seed(0)
    family = share_attention(Encoder(), atoms=2, where="layers.*")
    x = torch.randn(256, 10, generator=torch.Generator().manual_seed(1))
    data = (x, x[:, :3].argmax(1))
    train_masa(family, data, steps=150, batch_size=64, objective=mn.Task(), learning_rate=1e-2)
    family = finish_masa(family)
    assert float(mn.accuracy(data)(family.eval().at({}))) > 0.9
    fitted = fit_masa(family.extract({}), x, share=0.75, where="layers.*")
    assert float(mn.accuracy(data)(fitted.eval().at({}))) > 0.85


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(SYSTEM.example, scope)
    assert "atoms" in capsys.readouterr().out


def test_fitting_is_functional() -> None:
    """The materialized weights run through the user's own forward pass."""
    model = network(16, 4)
    family = fit_masa(model, TOKENS, share=0.85).eval()
    weights = dict(family.extract({}).named_parameters())
    assert torch.allclose(
        functional_call(model.eval(), weights, (TOKENS,)), family.at({})(TOKENS), atol=1e-5
    )
