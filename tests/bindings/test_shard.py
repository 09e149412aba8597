"""Rows of a pool: what is assembled of them, and which ones are drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manynet
from manynet.bindings import recipes
from manynet.bindings.shard import assemble, draw_index
from manynet.errors import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_surplus_entries_are_left_out() -> None:
    pool = torch.arange(6.0).view(2, 3)
    assert assemble(pool, torch.tensor([1, 0]), (2, 2)).tolist() == [[3, 4], [5, 0]]


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InputError, match="2 rows of 3 numbers are drawn for a weight of 8"):
        assemble(torch.zeros(2, 3), torch.tensor([0, 1]), (2, 4))


@pytest.mark.parametrize("drawn", [0, 1, 5, 8])
def test_no_row_comes_twice_while_there_are_others(drawn: int) -> None:
    index = draw_index(generator(), drawn, public=8, private=(9, 11))
    assert index.dtype == torch.long
    assert len(set(index.tolist())) == drawn + 2
    assert all(row < 8 for row in index[:drawn].tolist())
    assert index[drawn:].tolist() == [9, 11]


def test_all_rows_come_before_one_comes_again() -> None:
    index = draw_index(generator(), 7, public=3)
    assert sorted(index[:3].tolist()) == sorted(index[3:6].tolist()) == [0, 1, 2]


@pytest.mark.parametrize(
    ("public", "private", "message"),
    [(0, (), "without public ones"), (4, (4, 3), "row 3 is private, and among the first 4")],
)
def test_a_wrong_draw_says_why(public: int, private: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_index(generator(), 2, public=public, private=private)


def test_private_rows_learn_from_their_own_weight_alone() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(3)))
    family = manynet.bind(model, nn.Linear, recipes.sharded(30, 4, private=2))
    member, pool = family.at({}), family.state_dict()["0.weight.shared_pool"]
    indices = [family.state_dict()[f"{number}.weight.index"] for number in range(3)]
    private = [set(index[-2:].tolist()) for index in indices]
    assert set.union(*private) == set(range(24, 30))
    member[1].weight.sum().backward()
    assert pool.grad is not None
    reached = set(pool.grad.abs().sum(1).nonzero().flatten().tolist())
    assert reached == set(indices[1].tolist())
    assert not reached & (private[0] | private[2])


def test_a_pool_too_small_for_private_rows_is_refused() -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(3)))
    with pytest.raises(InputError, match="3 weights with 4 private rows each do not fit"):
        manynet.bind(model, nn.Linear, recipes.sharded(10, 8, private=4))
