"""Groups of tensors across blocks, and what binding them does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings import across, neighbors
from manynet.bindings.recipes import tied
from manynet.errors import InputError


class Block(nn.Module):
    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up, self.down = nn.Linear(4, hidden), nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def test_matrices_are_grouped_by_their_role_and_vectors_stay() -> None:
    net = nn.Sequential(Block(), Block(), Block())
    assert across(net, ["0", "2"]) == [
        ["0.up.weight", "2.up.weight"],
        ["0.down.weight", "2.down.weight"],
    ]
    assert across(net, ["1"], private=lambda name, tensor: "norm" not in name) == [
        ["1.norm.weight"],
        ["1.norm.bias"],
    ]


def test_tied_across_blocks_a_matrix_is_stored_once_and_norms_are_their_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Block(), Block(), Block())
    with torch.no_grad():
        net[1].norm.weight.fill_(2.0)
    family = mn.bind(net, across(net, ["0", "1"]), tied())
    member = family.at({})
    assert member[0].up.weight is member[1].up.weight
    assert member[0].norm.weight is not member[1].norm.weight
    assert float(member[1].norm.weight.detach().mean()) == 2.0
    assert "1.up.weight" not in family.state_dict()
    assert torch.equal(member[2].up.weight, net[2].up.weight)


def test_blocks_that_are_not_alike_are_refused() -> None:
    net = nn.Sequential(Block(), Block(16), nn.LayerNorm(4))
    with pytest.raises(InputError, match=r"1 and 0 are not alike: up.weight has shape \(16, 4\)"):
        across(net, ["0", "1"])
    with pytest.raises(InputError, match="no parameter that is not private"):
        across(net, ["2"])
    with pytest.raises(InputError, match="at least one"):
        across(net, [])


def test_neighbors_follow_each_other() -> None:
    assert neighbors(range(5), 2) == [[0, 1], [2, 3], [4]]
    assert neighbors(["a", "b"], 1) == [["a"], ["b"]]
    with pytest.raises(InputError, match="size=0"):
        neighbors(["a"], 0)
