"""FedConv: its exact checks, on networks small enough to train in a moment."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings import Mix
from manynet.bindings.weigh import weighed
from manynet.federate import Client, Update, merge
from manynet.systems.fedconv import SYSTEM, Settings, blow_up, compress, train_fedconv
from manynet.train import Fixed, Task, train

IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3
SMALL = [{"0.width": 6, "2.width": 12}, {"0.width": 4, "2.width": 9}]
SHORT = Settings(local_epochs=1, server_epochs=1, kernel_epochs=2, vector_epochs=2, batch_size=8)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * 16, 3)),
    )


def sliced() -> mn.Family:
    return mn.elastic(
        network(), IMAGES[:2], width=(0.5625, 0.75, 1.0), multiple_of=1, importance=None
    )


def tensors(one: mn.Family | nn.Module) -> dict[str, Tensor]:
    return {name: t.detach().clone() for name, t in one.named_parameters()}


def test_the_large_weights_are_held_while_filters_train() -> None:
    family = compress(sliced(), SMALL, SHORT)
    before = tensors(family)
    train(
        family,
        (IMAGES, LABELS),
        sampler=Fixed(SMALL[1]),
        objective=Task(),
        steps=4,
        batch_size=8,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=1e-2),
    )
    large = dict(family.shared.named_parameters())
    moved = {n for n, p in family.named_parameters() if not torch.equal(p, before[n])}
    assert all(torch.equal(p, before[n]) for n, p in large.items())
    assert all(p.grad is None for p in large.values())
    # the filters of this size, and no others
    assert moved
    assert all("0.width=4" in name for name in moved)


def test_a_size_shares_its_filters_and_a_client_has_its_own_dilation() -> None:
    family = compress(sliced(), SMALL, SHORT)
    filters = {name for name, _ in family.named_parameters() if name.endswith(".kernel")}
    sites = {name for name, _ in network().named_parameters()}
    assert len(filters) == 2 * len(sites)
    clients = [family.extract(SMALL[n % 2]) for n in range(8)]
    large = [blow_up(network(), client, SHORT) for client in clients]
    owned = {p.data_ptr() for one in large for p in one.parameters()}
    assert len(owned) == sum(len(list(one.parameters())) for one in large)


def test_every_client_has_a_vector_for_every_tensor() -> None:
    updates = [(network(n), n + 1.0) for n in range(10)]
    mixed = mn.bind(network(), "*", weighed(updates, start=SHORT.start))
    for name, parameter in network().named_parameters():
        binding = mixed.blueprint.bindings[name]
        assert isinstance(binding, Mix)
        assert len(binding.atoms) == 10
        assert dict(mixed.named_parameters())[f"{name}.vectors"].shape == (*parameter.shape, 10)


@pytest.mark.parametrize("left_out", [None, 3])
def test_vectors_of_one_are_fedavg(left_out: int | None) -> None:
    updates = [(network(n), 10.0 * n + 1) for n in range(10) if n != left_out]
    mixed = mn.bind(network(), "*", weighed(updates, start=SHORT.start)).extract({})
    sent = [Update(tensors(one), samples, str(n)) for n, (one, samples) in enumerate(updates)]
    for name, expected in merge(tensors(network()), sent).items():
        assert torch.allclose(dict(mixed.named_parameters())[name], expected, atol=1e-6), name


def test_statistics_of_norms_start_anew() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 2))
    wide[1](torch.randn(4, 8, 3, 3))
    family = mn.elastic(copy.deepcopy(wide), IMAGES, width=(0.5, 1.0), importance=None)
    small = compress(family, [{"0.width": 4}], SHORT).extract({"0.width": 4})
    own, large = small.state_dict(), blow_up(wide, small, SHORT).extract({}).state_dict()
    assert torch.equal(own["1.running_mean"], wide.state_dict()["1.running_mean"][:4])
    assert torch.equal(large["1.running_mean"], torch.zeros(8))
    assert torch.equal(large["1.running_var"], torch.ones(8))


@pytest.mark.parametrize("start", ["tap", "random"])
def test_rounds_train_every_size_and_repeat_exactly(start: str) -> None:
    how = Settings(1, 1, 2, 2, 8, start=start)  # type: ignore[arg-type]
    part = (IMAGES[:16], LABELS[:16])
    clients = [Client("a", part), Client("b", part, SMALL[0]), Client("c", part, SMALL[1])]
    public = (part, (IMAGES[16:], LABELS[16:]))
    states = []
    for _ in range(2):
        family = train_fedconv(sliced(), clients, public, rounds=2, how=how)
        states.append(family.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    before = tensors(network())
    large = dict(family.extract(family.space.largest).named_parameters())
    assert all(not torch.equal(large[name], before[name]) for name in before)
    for arch in SMALL:
        member = family.extract(arch)
        assert torch.isfinite(member(IMAGES)).all()
        assert torch.allclose(member(IMAGES), family.at(arch)(IMAGES), atol=1e-6)


def largest_after(how: Settings, rounds: int) -> dict[str, Tensor]:
    part = (IMAGES[:16], LABELS[:16])
    clients = [Client("a", part), Client("b", part, SMALL[0])]
    public = (part, (IMAGES[16:], LABELS[16:]))
    family = train_fedconv(sliced(), clients, public, rounds=rounds, how=how)
    return tensors(family.extract(family.space.largest))


def test_the_last_weights_are_tuned_as_the_next_round_would_begin() -> None:
    """The large network was handed out as it came from the clients, the baseline's was tuned."""
    start = tensors(sliced().shared)
    tuned = largest_after(SHORT, 0)
    assert all(not torch.equal(tuned[name], start[name]) for name in start)
    still = largest_after(replace(SHORT, server_epochs=0), 0)
    assert all(torch.equal(still[name], start[name]) for name in start)


def test_vectors_learn_at_a_rate_of_their_own() -> None:
    held = [replace(SHORT, vector_rate=0.0, vector_epochs=n) for n in (1, 3)]
    short, long = (largest_after(how, 1) for how in held)
    assert all(torch.equal(short[name], long[name]) for name in short)
    free = largest_after(SHORT, 1)
    assert any(not torch.equal(short[name], free[name]) for name in short)


def test_the_example_runs() -> None:
    torch.manual_seed(0)
    found: dict[str, object] = {}
    exec(SYSTEM.example, found)
    small = found["small"]
    assert isinstance(small, nn.Module)
    assert small(torch.zeros(2, 6)).shape == (2, 2)
    assert small[0].out_features == 16  # type: ignore[index]
