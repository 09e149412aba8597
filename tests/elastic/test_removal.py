"""Models without the blocks that matter least."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manynet.elastic import KnownImportance, remove_blocks
from manynet.errors import InputError

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.inner(x))


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(4)))


def test_the_blocks_of_the_lowest_scores_go() -> None:
    model = deep()
    scores = KnownImportance({"0": 3.0, "1": 1.0, "2": 4.0, "3": 2.0})
    found = remove_blocks(model, X, 2, importance=scores)
    assert torch.equal(found(X), model[2](model[0](X)))
    assert len(model) == 4
    assert torch.equal(remove_blocks(model, X, 0, importance=scores)(X), model(X))


def test_by_default_gates_decide() -> None:
    model = deep()
    with torch.no_grad():
        for block in (model[1], model[2]):
            block.inner.weight.zero_()
            block.inner.bias.zero_()
    data = [(X, model(X).detach())]
    found = remove_blocks(model, X, 2, data=data, loss=nn.functional.mse_loss)
    assert torch.equal(found(X), model(X))


def test_more_than_there_is_cannot_be_removed() -> None:
    with pytest.raises(InputError, match="cannot remove 4 blocks of one run of blocks; found 4"):
        remove_blocks(deep(), X, 4, data=[X])
    with pytest.raises(InputError, match=r"cannot remove -1 .* found 4"):
        remove_blocks(deep(), X, -1, data=[X])
