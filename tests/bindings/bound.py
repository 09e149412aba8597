"""A small network whose weights are bound in every computed way, and what it computes by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import manynet
from manynet.bindings import recipes
from manynet.bindings.hyper import hypernetwork
from manynet.bindings.operation import evaluate
from manynet.bindings.routed import routed
from manynet.family import Family
from manynet.space import Arch


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Blocks(nn.Module):
    """Two equal residual blocks, so that there is something to tie, mix and draw shards for."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


WEIGHTS = "blocks.*.[ud]*.weight"
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def _model() -> Blocks:
    torch.manual_seed(0)
    return Blocks()


def _elastic() -> Family:
    return manynet.elastic(_model(), (X,), width=(0.5, 1.0))


def _by(recipe: Callable[[], recipes.Recipe], together: bool = False) -> Callable[[], Family]:
    return lambda: manynet.bind(_model(), WEIGHTS, recipe(), together=together)


def _through(first: Callable[[], Family], recipe: Callable[[], recipes.Recipe]) -> Family:
    return manynet.bind(first(), WEIGHTS, recipe())


def _routed() -> Family:
    family = _elastic()
    return manynet.bind(family, WEIGHTS, routed(family.space, hidden=8))


BOUND: dict[str, Callable[[], Family]] = {
    "mask": _by(lambda: recipes.masked(0.5, tasks=2)),
    "hold": _by(lambda: recipes.masked(0.5, hold=True)),
    "tie": _by(lambda: recipes.tied(scale=True)),
    "mix": _by(lambda: recipes.mixed(2)),
    "route": _by(lambda: recipes.separated("task", (0, 1))),
    "routed mix": _routed,
    "shard": _by(lambda: recipes.sharded(64, 8)),
    "generate": _by(lambda: recipes.generated(chunk=32)),
    "generate once": _by(lambda: hypernetwork(hidden=(10,)), together=True),
    "quantize": _by(lambda: recipes.quantized((4, 8))),
    "quantize learned": _by(lambda: recipes.quantized(4, learned=True)),
    "compand": _by(lambda: recipes.companded(slope=(1.2, 1.5), learned=True)),
    "power": _by(lambda: recipes.powered(1.5)),
    "low rank": _by(lambda: recipes.low_rank(2)),
    "dictionary": _by(lambda: recipes.dictionary(2)),
    "quantized slice": lambda: _through(_elastic, lambda: recipes.quantized((4, 8))),
    "masked tie": lambda: _through(BOUND["tie"], lambda: recipes.masked(0.5)),
    "quantized mix": lambda: _through(BOUND["mix"], lambda: recipes.quantized(4)),
}
"""Families of one network, by how its blocks' weights are bound."""


def archs(family: Family) -> list[Arch]:
    """Return the ends of the space and what lies between, at most four."""
    found = [family.space.largest, family.space.smallest, *family.space.enumerate()]
    return list(dict.fromkeys(found))[:4]


def by_hand(family: Family, arch: Arch, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what the member of `arch` computes, out of leaves that autograd follows by itself."""
    leaves = {
        name: tensor.detach().clone().requires_grad_(tensor.requires_grad)
        for name, tensor in family.state_dict().items()
    }
    alone, sizes = family.extract(arch), family._sizes(arch)
    with torch.autocast("cpu", enabled=False):
        values = {
            name: evaluate(family.blueprint.bindings[name].at(arch, sizes), leaves)
            if name in family.blueprint.bindings
            else leaves[name]
            for name, _ in alone.named_parameters()
        }
    return torch.func.functional_call(alone, values, (x,)), leaves


def gradients(family: Family) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
