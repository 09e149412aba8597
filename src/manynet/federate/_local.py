"""`fit`: what a client, or the server on data of its own, does with a plain network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.data import DataLoader

from manynet.data import Data
from manynet.errors import InputError
from manynet.family import Family
from manynet.train import Task, TrainData, train

__all__ = ["Exchange", "Fit", "Job", "Local", "fit", "put_whole", "samples_in"]


class Fit(Protocol):
    """Trains a network on a client's data, in place. Any function of these arguments will do."""

    def __call__(self, network: nn.Module, data: Any, /, *, seed: int) -> object:
        """Train `network` on `data`; every random number follows from `seed`."""


Job = tuple[nn.Module, Mapping[str, Any]]
"""What a client is sent: a network, and plain options for training it, `seed` among them."""


class Exchange(Protocol):
    """Lets clients train, in place, the networks that a server sends them."""

    def __call__(self, jobs: Mapping[str, Job], /) -> Mapping[str, float]:
        """Return the numbers of samples of those who have trained; both by clients' names."""


def fit(network: nn.Module, data: TrainData, **options: Any) -> None:
    """Train a plain network on labels, in place, with `manynet.train`.

    Args:
        network: any module, such as an extracted member.
        data: what `manynet.train` takes.
        **options: of `manynet.train`; by default one epoch of SGD at a constant rate of 0.05.

    Example:
        >>> import torch
        >>> network = torch.nn.Linear(4, 2)
        >>> data = (torch.randn(64, 4), torch.zeros(64, dtype=torch.long))
        >>> fit(network, data, epochs=3, batch_size=16)
        >>> int((network(data[0]).argmax(1) == 0).sum()) > 60
        True
    """
    defaults: dict[str, Any] = {"objective": Task(), "schedule": "constant", "warmup": 0}
    if not {"epochs", "steps"} & options.keys():
        defaults["epochs"] = 1
    if options.get("optimizer", "sgd") == "sgd":
        defaults["learning_rate"] = 0.05
    # a family of one: its only member is the network itself
    alone = Family(network)
    train(alone, data, **{**defaults, **options})


class Local:
    """The exchange with clients that are simulated here, one after another.

    Args:
        data: of each client, by its name.
        local: trains a network in place; it takes the options of a job.
    """

    def __init__(self, data: Mapping[str, Any], local: Callable[..., object] = fit) -> None:
        self.data, self.local = data, local

    def __call__(self, jobs: Mapping[str, Job], /) -> Mapping[str, float]:
        """Let each client train its network."""
        for name, (network, options) in jobs.items():
            self.local(network, self.data[name], **options)
        return {name: float(samples_in(self.data[name])) for name in jobs}


def samples_in(data: object) -> int:
    """Return how many samples data hold that `manynet.train` takes.

    Raises:
        InputError: they do not say.
    """
    if isinstance(data, Data):
        data = data.train
    if isinstance(data, DataLoader):
        data = data.dataset
    if isinstance(data, tuple | list) and data:
        data = data[0]
    if not hasattr(data, "__len__"):
        raise InputError(f"{type(data).__name__} has no length; give data that say how many")
    return len(data)


@torch.no_grad()
def put_whole(family: Family, network: nn.Module) -> None:
    """Make a family's weights and buffers those of a network of full size, in place.

    Args:
        family: its largest network has tensors of these names and shapes.
        network: what a server has trained or merged.

    Example:
        >>> family, network = Family(nn.Linear(2, 1)), nn.Linear(2, 1)
        >>> put_whole(family, network)
        >>> torch.equal(family.shared.weight, network.weight)
        True
    """
    own = dict([*family.shared.named_parameters(), *family.shared.named_buffers()])
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        own[name].copy_(tensor)
