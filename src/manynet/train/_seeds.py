"""Every random number of a training run follows from its seed and the number of the step.

So a run that was resumed draws what the uninterrupted one would have drawn, and no generator's
state has to be saved.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["own_randomness", "seed_all", "seed_of"]


def seed_of(*parts: int) -> int:
    """Return a number of 63 bits, well mixed from several."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(seed: int) -> None:
    """Seed the generators that layers, losses and augmentations draw from."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Give the user's generators back as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
