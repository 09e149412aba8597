"""One data set made into many tasks: the same samples with their entries in other orders."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from manynet.data._batches import batches
from manynet.data._data import Data, Samples

__all__ = ["permuted"]


def permuted(data: Data, count: int, *, seed: int = 0) -> list[Data]:
    """Return `count` tasks, each with the entries of every input in a random order of its own.

    The benchmark "permuted MNIST" for learning tasks one after another: all are as hard as each
    other, for a network without convolutions, and none helps with the next one's first layer.

    Args:
        data: inputs of one tensor each; they are held in memory, once for each task.
        count: tasks.
        seed: decides the orders.

    Shapes:
        inputs of `(C, H, W)` become `(C * H * W,)`.

    Reference: Goodfellow et al. 2013, arXiv 1312.6211.

    Example:
        >>> from manynet.data import load_data
        >>> first, second = permuted(load_data("digits"), 2)
        >>> first.input_shape, bool((first.train[0][0] == second.train[0][0]).all())
        ((64,), False)
    """
    generator = torch.Generator().manual_seed(seed)
    sets = [_whole(part) for part in (data.train, data.val, data.test)]
    tasks = []
    for number in range(count):
        order = torch.randperm(sets[0][0].shape[1], generator=generator)
        train, val, test = (TensorDataset(x[:, order], y) for x, y in sets)
        shape, name = (len(order),), f"{data.name}, order {number}"
        tasks.append(replace(data, train=train, val=val, test=test, input_shape=shape, name=name))
    return tasks


def _whole(samples: Samples) -> tuple[Tensor, Tensor]:
    inputs, targets = next(batches(samples, len(samples)))  # type: ignore[arg-type]
    return cast("Tensor", inputs).flatten(1), targets
