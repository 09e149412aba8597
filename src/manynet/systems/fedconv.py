"""FedConv: the server learns small networks out of the large one, for clients that carry no more.

A client of a smaller size gets weights that a learned convolution makes of the large network's; it
trains them as they are. The server blows what comes back up again, with transposed convolutions of
each client's own, and adds everything up with a learned number for each entry and client. All
three are trained on a small public set, and only they: the weights that they read stay.

What differs here from the code of the paper: the best epoch is chosen on held-back public samples,
never on test data, and nothing is started again; the activation is applied once, where the code
applies it twice and thereby leaves hardly a negative weight; filters start as leading slices and
vectors at one, so that a round begins as averaging does (`start="random"` starts as the code does);
every client has a vector for every tensor; after the last round the large network is tuned and the
small ones are made of it, as the next round would begin. Widths are rounded to the nearest. The
arXiv number and the figures of single clients are not confirmed.

The proof's full size has 8 rounds. Its server has 640 images where the paper's has 11,300, so a
tenth of the epochs there are a hundredth of the steps. Hence two choices, made with a seed of no
proof on images that are no test images: the server tunes whole networks at 1e-3 instead of 1e-4, in
all arms alike, and FedConv's weights go without the activation, for a weight that it has cut off
cannot be mended in so few steps; an arm has it. The baseline, HeteroFL, takes as many epochs on the
server's public set as FedConv does, shared out among fine-tuning each returned network and the
result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.convolve import MLR, Slopes, Start, convolved, dilated
from manynet.bindings.weigh import weighed
from manynet.family import Family
from manynet.family.apply import bind
from manynet.federate import Client, Exchange, Local, fit, put_whole
from manynet.search import accuracy
from manynet.space import Arch, Value
from manynet.systems._condition import Condition
from manynet.systems._fedconv_proof import prove_with
from manynet.systems._system import System
from manynet.train import train_best

__all__ = ["SYSTEM", "Settings", "blow_up", "compress", "train_fedconv"]

Public = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Settings:
    """Epochs and rates of a round, as in the paper unless changed.

    Args:
        local_epochs: of a client.
        server_epochs: of the large network and of each returned one, on the public set.
        kernel_epochs: of filters.
        vector_epochs: of the numbers that weigh clients.
        batch_size: everywhere.
        rate: of clients, filters and vectors; it halves every 25 rounds, down to `server_rate`.
        server_rate: of whole networks on the public set.
        vector_rate: of the numbers that weigh clients; None: `rate`.
        slopes: of the activation of weights; None for none.
        start: of filters and vectors.
    """

    local_epochs: int = 5
    server_epochs: int = 10
    kernel_epochs: int = 20
    vector_epochs: int = 20
    batch_size: int = 32
    rate: float = 1e-3
    server_rate: float = 1e-4
    vector_rate: float | None = None
    slopes: Slopes = MLR
    start: Start = "tap"


def compress(family: Family, archs: Sequence[Mapping[str, Value]], how: Settings) -> Family:
    """Return the family whose members of `archs` are made by filters; the weights are held."""
    family.shared.requires_grad_(False)
    archs = [dict(family.space.arch(arch)) for arch in archs]
    return bind(family, "*", convolved(archs, slopes=how.slopes, start=how.start))


def blow_up(large: nn.Module, small: nn.Module, how: Settings, *, seed: int = 0) -> Family:
    """Return the family of one large network that transposed filters make of a small one's weights.

    Statistics of norms start anew, at zero and one.
    """
    weights = {name: p.detach() for name, p in small.named_parameters()}
    family = bind(large, "*", dilated(weights, slopes=how.slopes, start=how.start, seed=seed))
    for module in family.shared.modules():
        if callable(reset := getattr(module, "reset_running_stats", None)):
            reset()
    return family


def train_fedconv(
    family: Family,
    clients: Sequence[Client],
    public: Public,
    *,
    rounds: int,
    how: Settings | None = None,
    seed: int = 0,
    exchange: Exchange | None = None,
) -> Family:
    """Train the members of a family on clients of unequal strength, as FedConv does.

    Args:
        family: elastic in width, from `manynet.elastic`; its weights are taken over.
        clients: each with the arch that it can carry; one choice must tell the archs apart.
        public: the server's own inputs and labels, to learn from and to choose the best epoch by.
        rounds: how many.
        how: epochs and rates.
        seed: decides every random number.
        exchange: how clients get their networks and train them; None: here, one after another.
            `manynet.federate.flower.on_flower` gives one.

    Returns:
        the family whose members of the clients' archs are made by learned filters.

    Reference: Shen et al. 2024, "FedConv: A Learning-on-Model Paradigm for Heterogeneous Federated
    Clients", MobiSys; see the module for what differs.
    """
    how = how or Settings()
    exchange = exchange or Local({client.name: client.data for client in clients})
    largest = family.space.largest
    archs = {client.name: family.space.arch(client.arch) for client in clients}
    small = list(dict.fromkeys(arch for arch in archs.values() if arch != largest))
    server = compress(family, small, how)
    dilations: dict[str, Family] = {}
    for number in range(rounds + 1):
        rate = max(how.server_rate, how.rate * 0.5 ** (number // 25))
        at = _Round(public, how, rate, seed + 1000 * number)
        theta = server.extract(largest).requires_grad_(True)
        at.tune(theta)
        put_whole(server, theta)
        for arch in small:
            at.best(server, arch, how.kernel_epochs)
        if number == rounds:  # the networks of all sizes are those that would be sent now
            break
        updates: list[tuple[nn.Module, float]] = []
        own = {name: server.extract(arch).requires_grad_(True) for name, arch in archs.items()}
        jobs = {n: (own[n], at.options(how.local_epochs, rate, p)) for p, n in enumerate(archs, 1)}
        for name, samples in exchange(jobs).items():
            member = own[name]
            at.tune(member)
            if archs[name] != largest:
                large = at.dilation(dilations, name, theta, member)
                at.best(large, Arch({}), how.kernel_epochs)
                member = large.extract({}).requires_grad_(True)
            updates.append((member, samples))
        mixed = bind(theta, "*", weighed(updates, start=how.start, seed=at.seed))
        at.best(mixed, Arch({}), how.vector_epochs, how.vector_rate)
        put_whole(server, mixed.extract({}))
    return server


@dataclass(frozen=True)
class _Round:
    """What the server does with the public set in one round."""

    public: Public
    how: Settings
    rate: float
    seed: int

    def options(self, epochs: int, rate: float, place: int = 0) -> dict[str, Any]:
        """Return how anything is trained in this round: by Adam, in options that can be sent."""
        own = {"batch_size": self.how.batch_size, "seed": self.seed + place, "weight_decay": 0.0}
        return {"epochs": epochs, "optimizer": "adamw", "learning_rate": rate, **own}

    def tune(self, network: nn.Module) -> None:
        """Train a whole network."""
        if self.how.server_epochs:
            how = self.options(self.how.server_epochs, self.how.server_rate)
            fit(network, self.public[0], **how)

    def best(self, family: Family, arch: Arch, epochs: int, rate: float | None = None) -> None:
        """Train what a family does not hold, through one member; keep the best epoch."""
        how = self.options(epochs, self.rate if rate is None else rate)
        train_best(family, arch, self.public[0], accuracy(self.public[1]), **how)

    def dilation(
        self, known: dict[str, Family], client: str, large: nn.Module, small: nn.Module
    ) -> Family:
        """Return the client's own dilation, kept from round to round, for its new weights."""
        own = known.get(client) or blow_up(large, small, self.how, seed=self.seed + len(known))
        with torch.no_grad():
            for name, parameter in small.named_parameters():
                own.extra[f"{name}.small"].copy_(parameter)
        return known.setdefault(client, own)


