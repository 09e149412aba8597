"""`federate`: members train on clients, and the server merges what comes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.family import Family
from manynet.federate._local import Fit, fit, samples_in
from manynet.federate._merge import merge
from manynet.federate._update import Update
from manynet.space import Value

__all__ = ["Client", "Round", "draw_round", "federate", "update_from", "update_of"]


@dataclass(frozen=True)
class Client:
    """One who trains a member on data of its own.

    Args:
        name: what the server knows it by in every round.
        data: what `manynet.train` takes; no one else reads them.
        arch: the member that it can carry; the choices it leaves out are the largest.
    """

    name: str
    data: Any = field(repr=False)
    arch: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """What one round was.

    Attributes:
        number: from 0 on.
        clients: the names of those who took part.
        bytes_down: sent to clients, all together.
        bytes_up: sent by clients, all together.
    """

    number: int
    clients: tuple[str, ...]
    bytes_down: int
    bytes_up: int


def federate(
    family: Family,
    clients: Sequence[Client],
    *,
    rounds: int,
    local: Fit = fit,
    share: float = 1.0,
    seed: int = 0,
    server: Callable[[Family, int], object] | None = None,
    progress: Callable[[Round], object] | None = None,
) -> tuple[Round, ...]:
    """Train a family on clients of unequal strength, simulated here one after another.

    In each round the server draws clients and sends each the member that it can carry, as a plain
    network. What comes back is averaged: every entry over the clients that hold it, weighted by
    their numbers of samples. The family's weights change in place.

    Args:
        family: the server's; its bindings must be parts of shared tensors, such as slices.
        clients: who may be drawn; their names differ.
        rounds: how many.
        local: trains a client's member in place. `functools.partial(fit, epochs=2)` changes the
            options of the default.
        share: of the clients that take part in a round, at least one.
        seed: decides who is drawn and what happens on clients.
        server: called after each merge with the family and the number of the round.
        progress: told of each round.

    Returns:
        the rounds, with their traffic.

    Raises:
        InputError: an argument does not fit, or what a client returned is not finite.

    Example:
        >>> import torch, manynet
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(),
        ...                           torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(net, torch.zeros(1, 4), width=(0.5, 1.0))
        >>> x = torch.randn(64, 4)
        >>> halves = [(x[:32], (x[:32, 0] > 0).long()), (x[32:], (x[32:, 0] > 0).long())]
        >>> clients = [Client("phone", halves[0], {"0.width": 8}), Client("desk", halves[1])]
        >>> [row.bytes_up for row in federate(family, clients, rounds=2)]
        [688, 688]

    Reference: McMahan et al. 2017, arXiv 1602.05629; Diao et al. 2021, arXiv 2010.01264 (HeteroFL),
    of which the masked loss and the scaling of narrow networks are left out.
    """
    _check(clients, rounds, share)
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(rounds):
        drawn, seeds = draw_round(rng, len(clients), share)
        updates, down = [], 0
        for place in drawn:
            client = clients[place]
            member = family.extract(client.arch)
            down += _bytes(member)
            local(member, client.data, seed=seeds[place])
            updates.append(update_of(family, client, member))
        shared = family.state_dict()
        merged = merge(shared, updates)
        family.load_state_dict(merged)
        row = Round(number, tuple(u.client for u in updates), down, sum(u.bytes for u in updates))
        if server is not None:
            server(family, number)
        if progress is not None:
            progress(row)
        rows.append(row)
    return tuple(rows)


def draw_round(rng: np.random.Generator, clients: int, share: float) -> tuple[list[int], list[int]]:
    """Return the places of those who take part in a round, and a seed for each client."""
    count = max(1, round(share * clients))
    drawn = sorted(rng.choice(clients, count, replace=False).tolist())
    return drawn, rng.integers(2**31, size=clients).tolist()


def update_of(family: Family, client: Client, member: nn.Module) -> Update:
    """Return what a client sends when it has trained its member.

    Args:
        family: which the member was extracted from.
        client: whose samples count as the weight.
        member: the trained network.

    Raises:
        InputError: the member's tensors are not parts of shared ones, or two are of the same.
    """
    own = dict([*member.named_parameters(), *member.named_buffers()])
    return update_from(family, client.arch, own, samples_in(client.data), client.name)


def update_from(
    family: Family,
    arch: Mapping[str, Value],
    own: Mapping[str, Tensor],
    samples: float,
    client: str,
) -> Update:
    """Return the update that a member's tensors are, given by its own names."""
    tensors: dict[str, Tensor] = {}
    parts = {}
    for name, part in family.parts(arch).items():
        if part.source in tensors:
            raise InputError(
                f"two tensors of the member read {part.source}, {name} among them; "
                "what a client returns can only be put back once"
            )
        tensors[part.source] = own[name].detach()
        parts[part.source] = part.index
    return Update(tensors, samples, client, parts)


def _bytes(network: nn.Module) -> int:
    tensors: Sequence[torch.Tensor] = [*network.parameters(), *network.buffers()]
    return sum(tensor.nbytes for tensor in tensors)


def _check(clients: Sequence[Client], rounds: int, share: float) -> None:
    names = [client.name for client in clients]
    if not names or len(set(names)) < len(names):
        raise InputError(f"clients={names}: there must be at least one, each with its own name")
    if rounds < 1 or not 0 < share <= 1:
        raise InputError(
            f"rounds={rounds}, share={share}: there must be a round, and a share is above 0 and "
            "at most 1"
        )
