"""Samples dealt to clients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manynet.errors import InputError
from manynet.federate import split_dirichlet

LABELS = torch.arange(1000) % 10


@pytest.mark.parametrize("alpha", [0.1, 1.0, 1e4])
def test_every_sample_goes_to_one_client(alpha: float) -> None:
    parts = split_dirichlet(LABELS, 7, alpha=alpha, seed=3)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1000))
    assert min(map(len, parts)) >= 1


def test_alpha_decides_how_unequal_clients_are() -> None:
    def spread(alpha: float) -> float:
        parts = split_dirichlet(LABELS, 5, alpha=alpha)
        shares = [np.bincount(LABELS[part], minlength=10) / len(part) for part in parts]
        return float(np.std(shares, axis=0).mean())

    assert spread(1e5) < 0.01 < spread(1.0) < spread(0.05)


def test_the_seed_decides() -> None:
    first, second, other = (split_dirichlet(LABELS, 4, seed=seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_least_is_kept() -> None:
    assert min(map(len, split_dirichlet(LABELS, 10, alpha=0.1, least=20))) >= 20


def test_what_cannot_be_dealt_is_refused() -> None:
    with pytest.raises(InputError, match="1000 samples cannot be dealt to clients=1001"):
        split_dirichlet(LABELS, 1001)
    with pytest.raises(InputError, match="alpha must be above 0"):
        split_dirichlet(LABELS, 2, alpha=0.0)
    with pytest.raises(InputError, match="raise alpha or lower least"):
        split_dirichlet(torch.zeros(30, dtype=torch.long), 10, alpha=0.01, least=3)
