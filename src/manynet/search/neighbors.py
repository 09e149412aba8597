"""How well nearest neighbors tell classes apart by a network's features."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import batches, call, device_of, moved
from manynet.errors import InputError

__all__ = ["features_of", "neighbor_accuracy"]


@torch.no_grad()
def features_of(
    network: nn.Module,
    data: Any,
    *,
    before: str | None = None,
    limit: int | None = None,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Return what comes into a network's classifier, and the targets.

    Args:
        network: runs in the mode that it is in.
        data: tensors (inputs, targets), a data set, or batches of them.
        before: the classifier's path; by default the last linear layer.
        limit: batches that are read at most.
        batch_size: samples a batch, where the data does not come in batches.

    Returns:
        features `(N, D)` and targets `(N,)`.

    Raises:
        InputError: there is no such layer, or the network does not run it.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        >>> features_of(network, (torch.zeros(4, 2), torch.zeros(4)))[0].shape
        torch.Size([4, 3])
    """
    layers = {
        path: module
        for path, module in network.named_modules()
        if (isinstance(module, nn.Linear) if before is None else path == before)
    }
    if not layers:
        raise InputError(
            f"there is no layer {before!r} in the network; name its classifier's path"
            if before
            else "the network has no linear layer; name its classifier's path with before="
        )
    path, layer = layers.popitem()
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].flatten(1)))
    targets = []
    try:
        stream = batches(data, batch_size=batch_size)
        for inputs, labels in itertools.islice(stream, limit):
            call(network, moved(inputs, device_of(network)))
            targets.append(labels.to(device_of(network)))
    finally:
        hook.remove()
    if not seen:
        raise InputError(f"the network never ran {path!r}; name another layer with before=")
    return torch.cat(seen), torch.cat(targets)


def neighbor_accuracy(
    features: Tensor, targets: Tensor, *, k: int = 200, fitted: float = 0.66, block: int = 1024
) -> float:
    """Return the share of samples whose nearest neighbors' majority is their class.

    The first samples are the neighbors, the others are judged. Distances are Euclidean; of classes
    with equal votes the lower one wins.

    Args:
        features: `(N, D)`.
        targets: class numbers, `(N,)`.
        k: neighbors; where there are few samples, a tenth of those fitted.
        fitted: the share of samples that are neighbors.
        block: samples judged at a time, to bound the memory.

    Raises:
        InputError: there are fewer than two samples on a side.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [0.1], [0.9], [0.05], [1.1]])
        >>> neighbor_accuracy(x, torch.tensor([0, 1, 0, 1, 0, 1]), k=2)
        1.0
    """
    count = round(fitted * len(features))
    if not 2 <= count <= len(features) - 2:
        raise InputError(
            f"{len(features)} samples with fitted={fitted} leave {count} to fit and "
            f"{len(features) - count} to judge; give at least two of each"
        )
    near = max(1, min(k, count // 10))
    votes = torch.nn.functional.one_hot(targets[:count].long(), int(targets.max()) + 1)
    hits = torch.zeros((), dtype=torch.long, device=features.device)
    for x, y in zip(features[count:].split(block), targets[count:].split(block), strict=True):
        nearest = torch.cdist(x, features[:count]).topk(near, largest=False).indices
        hits += (votes[nearest].sum(1).argmax(1) == y).sum()
    return float(hits) / (len(features) - count)
