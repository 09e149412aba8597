"""A trained network of a given size, from its own weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.errors import InputError
from manynet.family.file import load_family
from manynet.fit import fit_dictionary, fit_low_rank
from manynet.fit._plan import Options, Stack
from manynet.fit._sites import embedding_parameters
from manynet.models import small_gpt

TOKENS = torch.randint(0, 11, (6, 8), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return small_gpt(11, width=16, depth=4, heads=2, length=8)


def size(parameters: object) -> int:
    return sum(p.numel() for n, p in parameters if n not in TABLES)  # type: ignore[attr-defined]


TABLES = {"embedding.weight", "positions.weight", "head.weight"}


def distance(family: mn.Family, model: nn.Module) -> float:
    with torch.no_grad():
        return float((family.eval().at({})(TOKENS) - model(TOKENS)).square().mean())


@pytest.mark.parametrize("share", [0.4, 0.6, 0.85])
@pytest.mark.parametrize("kind", ["dictionary", "atoms", "low rank", "plain", "even"])
def test_the_family_has_the_size_that_was_asked_for(
    model: nn.Module, share: float, kind: str
) -> None:
    family = {
        "dictionary": lambda: fit_dictionary(model, TOKENS, share=share, groups=2),
        "atoms": lambda: fit_dictionary(model, TOKENS, share=share, atoms=1),
        "low rank": lambda: fit_low_rank(model, TOKENS, share=share),
        "plain": lambda: fit_low_rank(model, share=share),
        "even": lambda: fit_low_rank(model, TOKENS, share=share, even=True),
    }[kind]()
    whole = size(model.named_parameters())
    found = size(family.named_parameters())
    assert embedding_parameters(model) == TABLES
    assert found <= share * whole
    assert found > share * whole - (1300 if kind == "even" else 100)


def test_more_bytes_are_no_worse_and_all_bytes_are_the_model(model: nn.Module) -> None:
    errors = [
        distance(fit_dictionary(model, TOKENS, share=s), model) for s in (0.4, 0.6, 0.8, 0.95)
    ]
    assert errors == sorted(errors, reverse=True)
    with pytest.raises(InputError, match="nothing to fit"):
        fit_dictionary(model, TOKENS, share=1.0)


def test_layers_that_are_mixtures_are_found_without_loss(model: nn.Module) -> None:
    with torch.no_grad():
        for place in ("query", "key", "value", "out"):
            layers = [block.attention.get_submodule(place).weight for block in model.blocks]
            layers[2].copy_(0.5 * layers[0] - layers[1])
            layers[3].copy_(0.3 * layers[0] + 0.2 * layers[1])
    whole = size(model.named_parameters())
    kept = 4 * 2 * (16 * 16 + 4)  # of each place, two atoms and four coefficients of each
    share = (whole - 4 * 4 * 16 * 16 + kept) / whole + 1e-6
    fitted = fit_dictionary(model, TOKENS, share=share, where="*attention*")
    assert distance(fitted, model) < 1e-9
    assert distance(fit_low_rank(model, TOKENS, share=share, where="*attention*"), model) > 1e-4


def test_the_residual_heeds_what_goes_in(model: nn.Module) -> None:
    """Inputs that lie in few directions are kept, whatever the weights do elsewhere."""
    seen = {"share": 0.5, "where": "*feed*"}
    heeding = distance(fit_low_rank(model, TOKENS, even=True, **seen), model)  # type: ignore[arg-type]
    blind = distance(fit_low_rank(model, even=True, **seen), model)  # type: ignore[arg-type]
    assert heeding < blind


def test_member_extraction_file_and_gradients_agree(model: nn.Module, tmp_path: Path) -> None:
    before = {name: p.clone() for name, p in model.named_parameters()}
    family = fit_dictionary(model, TOKENS, share=0.6, atoms=2)
    member = family.eval().at({})(TOKENS)
    assert torch.allclose(family.extract({})(TOKENS), member, atol=1e-5)
    family.save(tmp_path)
    again = load_family(tmp_path, small_gpt(11, width=16, depth=4, heads=2, length=8))
    assert torch.allclose(again.eval().at({})(TOKENS), member, atol=1e-5)
    member.square().mean().backward()
    assert all(p.grad is not None for n, p in family.named_parameters() if "atoms" in n)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_the_error_of_a_shape_is_what_is_lost_on_the_data() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 6, 5, generator=generator).double()
    roots = [torch.randn(5, 5, generator=generator).double() for _ in range(3)]
    stack = Stack(["a", "b", "c"], weights, roots)
    options = Options(stack, range(3))
    for point in range(0, len(options.curve.costs), 5):
        shape = options.shape(point)
        assert stack.cost(shape) == options.curve.costs[point]
        lost = stack.left(shape.atoms) if shape.atoms is not None else torch.zeros(3, 6, 5)
        expected = sum(
            float(torch.linalg.svdvals(delta.double() @ root)[rank:].square().sum())
            / float((w @ root).square().sum())
            for delta, root, rank, w in zip(lost, roots, shape.ranks, weights, strict=True)
        )
        assert shape.error == pytest.approx(expected, abs=1e-9)


def test_what_does_not_fit_is_told(model: nn.Module) -> None:
    with pytest.raises(InputError, match=r"share=1\.5; it is above 0"):
        fit_low_rank(model, share=1.5)
    with pytest.raises(InputError, match="are not fitted; raise it"):
        fit_low_rank(model, share=0.1, where="*key*")
    with pytest.raises(InputError, match="groups name the blocks"):
        fit_dictionary(model, TOKENS, share=0.8, groups=[[0, 1], [3]])


class Odd(nn.Module):
    """Blocks of two kinds of sizes: a place has the same shape in some blocks only."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.layers.append(nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_matrices_of_other_shapes_are_groups_of_their_own() -> None:
    torch.manual_seed(0)
    model = Odd()
    family = fit_dictionary(model, torch.randn(20, 6), share=0.7)
    assert size(family.named_parameters()) <= 0.7 * size(model.named_parameters())
