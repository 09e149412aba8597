"""One choice for the axes of a role: the same size everywhere, each in an order of its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, width), nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def net(*widths: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *(Block(width) for width in widths), nn.Linear(8, 2))


def choices(family: mn.Family) -> dict[str, tuple[object, ...]]:
    return {choice.name: choice.values for choice in family.space.choices}


def test_blocks_of_one_size_share_a_choice() -> None:
    family = mn.elastic(
        net(16, 16, 16), torch.zeros(1, 4), width=(0.5, 1.0), uniform=True, depth=False
    )
    assert choices(family) == {"0.width": (4, 8), "*.up.width": (8, 16)}
    member = family.extract({"*.up.width": 8})
    assert [member[i].up.out_features for i in (1, 2, 3)] == [8, 8, 8]


def test_blocks_of_other_sizes_have_their_own() -> None:
    family = mn.elastic(
        net(16, 32, 16, 32), torch.zeros(1, 4), width=(0.5, 1.0), uniform=True, depth=False
    )
    assert len(choices(family)) == 3 or len(choices(family)) == 5
    sizes = {values[-1] for name, values in choices(family).items() if name != "0.width"}
    assert sizes == {16, 32}


def test_each_block_keeps_its_own_most_important_units() -> None:
    model = net(16, 16)
    with torch.no_grad():
        for number, first in ((1, 0), (2, 8)):
            model[number].up.weight.fill_(0.01)
            model[number].down.weight.fill_(0.01)
            model[number].up.weight[first : first + 8] = 1.0
            model[number].down.weight[:, first : first + 8] = 1.0
    family = mn.elastic(model, torch.zeros(1, 4), width=(0.5, 1.0), uniform=True, depth=False)
    small = family.extract({"*.up.width": 8})
    assert all((small[number].up.weight == 1).all() for number in (1, 2))
    inputs = torch.randn(3, 4)
    torch.testing.assert_close(family.at(family.space.largest)(inputs), model(inputs))


def test_patterns_say_which_axes_are_meant() -> None:
    family = mn.elastic(
        net(16, 16, 16),
        torch.zeros(1, 4),
        width=(0.5, 1.0),
        uniform=("[12].up.width",),
        depth=False,
    )
    assert set(choices(family)) == {"0.width", "*.up.width", "3.up.width"}
    with pytest.raises(InputError, match=r"uniform: the pattern 'x\*' fits nothing"):
        mn.elastic(net(16, 16), torch.zeros(1, 4), uniform=("x*",))


def test_what_is_kept_in_one_block_is_kept_in_all() -> None:
    family = mn.elastic(
        net(16, 16), torch.zeros(1, 4), width=(0.5, 1.0), uniform=True, keep=("1.up",)
    )
    assert "*.up.width" not in choices(family)


def test_a_uniform_family_survives_its_folder(tmp_path: object) -> None:
    family = mn.elastic(net(16, 16), torch.zeros(1, 4), width=(0.5, 1.0), uniform=True)
    family.save(str(tmp_path))
    again = mn.load(str(tmp_path), model=net(16, 16))
    inputs, arch = torch.randn(3, 4), family.space.smallest
    torch.testing.assert_close(again.at(arch)(inputs), family.at(arch)(inputs))
