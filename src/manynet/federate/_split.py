"""`split_dirichlet`: samples dealt out to clients that see the classes unequally often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["split_dirichlet"]

TRIES = 1000


def split_dirichlet(
    labels: Tensor | npt.NDArray[np.int64],
    clients: int,
    *,
    alpha: float = 0.5,
    seed: int = 0,
    least: int = 1,
) -> list[Tensor]:
    """Return the indices of each client's samples; every sample belongs to one client.

    Each class is dealt out in shares drawn from a Dirichlet distribution: with a small `alpha` a
    client has few classes, with a large one all clients are alike.

    Args:
        labels: class of each sample, `(N,)`.
        clients: how many.
        alpha: concentration of the shares.
        seed: decides the split.
        least: samples that each client gets at the very least; shares are drawn again until then.

    Raises:
        InputError: there are too few samples, or no draw gave every client enough.

    Example:
        >>> import torch
        >>> parts = split_dirichlet(torch.arange(100) % 10, 4, alpha=0.1)
        >>> sum(map(len, parts))
        100

    Reference: Hsu et al. 2019, arXiv 1909.06335.
    """
    known = np.asarray(labels)
    if clients < 1 or not alpha > 0 or clients * least > len(known):
        raise InputError(
            f"{len(known)} samples cannot be dealt to clients={clients} with alpha={alpha} and "
            f"least={least}; alpha must be above 0, and there must be enough samples"
        )
    rng = np.random.default_rng(seed)
    for _ in range(TRIES):
        parts: list[list[int]] = [[] for _ in range(clients)]
        for label in np.unique(known):
            own = rng.permutation(np.flatnonzero(known == label))
            shares = rng.dirichlet(np.full(clients, alpha))
            cuts = np.round(np.cumsum(shares)[:-1] * len(own)).astype(int)
            for part, indices in zip(parts, np.split(own, cuts), strict=True):
                part.extend(indices.tolist())
        if min(map(len, parts)) >= least:
            return [torch.tensor(sorted(part), dtype=torch.int64) for part in parts]
    raise InputError(
        f"in {TRIES} draws no split gave each of {clients} clients {least} samples with "
        f"alpha={alpha}; raise alpha or lower least"
    )
