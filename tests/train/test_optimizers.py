"""What decays, what moves, and the average of the weights."""

from __future__ import annotations

import pytest
import torch
from families import copied, mlp_family, rows, same
from torch import nn
from torch.nn import functional

from manynet.elastic import elastic
from manynet.errors import InputError
from manynet.train import Ema, make_optimizer, parameter_groups


def test_matrices_and_kernels_decay_and_vectors_do_not() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.norm = nn.BatchNorm2d(8)
            self.scale = nn.Parameter(torch.ones(8, 1, 1))
            self.head = nn.Linear(8, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            features = self.norm(self.conv(images)) * self.scale
            return self.head(features.mean((2, 3)))  # type: ignore[no-any-return]

    family = elastic(Net(), (torch.zeros(1, 3, 6, 6),))
    names = {id(parameter): name for name, parameter in family.named_parameters()}
    decaying, other = parameter_groups(family, 0.1)
    assert {names[id(p)] for p in decaying["params"]} == {"conv.weight", "head.weight"}  # type: ignore[attr-defined]
    assert {names[id(p)] for p in other["params"]} == {  # type: ignore[attr-defined]
        "conv.bias",
        "norm.weight",
        "norm.bias",
        "scale",
        "head.bias",
    }
    assert (decaying["weight_decay"], other["weight_decay"]) == (0.1, 0.0)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_step_moves_nothing_that_no_member_touched(name: str) -> None:
    family = mlp_family()
    optimizer = make_optimizer(family, name, 0.1, 0.1)
    inputs, targets = rows()
    smallest = family.space.smallest
    for arch in (family.space.largest, smallest):  # the first step leaves momentum everywhere
        before = copied(family)
        family.zero_grad()
        functional.cross_entropy(family.at(arch)(inputs), targets).backward()
        optimizer.step()
    after = copied(family)
    weight = family.at(smallest)[0].weight  # type: ignore[index]
    rows_touched = len(weight)
    assert rows_touched == 4
    assert not torch.equal(after["0.weight"][:4], before["0.weight"][:4])
    assert torch.equal(after["0.weight"][4:], before["0.weight"][4:])
    assert torch.equal(after["2.weight"][:, 4:], before["2.weight"][:, 4:])


def test_ones_own_optimizer() -> None:
    family = mlp_family()
    made = make_optimizer(
        family,
        lambda groups: torch.optim.RMSprop(groups, lr=0.3),
        None,
        None,  # type: ignore[arg-type]
    )
    assert isinstance(made, torch.optim.RMSprop)
    assert {group["lr"] for group in made.param_groups} == {0.3}
    with pytest.raises(InputError, match="returned int"):
        make_optimizer(family, lambda groups: 3, None, None)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("name", "rate", "decay", "word"),
    [
        ("sdg", None, None, "did you mean 'sgd'"),
        ("sgd", -1.0, None, "learning_rate"),
        ("sgd", float("nan"), None, "learning_rate"),
        ("sgd", None, -1.0, "weight_decay"),
    ],
)
def test_optimizers_that_make_no_sense(
    name: str, rate: float | None, decay: float | None, word: str
) -> None:
    with pytest.raises(InputError, match=word):
        make_optimizer(mlp_family(), name, rate, decay)


def test_a_frozen_family_is_refused() -> None:
    family = mlp_family()
    for parameter in family.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(InputError, match="unfreeze"):
        make_optimizer(family, "sgd", None, None)


def test_the_average_follows_the_weights_and_swaps_in_for_a_while() -> None:
    family = mlp_family()
    ema = Ema(family, 0.9)
    start = copied(family)
    wanted = {name: tensor.clone() for name, tensor in start.items()}
    for update in range(1, 30):
        with torch.no_grad():
            for parameter in family.parameters():
                parameter.add_(0.1)
        ema.update(family)
        decay = min(0.9, (1 + update) / (10 + update))
        for name, tensor in family.state_dict().items():
            wanted[name] = decay * wanted[name] + (1 - decay) * tensor.detach()
    assert all(torch.allclose(ema.averages[n], wanted[n], atol=1e-5) for n in wanted)
    raw = copied(family)
    arch = family.space.smallest
    with ema.swapped(family):
        assert same(copied(family), ema.averages)
        averaged = family.at(arch)(rows()[0])
    assert same(copied(family), raw)
    assert not torch.equal(family.at(arch)(rows()[0]), averaged)
    ema.copy_to(family)
    assert torch.equal(family.at(arch)(rows()[0]), averaged)


def test_the_swap_ends_when_what_is_inside_fails() -> None:
    family = mlp_family()
    ema = Ema(family, 0.5)
    with torch.no_grad():
        next(family.parameters()).add_(1)
    raw = copied(family)
    with pytest.raises(ZeroDivisionError), ema.swapped(family):
        1 / 0
    assert same(copied(family), raw)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.5])
def test_a_decay_out_of_range(decay: float) -> None:
    with pytest.raises(InputError, match=r"0\.999"):
        Ema(mlp_family(), decay)
