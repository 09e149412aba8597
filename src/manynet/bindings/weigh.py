"""`weighed`: each weight is a sum of given ones, every entry times a learned number of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from manynet.bindings.mix import Mix
from manynet.bindings.protocol import Binding
from manynet.bindings.site import Group

__all__ = ["weighed"]


def weighed(
    parts: Sequence[tuple[nn.Module, float]],
    *,
    start: Literal["tap", "random"] = "tap",
    seed: int = 0,
) -> Callable[[Group], list[Binding]]:
    """Sum the weights of several networks, entry by entry, with a learned number for each.

    The networks' weights are held; only the numbers learn.

    Args:
        parts: networks, and how much each counts beside; their parameters have the sites' names.
        start: `"tap"` begins with ones, so with the sum by the shares; `"random"` with normal ones.
        seed: of a random start.

    Reference: Shen et al. 2024, MobiSys (the weight vectors of FedConv).
    """
    generator = torch.Generator().manual_seed(seed)
    total = sum(samples for _, samples in parts)
    weights = [dict(network.named_parameters()) for network, _ in parts]
    shares = [samples / total for _, samples in parts]

    def recipe(group: Group) -> list[Binding]:
        bound: list[Binding] = []
        for site in group.sites:
            atoms = tuple(
                site.buffer(f"client{n}", part[site.name].detach() * share)
                for n, (part, share) in enumerate(zip(weights, shares, strict=True))
            )
            shape = (*site.tensor.shape, len(atoms))
            ones = start == "tap"
            vectors = torch.ones(shape) if ones else torch.randn(shape, generator=generator)
            bound.append(Mix(atoms, site.parameter("vectors", vectors.to(site.tensor))))
        return bound

    return recipe
