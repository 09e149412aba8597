"""`routed`: several experts a layer, and a router that mixes them by the arch.

What a member reads is the experts' sum, each times a coefficient that a small network makes of the
arch, and of that sum its slice. The sum depends on nothing else, so it is taken once after each
step, and an extracted member is a plain network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from manynet.bindings.generate import Generate
from manynet.bindings.mix import Mix
from manynet.bindings.operation import evaluate, walk
from manynet.bindings.protocol import Binding
from manynet.bindings.recipes import Recipe
from manynet.bindings.route import Encode
from manynet.bindings.site import Group, Site
from manynet.errors import InputError
from manynet.space import Arch, Space, Value

__all__ = ["coefficients", "routed"]


def routed(
    space: Space,
    *,
    experts: int = 2,
    per: Literal["layer", "row"] = "layer",
    hidden: int = 128,
    sees: Sequence[str] | None = None,
    start: Literal["apart", "alike"] = "apart",
    seed: int = 0,
) -> Recipe:
    """Mix experts by coefficients that a router makes of the arch; one router a group.

    A weight and its bias, and the matrices of one block, belong in one group: call `bind` with
    `together=True`.

    Args:
        space: whose archs the router sees.
        experts: how many each weight has.
        per: whether a coefficient is a `"layer"`'s or that of each `"row"` of the weight (each
            output neuron, and the entry of the bias that belongs to it).
        hidden: width of the router's one hidden layer.
        sees: names of the choices that the router sees; all of them by default. With none it is
            blind: its coefficients are learned, and the same for all members.
        start: `"apart"` gives each expert the entries of the weight in an order of its own, times
            the root of their number, so that the even mix has the spread of the weight; `"alike"`
            gives each the weight itself, which suits a trained model.
        seed: of the router's first weights and the experts' orders.

    Raises:
        InputError: there is no expert or no hidden unit, a choice is unknown, or a group mixes
            rows of different numbers.

    Example:
        >>> import manynet
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = manynet.elastic(model, torch.zeros(1, 4), width=(0.5, 1.0))
        >>> both = ["0.weight", "0.bias"]
        >>> family = manynet.bind(family, [both], routed(family.space), together=True)
        >>> family.extract(family.space.smallest)[0]
        Linear(in_features=4, out_features=4, bias=True)

    Reference: Jawahar et al. 2023, arXiv 2306.04845 (Mixture-of-Supernets). The scaled start is
    ours; theirs draws each expert as the plain layer, whose even mix has a smaller spread.
    """
    if experts < 1 or hidden < 1:
        raise InputError(f"experts={experts}, hidden={hidden}: both are at least 1")
    seen = [space[name] for name in (space.names if sees is None else sees)]
    generator = torch.Generator().manual_seed(seed)

    def apply(group: Group) -> list[Binding]:
        logits = None
        if experts > 1:
            code, entries = _code(group, [(c.name, c.values) for c in seen])
            shape = (experts,) if per == "layer" else (_rows(group), experts)
            layers = _router(group, (entries, hidden, math.prod(shape)), generator)
            logits = Generate(code, layers, shape)
        return [mixed(site, logits) for site in group.sites]

    def mixed(site: Site, logits: Binding | None) -> Binding:
        atoms = tuple(
            site.parameter(f"expert{number}", expert(site.tensor), alike=True)
            for number in range(experts)
        )
        if logits is None:
            return atoms[0]
        # a member has the first rows' coefficients
        own = logits if per == "layer" else site.by_row(logits, experts)
        return Mix(atoms, own, softmax=True)

    def expert(weight: Tensor) -> Tensor:
        if start == "alike":
            return weight
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        return weight.flatten()[order].view(weight.shape) * math.sqrt(experts)

    return apply


def coefficients(
    bindings: Mapping[str, Binding], tensors: Mapping[str, Tensor], arch: Arch
) -> dict[str, Tensor]:
    """Return how routers mix the experts for an arch; those that see the arch differ between archs.

    Args:
        bindings: of the family, `family.blueprint.bindings`.
        tensors: the shared ones, `family.state_dict()`.
        arch: of the member.

    Returns:
        for each mixed tensor its coefficients, those of rows that the member lacks included.

    Shapes: `(experts,)` or `(rows, experts)` each.
    """
    found: dict[str, Tensor] = {}
    for name, binding in bindings.items():
        if not isinstance(binding, Mix) or not any(
            isinstance(part, Generate) for part in walk(binding.coefficients)
        ):
            continue
        reading = binding.coefficients.at(arch, {})
        own = evaluate(reading, {key: tensor.detach() for key, tensor in tensors.items()})
        found[name] = own.softmax(-1) if binding.softmax else own
    return found


def _rows(group: Group) -> int:
    rows = {len(site.tensor) for site in group.sites}
    if len(rows) > 1:
        raise InputError(
            f"the group of {group.sites[0].name} has weights of {sorted(rows)} rows, and each row "
            "has its own coefficients; give every matrix a group of its own, or per='layer'"
        )
    return rows.pop()


def _code(group: Group, seen: Sequence[tuple[str, tuple[Value, ...]]]) -> tuple[Binding, int]:
    """Return what the router sees, and how many numbers that is."""
    like = group.sites[0].buffer("router_code", torch.ones(1).to(group.sites[0].tensor))
    if not seen:
        return like, 1
    code = Encode(tuple(name for name, _ in seen), tuple(values for _, values in seen), like)
    return code, code.entries


def _router(
    group: Group, sizes: tuple[int, int, int], generator: torch.Generator
) -> tuple[Binding, ...]:
    """Add the weights of two linear layers, started as PyTorch starts them."""
    entries, hidden, count = sizes
    like = group.sites[0].tensor

    def add(role: str, *shape: int, fan: int) -> Binding:
        value = (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(fan)
        return group.parameter(f"router_{role}", value.to(like))

    return (
        add("in_weight", hidden, entries, fan=entries),
        add("in_bias", hidden, fan=entries),
        add("out_weight", count, hidden, fan=hidden),
        add("out_bias", count, fan=hidden),
    )
