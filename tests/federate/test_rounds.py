"""Rounds: FedAvg where all clients are alike, nested widths where they are not."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.errors import InputError
from manynet.federate import Client, federate, fit, merge, update_of
from manynet.models import small_cnn

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def clients(*archs: dict[str, Any]) -> list[Client]:
    cuts = [0, 20, 60, 120]
    return [
        Client(f"c{n}", (X[cuts[n] : cuts[n + 1]], Y[cuts[n] : cuts[n + 1]]), arch)
        for n, arch in enumerate(archs)
    ]


def test_a_round_of_equal_clients_is_fedavg() -> None:
    net = network()
    family = mn.elastic(net, X[:2], width=(0.5, 1.0), importance=None)
    seen: list[tuple[nn.Module, int]] = []

    def local(member: nn.Module, data: tuple[Tensor, Tensor], *, seed: int) -> None:
        fit(member, data, seed=seed, batch_size=10)
        seen.append((copy.deepcopy(member), len(data[0])))

    rows = federate(family, clients({}, {}, {}), rounds=1, local=local)
    total = sum(count for _, count in seen)
    assert total == 120
    assert rows[0].clients == ("c0", "c1", "c2")
    for name, tensor in family.state_dict().items():
        mean = sum(dict(one.named_parameters())[name] * count / total for one, count in seen)
        assert isinstance(mean, Tensor)
        assert torch.allclose(tensor, mean, atol=1e-6)


def test_a_narrow_client_touches_its_block_only_and_costs_its_own_bytes() -> None:
    family = mn.elastic(network(), X[:2], width=(0.25, 1.0), importance=None)
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    (row,) = federate(family, clients({"0.width": 4}), rounds=1)
    small = family.extract({"0.width": 4})
    assert row.bytes_up == row.bytes_down == sum(4 * p.numel() for p in small.parameters())
    first = family.state_dict()["0.weight"]
    assert torch.equal(first[4:], before["0.weight"][4:])
    assert not torch.equal(first[:4], before["0.weight"][:4])


def test_clients_of_unequal_width_learn_together() -> None:
    family = mn.elastic(network(), X[:2], width=(0.5, 0.75, 1.0), importance=None)
    asked = clients({"0.width": 8}, {"0.width": 12}, {})
    told: list[int] = []
    federate(
        family,
        asked,
        rounds=8,
        local=partial(fit, epochs=3, batch_size=10, learning_rate=0.1),
        progress=lambda row: told.append(row.number),
    )
    assert told == list(range(8))
    for arch in (asked[0].arch, {}):
        found = family.extract(arch)(X).argmax(1)
        assert float((found == Y).float().mean()) > 0.9


def test_the_same_seed_gives_the_same_weights_and_a_share_of_clients_takes_part() -> None:
    states = []
    for _ in range(2):
        family = mn.elastic(network(), X[:2], width=(0.5, 1.0))
        rows = federate(family, clients({}, {}, {"0.width": 8}), rounds=4, share=0.34, seed=5)
        assert all(len(row.clients) == 1 for row in rows)
        assert len({row.clients for row in rows}) > 1
        states.append(family.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_server_may_go_on_after_each_round() -> None:
    family = mn.elastic(network(), X[:2], width=(0.5, 1.0))

    def server(family: mn.Family, number: int) -> None:
        with torch.no_grad():
            for parameter in family.parameters():
                parameter.zero_()

    federate(family, clients({}), rounds=1, server=server)
    assert all(not bool(p.any()) for p in family.parameters())


def test_members_without_blocks_are_put_back_where_they_came_from() -> None:
    """In a member that leaves out a block the names of later ones move up."""
    torch.manual_seed(0)
    net = small_cnn(channels=1, widths=(8, 8), depths=(2, 2))
    images = torch.randn(2, 1, 8, 8)
    family = mn.elastic(net, images, width=(0.5, 1.0), importance=None).eval()
    arch = family.space.smallest
    client = Client("small", (images, torch.zeros(2, dtype=torch.long)), arch)
    member = family.extract(arch)
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    update = update_of(family, client, member)
    assert all(
        torch.equal(merged, before[name]) for name, merged in merge(before, [update]).items()
    )
    with torch.no_grad():
        for parameter in member.parameters():
            parameter.add_(1.0)
    family.load_state_dict(merge(family.state_dict(), [update_of(family, client, member)]))
    again = family.extract(arch)
    for mine, theirs in zip(again.parameters(), member.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_computed_weights_cannot_be_put_back() -> None:
    from manynet.bindings.recipes import quantized

    family = mn.bind(network(), "0.weight", quantized(4))
    with pytest.raises(InputError, match=r"0\.weight is computed from 0\.weight"):
        federate(family, clients({}), rounds=1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clients": []}, "at least one"),
        ({"clients": [Client("a", (X, Y)), Client("a", (X, Y))]}, "its own name"),
        ({"rounds": 0}, "rounds=0"),
        ({"share": 1.5}, "share=1.5"),
        ({"clients": [Client("a", iter(()))]}, "has no length"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], words: str) -> None:
    family = mn.elastic(network(), X[:2], width=(0.5, 1.0))
    asked: dict[str, Any] = {"clients": clients({}), "rounds": 1, "local": _nothing, **change}
    with pytest.raises(InputError, match=words):
        federate(family, asked.pop("clients"), **asked)


def _nothing(network: nn.Module, data: object, *, seed: int) -> None:
    """Train nothing."""
