"""The arms of FedConv's proof: ten clients with few digits each, and 800 public images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.convolve import MLR
from manynet.data import Samples, load_data, taker
from manynet.elastic import elastic
from manynet.family import Family
from manynet.federate import Client, federate, fit, split_dirichlet
from manynet.search import accuracy
from manynet.systems._proof import Figures, Proof
from manynet.train import Fixed, Task, train

__all__ = ["prove_with"]

ROUNDS, PUBLIC, CHOOSE, BATCH = 8, 800, 160, 32
SIZES = (0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
WIDTHS = (0.75**2, 0.75, 1.0)
LOCAL, SERVER, KERNELS, VECTORS = 2, 2, 4, 3
RATE, SERVER_RATE = 1e-3, 1e-3
"""Of Adam. The paper's 1e-4 for the server has 3,500 steps a round; 40 steps of it do nothing."""
EPOCHS = SERVER * (1 + len(SIZES)) + KERNELS * (2 + sum(size > 0 for size in SIZES)) + VECTORS
"""A round's epochs on the public set in FedConv; the other arms get as many."""
LAST = SERVER + KERNELS * 2
"""Its epochs there after the last round, for the networks that would be sent then; likewise."""
Pair = tuple[Tensor, Tensor]
Public = tuple[Pair, Pair]


def prove_with(
    proof: Proof, train_fedconv: Callable[..., Family], settings: Callable[..., Any]
) -> None:
    """Compare with HeteroFL, with and without the public set, and with the public set alone.

    Args:
        proof: runs the arms.
        train_fedconv: the method.
        settings: makes its settings.
    """
    how = partial(
        settings,
        local_epochs=LOCAL,
        server_epochs=SERVER,
        kernel_epochs=KERNELS,
        vector_epochs=VECTORS,
        batch_size=BATCH,
        rate=RATE,
        server_rate=SERVER_RATE,
        slopes=None,
    )

    def method(how: Any, family: Family, clients: Any, public: Public, seed: int) -> Family:
        rounds = proof.share(ROUNDS)
        return train_fedconv(family, clients, public, rounds=rounds, how=how, seed=seed)

    arms: dict[str, Callable[..., Family]] = {
        "fedconv": partial(method, how()),
        "heterofl": partial(_heterofl, proof),
        "public only": partial(_public_only, proof),
        "heterofl without public": partial(_unaided, proof),
        "fedconv from random": partial(method, how(start="random", slopes=MLR)),
        "fedconv with activation": partial(method, how(slopes=MLR)),
    }
    for name, arm in arms.items():
        proof.run(name, partial(_measure, proof, name, arm))


def _measure(proof: Proof, name: str, arm: Callable[..., Family], seed: int) -> Figures:
    public, clients, test = _data(seed)
    family = _family(seed)
    count = sum(p.numel() for p in family.parameters())
    trained = arm(family, clients, public, seed).eval()
    full, smallest = (trained.extract(a) for a in (family.space.largest, _arch(family, 2)))
    if name == "heterofl":  # as many epochs as FedConv's last networks have, `LAST`
        _adam(full, public[0], SERVER, SERVER_RATE, seed)
        _adam(smallest, public[0], KERNELS * 2, SERVER_RATE, seed)
    score = accuracy(test)
    found = {
        "full": 100 * float(score(full.eval())),
        "smallest": 100 * float(score(smallest.eval())),
    }
    rounds = proof.share(ROUNDS)
    local = LOCAL * sum(len(c.data[0]) for c in clients)
    samples = 0 if name == "public only" else rounds * local
    if name != "heterofl without public":
        samples += (rounds * EPOCHS + LAST) * len(public[0][0])
    value = (found["full"] + found["smallest"]) / 2
    return Figures(value, samples, count, found)


def _heterofl(
    proof: Proof, family: Family, clients: Sequence[Client], public: Public, seed: int
) -> Family:
    """Leading slices; each returned network and the result are tuned on the public set."""
    each = EPOCHS // (len(clients) + 3)

    def local(member: nn.Module, data: Pair, *, seed: int) -> None:
        _adam(member, data, LOCAL, RATE, seed)
        _adam(member, public[0], each, SERVER_RATE, seed)

    def server(family: Family, number: int) -> None:
        rest = EPOCHS - each * len(clients)
        largest = family.extract(family.space.largest)
        _adam(largest, public[0], rest, SERVER_RATE, seed + number)
        family.load_state_dict(largest.state_dict())

    rounds = proof.share(ROUNDS)
    federate(family, clients, rounds=rounds, local=local, server=server, seed=seed)
    return family


def _unaided(
    proof: Proof, family: Family, clients: Sequence[Client], public: Public, seed: int
) -> Family:
    def local(member: nn.Module, data: Pair, *, seed: int) -> None:
        _adam(member, data, LOCAL, RATE, seed)

    federate(family, clients, rounds=proof.share(ROUNDS), local=local, seed=seed)
    return family


def _public_only(
    proof: Proof, family: Family, clients: Sequence[Client], public: Public, seed: int
) -> Family:
    """Train the full and the smallest network on the public set, half of the passes each."""
    train(
        family,
        public[0],
        sampler=Fixed(family.space.largest, _arch(family, 2)),
        objective=Task(),
        epochs=(proof.share(ROUNDS) * EPOCHS + LAST) // 2,
        optimizer=lambda groups: torch.optim.Adam(groups, lr=RATE),
        schedule="constant",
        warmup=0,
        batch_size=BATCH,
        seed=seed,
    )
    return family


def _adam(network: nn.Module, data: Pair, epochs: int, rate: float, seed: int) -> None:
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=rate)

    fit(network, data, epochs=epochs, optimizer=optimizer, batch_size=BATCH, seed=seed)


def _family(seed: int) -> Family:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )
    inputs = torch.zeros(2, 1, 28, 28)
    return elastic(network, inputs, width=WIDTHS, multiple_of=1, importance=None, depth=False)


def _arch(family: Family, size: int) -> dict[str, int]:
    """Return the arch of a size; 0 is the largest."""
    return {choice.name: int(choice.values[-1 - size]) for choice in family.space.choices}


def _data(seed: int) -> tuple[Public, list[Client], Pair]:
    """Return public samples to learn from and to choose by, clients, and the test images."""
    data = load_data("mnist10k", validation=0.1, seed=seed)
    x, y = _all(data.train)
    more_x, more_y = _all(data.val)
    x, y = torch.cat([x, more_x]), torch.cat([y, more_y])
    cut = PUBLIC - CHOOSE
    public = ((x[:cut], y[:cut]), (x[cut:PUBLIC], y[cut:PUBLIC]))
    x, y = x[PUBLIC:], y[PUBLIC:]
    names = _family(0)
    parts = split_dirichlet(y, len(SIZES), alpha=0.1, seed=seed, least=BATCH)
    clients = [
        Client(f"client{n}", (x[part], y[part]), _arch(names, size))
        for n, (part, size) in enumerate(zip(parts, SIZES, strict=True))
    ]
    return public, clients, _all(data.test)


def _all(samples: Samples) -> Pair:
    take = taker(samples)
    assert take is not None
    x, y = take(torch.arange(len(samples)), torch.device("cpu"))  # type: ignore[arg-type]
    assert isinstance(x, Tensor)
    return x, y
