"""Nearest neighbors by features, and what is forgotten between tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manynet.errors import InputError
from manynet.search import average_accuracy, features_of, forgetting, neighbor_accuracy


def test_neighbors_agree_with_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()
    judge = neighbors.KNeighborsClassifier(15).fit(x[:198].numpy(), y[:198].numpy())
    expected = judge.score(x[198:].numpy(), y[198:].numpy())
    assert neighbor_accuracy(x, y, k=15) == pytest.approx(expected)
    assert neighbor_accuracy(x, y, k=15, block=7) == pytest.approx(expected)


def test_few_samples_take_few_neighbors_and_too_few_are_refused() -> None:
    x = torch.cat([torch.zeros(10, 1), torch.ones(10, 1)])[torch.randperm(20)]
    assert neighbor_accuracy(x, x[:, 0].long()) == 1.0
    with pytest.raises(InputError, match="2 samples with fitted"):
        neighbor_accuracy(x[:2], x[:2, 0])


def test_features_are_what_comes_into_the_classifier() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    x, y = torch.randn(10, 3), torch.arange(10)
    features, targets = features_of(network, (x, y), batch_size=4)
    assert torch.allclose(features, network[:2](x).detach())  # batches of other sizes round apart
    assert torch.equal(targets, y)
    assert torch.equal(features_of(network, (x, y), before="0")[0], x)
    assert len(features_of(network, (x, y), batch_size=4, limit=2)[0]) == 8
    for before, told in (("9", "no layer '9'"), (None, "no linear layer")):
        bad = network if before else nn.Tanh()
        with pytest.raises(InputError, match=told):
            features_of(bad, (x, y), before=before)


def test_forgetting_is_against_the_best_there_was() -> None:
    table = [[0.5], [0.9, 0.6], [0.7, 0.8, 0.9]]
    assert forgetting(table) == pytest.approx([-0.2, 0.0, 0.0])
    assert average_accuracy(table) == pytest.approx(0.8)
    for bad in ([], [[1.0, 1.0]], [[1.0], [1.0]]):
        with pytest.raises(InputError, match="rows have lengths"):
            forgetting(bad)
