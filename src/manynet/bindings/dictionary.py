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
    coefficients of each site start in a direction of its own and with a norm of one, so that its
    weight has the spread of an ordinary one. (Where the perceptron is merely scaled, so that the
    norm is one in the mean, some sites start near zero and others far too large.) Once trained,
    `manynet.settle(family, Generate)` keeps the coefficients and drops the network.

    Args:
        atoms: shared by all sites of the group.
        code: numbers that each site learns; they start at random, since sites of equal codes
            would stay equal for good.
        hidden: units of the perceptron's two hidden layers, with GELU.
        seed: of codes and perceptron.

    Raises:
        InputError: there are fewer sites than atoms, or no atom.

    Reference: Zhussip et al. 2026, arXiv 2508.04581 (MASA), which has the three layers; its sizes
    and its start could not be confirmed and are ours. More sites than hidden units have norms near
    one.
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
        for inputs in (code, hidden):
            weight = normal(like, hidden, inputs) * math.sqrt(2 / inputs)
            layers += [weight, torch.zeros_like(weight[:, 0])]
        directions = functional.normalize(normal(like, count, atoms), dim=1)
        last = _fitted(_features(codes, layers), directions)
        layers += [last, torch.zeros_like(last[:, 0])]
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


def _features(codes: Tensor, layers: list[Tensor]) -> Tensor:
    """Return the last hidden layer's outputs, `(sites, hidden)`."""
    x = codes
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        x = functional.gelu(functional.linear(x, weight, bias))
    return x


def _fitted(features: Tensor, wanted: Tensor) -> Tensor:
    """Return the smallest matrix that maps each row of features to the row that is wanted."""
    inverse: Tensor = torch.linalg.pinv(features.double().cpu())
    found = (inverse @ wanted.double().cpu()).T.to(wanted)
    return found.contiguous()


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
