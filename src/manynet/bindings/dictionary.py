"""Recipes that give a group fresh shared weights, for training from scratch.

`dictionary` lets all sites mix a few atoms by coefficients that a small network makes while they
train; `low_rank` gives each site two thin matrices of its own. The values that the sites have are
not kept, only their spread: a network starts as an ordinary one of fresh weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from manynet.bindings.generate import Generate
from manynet.bindings.low_rank import LowRank
from manynet.bindings.mix import Mix
from manynet.bindings.protocol import Binding
from manynet.bindings.site import Group, Site
from manynet.errors import InputError

__all__ = ["dictionary", "low_rank"]


def dictionary(
    atoms: int, *, code: int = 32, hidden: int = 64, seed: int = 0
) -> Callable[[Group], list[Binding]]:
    """Mix shared `atoms` by coefficients that one perceptron makes of a code of each site.

    The atoms start as the values of as many sites, evenly spaced, which should be fresh; the
    coefficients of a site have a norm near one, and so its weight the spread of an ordinary one.
    Once trained, `manynet.settle(family, Generate)` keeps the coefficients and drops the network.

    Args:
        atoms: shared by all sites of the group.
        code: numbers that each site learns; they start at random, since sites of equal codes
            would stay equal for good.
        hidden: units of the perceptron's two hidden layers, with GELU.
        seed: of codes and perceptron.

    Raises:
        InputError: there are fewer sites than atoms, or no atom.

    Reference: Zhussip et al. 2026, arXiv 2508.04581 (MASA), which has the three layers; its sizes
    and its start could not be confirmed and are ours.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: Tensor, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(like)

    def apply(group: Group) -> list[Binding]:
        count = len(group.sites)
        if not 1 <= atoms <= count:
            raise InputError(
                f"a dictionary of {atoms} atoms for {count} sites; give 1 to {count} atoms"
            )
        like = group.sites[0].tensor
        chosen = [group.sites[number * count // atoms].tensor for number in range(atoms)]
        shared = group.parameter("atoms", torch.stack(chosen))
        codes = normal(like, count, code)
        layers: list[Tensor] = []
        for outputs, inputs in ((hidden, code), (hidden, hidden), (atoms, hidden)):
            weight = normal(like, outputs, inputs) * math.sqrt(2 / inputs)
            layers += [weight, torch.zeros_like(weight[:, 0])]
        layers[-2] /= _perceptron(codes, layers).norm(dim=1).mean()
        roles = [f"coder{n // 2}_{'bias' if n % 2 else 'weight'}" for n in range(len(layers))]
        bound = tuple(
            group.parameter(role, value) for role, value in zip(roles, layers, strict=True)
        )
        return [
            _mixed(site, shared, own, bound, atoms)
            for site, own in zip(group.sites, codes, strict=True)
        ]

    return apply


def _mixed(
    site: Site, shared: Binding, code: Tensor, layers: tuple[Binding, ...], atoms: int
) -> Binding:
    own = Generate(site.parameter("code", code), layers, (atoms,), activation="gelu")
    return site.reads(Mix((shared,), own))


def _perceptron(codes: Tensor, layers: list[Tensor]) -> Tensor:
    x = functional.linear(codes, layers[0], layers[1])
    for number in range(2, len(layers), 2):
        x = functional.linear(functional.gelu(x), layers[number], layers[number + 1])
    return x


def low_rank(rank: int, *, seed: int = 0) -> Callable[[Group], list[Binding]]:
    """Give each site two fresh matrices of this `rank`, whose product has its values' spread.

    Raises:
        InputError: the rank is below 1, or a site has fewer than two dimensions.
    """
    generator = torch.Generator().manual_seed(seed)

    def apply(group: Group) -> list[Binding]:
        bound: list[Binding] = []
        for site in group.sites:
            value = site.tensor
            if rank < 1 or value.dim() < 2:
                raise InputError(
                    f"low_rank({rank}) for {site.name} of shape {tuple(value.shape)}; it needs a "
                    "rank of at least 1 and a matrix or kernel"
                )
            spread = (value.float().std() / math.sqrt(rank)).sqrt().to(value)
            left = torch.randn((len(value), rank), generator=generator).to(value) * spread
            right = torch.randn((rank, *value.shape[1:]), generator=generator).to(value) * spread
            factors = (site.parameter("left", left), site.parameter("right", right))
            bound.append(site.reads(LowRank(*factors)))
        return bound

    return apply
