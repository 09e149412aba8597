"""Copies of module trees: what stands where a block was left out."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import Tensor, nn

import manynet
from manynet.family.skeleton import Skeleton


class Block(nn.Module):
    """A residual block that takes more than its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor, scale: float, shift: float | None = None) -> Tensor:
        return x + scale * self.inner(x) + (shift or 0.0)


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x, 0.5, shift=None)
        return x


def test_a_block_of_several_arguments_is_left_out() -> None:
    model, x = Stack(), torch.randn(2, 3)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    short, _ = Skeleton(model).build(tensors, dropped=["blocks.1", "blocks.2"])
    expected = model.blocks[0](model.first(x), 0.5)
    assert torch.equal(short(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(short)))(x), expected)
    assert torch.equal(torch.export.export(short, (x,)).module()(x), expected)


def test_members_of_fewer_blocks_run_where_blocks_take_several_arguments() -> None:
    x = torch.randn(2, 3)
    family = manynet.elastic(Stack(), x, width=None)
    assert [choice.name for choice in family.space.choices] == ["blocks.depth"]
    smallest = family.extract(family.space.smallest)
    assert sum(p.numel() for p in smallest.parameters()) < 100
    assert smallest(x).shape == (2, 6)


def test_a_block_of_one_argument_becomes_an_identity() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    short, _ = Skeleton(model).build(dict(model.named_parameters()), dropped=["b"])
    assert isinstance(short.get_submodule("b"), nn.Identity)
