"""Rounds on Flower's simulation are those of `federate`.

Flower needs an environment of its own, see docs/install.md; without one these tests are skipped.
"""

from __future__ import annotations

import importlib.util
import os
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError, MissingExtraError
from manynet.federate import Client, Exchange, federate, fit, merge, update_of
from manynet.federate._rounds import draw_round

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
INSTALLED = importlib.util.find_spec("flwr") is not None
needs_flower = pytest.mark.skipif(
    not INSTALLED, reason="needs Flower: pip install 'manynet[flower]' in an environment of its own"
)
pytestmark = pytest.mark.filterwarnings("default")  # those of Flower and of Ray

X = torch.randn(120, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
CPU = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": 1}}


def family() -> mn.Family:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
    return mn.elastic(network, X[:2], width=(0.25, 0.5, 1.0), importance=None)


def clients() -> list[Client]:
    archs: list[dict[str, Any]] = [{}, {"0.width": 8}, {"0.width": 4}]
    cuts = [0, 20, 60, 120]
    return [
        Client(f"c{n}", (X[cuts[n] : cuts[n + 1]], Y[cuts[n] : cuts[n + 1]]), arch)
        for n, arch in enumerate(archs)
    ]


def broken(member: nn.Module, data: Any, *, seed: int) -> None:
    if len(data[0]) == 40:
        raise RuntimeError("out of battery")
    fit(member, data, seed=seed)


def infinite(member: nn.Module, data: Any, *, seed: int) -> None:
    with torch.no_grad():
        next(member.parameters()).fill_(float("inf"))


@pytest.mark.skipif(INSTALLED, reason="Flower is installed")
def test_without_flower_the_error_names_the_extra() -> None:
    from manynet.federate.flower import FamilyStrategy, client_app, on_flower, simulate

    for run in (
        lambda: on_flower(family(), clients(), print),
        lambda: simulate(family(), clients(), rounds=1),
        lambda: client_app(family(), clients()),
        lambda: FamilyStrategy(family(), {"a": {}}),
    ):
        with pytest.raises(MissingExtraError, match=r"manynet\[flower\]"):
            run()


@needs_flower
@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_simulated_rounds_give_the_weights_of_our_own(share: float) -> None:
    from manynet.federate.flower import simulate

    local = partial(fit, batch_size=10, epochs=2)
    ours, theirs = family(), family()
    federate(ours, clients(), rounds=3, local=local, share=share, seed=5)
    simulate(theirs, clients(), rounds=3, local=local, share=share, seed=5, backend=CPU)
    moved = family().state_dict()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)
        assert not torch.equal(tensor, moved[name])


@needs_flower
@pytest.mark.slow
def test_a_client_that_fails_is_left_out_of_the_round() -> None:
    from manynet.federate.flower import simulate

    ours, theirs = family(), family()
    simulate(theirs, clients(), rounds=1, local=broken, backend=CPU)
    named = clients()
    _, seeds = draw_round(np.random.default_rng(0), len(named), 1.0)
    updates = []
    for place in (0, 2):
        member = ours.extract(named[place].arch)
        fit(member, named[place].data, seed=seeds[place])
        updates.append(update_of(ours, named[place], member))
    for name, tensor in merge(ours.state_dict(), updates).items():
        torch.testing.assert_close(theirs.state_dict()[name], tensor, rtol=1e-6, atol=1e-7)


@needs_flower
@pytest.mark.slow
def test_fedconv_gives_the_weights_that_it_gives_here() -> None:
    from manynet.federate.flower import on_flower
    from manynet.systems.fedconv import Settings, train_fedconv

    public = ((X[60:90], Y[60:90]), (X[90:], Y[90:]))
    how = Settings(1, 1, 2, 2, 8)
    named = clients()
    ours = train_fedconv(family(), named, public, rounds=2, how=how)
    theirs = on_flower(
        family(),
        named,
        lambda exchange: train_fedconv(
            family(), named, public, rounds=2, how=how, exchange=exchange
        ),
        backend=CPU,
    )
    for client in named:
        expected = ours.extract(client.arch).state_dict()
        for name, tensor in theirs.extract(client.arch).state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@needs_flower
@pytest.mark.slow
def test_a_server_decides_about_training_and_nothing_else() -> None:
    from manynet.federate.flower import on_flower

    def server(exchange: Exchange) -> list[str]:
        good, bad = {"seed": 1, "epochs": 1}, {"seed": 1, "folder": "elsewhere"}
        network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))
        return [*exchange({"c0": (network, good)}), *exchange({"c0": (network, bad)})]

    assert on_flower(family(), clients()[:1], server, backend=CPU) == ["c0"]


@needs_flower
@pytest.mark.slow
def test_what_a_server_raises_is_raised_here() -> None:
    from manynet.federate.flower import on_flower

    def server(exchange: object) -> None:
        raise ZeroDivisionError("no round")

    with pytest.raises(ZeroDivisionError, match="no round"):
        on_flower(family(), clients()[:1], server, backend=CPU)


@needs_flower
@pytest.mark.slow
def test_a_client_that_sends_infinity_is_named() -> None:
    from manynet.federate.flower import simulate

    with pytest.raises(InputError, match="client 'c0' holds NaN or infinity"):
        simulate(family(), clients()[:1], rounds=1, local=infinite, backend=CPU)


@needs_flower
def test_a_client_that_never_appears_is_named() -> None:
    from flwr.app import ArrayRecord, ConfigRecord

    from manynet.federate.flower import FamilyStrategy

    class Empty:
        def get_node_ids(self) -> list[int]:
            return []

    strategy = FamilyStrategy(family(), {"a": {}}, patience=0.1)
    with pytest.raises(InputError, match="is client 'a'; there are none"):
        strategy.configure_train(1, ArrayRecord(), ConfigRecord(), Empty())  # type: ignore[arg-type]


@needs_flower
def test_a_strategy_needs_clients_and_a_share() -> None:
    from manynet.federate.flower import FamilyStrategy

    for archs, share in (({}, 1.0), ({"a": {}}, 0.0), ({"a": {}}, 1.5)):
        with pytest.raises(InputError, match="there must be a client"):
            FamilyStrategy(family(), archs, share=share)