SYSTEM = System(
    number=48,
    year=2024,
    reference="MobiSys 2024",
    claim="Small networks that are learned from the large one reach 97.7 % on MNIST and 80.0 % on "
    "CIFAR-10 with very unequal clients, where leading slices (HeteroFL) reach 19.3 and 78.7 %.",
    parts=(
        "filters over the channel axes of weights",
        "transposed filters of each client's own",
        "a learned number for each entry and client",
        "clients of unequal width",
        "training on a public set of the server",
    ),
    metric="mean accuracy of the full and the smallest network on MNIST's last 2,000 test images, "
    "in percent",
    higher_is_better=True,
    margin=-0.5,
    ours="fedconv",
    baseline="heterofl",
    prove=lambda proof: prove_with(proof, train_fedconv, Settings),
    conditions=(Condition("fedconv", "public only"),),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.federate import Client
from manynet.systems.fedconv import Settings, train_fedconv

x = torch.randn(240, 6)
y = (x[:, 0] > x[:, 1]).long()
network = torch.nn.Sequential(torch.nn.Linear(6, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
family = mn.elastic(network, x[:2], width=(0.5, 1.0), multiple_of=1)
clients = [
    Client("desk", (x[:80], y[:80])),
    Client("phone", (x[80:160], y[80:160]), {"0.width": 16}),
]
public = ((x[160:220], y[160:220]), (x[220:], y[220:]))
family = train_fedconv(family, clients, public, rounds=2, how=Settings(kernel_epochs=5))
small = family.extract({"0.width": 16})
""",
)
