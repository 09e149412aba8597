"""Flower: the rounds of `federate` among its nodes, on one machine or many.

A node trains the member that it can carry, as a plain network, and sends the tensors back; the
strategy merges them as `federate` does. Rounds with the same seed give the same weights on either.
A server that does more than merge, such as FedConv's, gets an `Exchange` from `on_flower`.

Flower (`pip install 'manynet[flower]'`) holds back other libraries, so it is best given an
environment of its own.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from manynet.errors import InputError, MissingExtraError
from manynet.family import Family
from manynet.federate._local import Exchange, Fit, Job, fit, samples_in
from manynet.federate._merge import merge
from manynet.federate._rounds import Client, draw_round, update_from
from manynet.space import Value

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid
    from torch import Tensor

__all__ = ["FamilyStrategy", "client_app", "on_flower", "simulate"]

OPTIONS = frozenset(
    ("seed", "epochs", "steps", "batch_size", "optimizer", "learning_rate", "weight_decay")
)
"""What a server may decide about the training on a node."""

_log = logging.getLogger(__name__)
T = TypeVar("T")


def _flower(part: str = "app") -> Any:
    """Import a part of Flower.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(f"flwr.{part}")
    except ModuleNotFoundError as error:
        raise MissingExtraError("flwr", "flower") from error


def client_app(
    family: Family, clients: Client | Sequence[Client], *, local: Fit = fit
) -> ClientApp:
    """Return the app of Flower's nodes: each trains the member of its own client.

    Args:
        family: of the server's shape; its weights do not matter, and stay as they are.
        clients: one for each node of a simulation, by its `partition-id`; or the client that every
            node with this app is, where nodes are machines.
        local: trains a member in place, as in `federate`; it also gets those of `OPTIONS` that a
            server sends. What else it sends is an error of the node.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    flower = _flower()
    app: Any = _flower("clientapp").ClientApp()

    def client_of(context: Context) -> Client:
        if isinstance(clients, Client):
            return clients
        return clients[int(context.node_config["partition-id"])]

    @app.query()  # type: ignore[untyped-decorator]
    def name(message: Message, context: Context) -> Message:
        found = flower.ConfigRecord({"client": client_of(context).name})
        return flower.Message(flower.RecordDict({"config": found}), reply_to=message)

    @app.train()  # type: ignore[untyped-decorator]
    def train(message: Message, context: Context) -> Message:
        client = client_of(context)
        member = family.extract(client.arch)
        member.load_state_dict(message.content["arrays"].to_torch_state_dict())
        options = dict(message.content["options"])
        if refused := sorted(options.keys() - OPTIONS):
            raise InputError(
                f"the server sends {refused[0]!r}, which a node does not let it decide"
            )
        local(member, client.data, **options)
        content = {
            "arrays": flower.ArrayRecord(dict(member.state_dict())),
            "metrics": flower.MetricRecord({"num-examples": float(samples_in(client.data))}),
        }
        return flower.Message(flower.RecordDict(content), reply_to=message)

    return app


class FamilyStrategy:
    """Sends each client the member that it can carry, and merges what comes back.

    It is a `flwr.serverapp.strategy.Strategy`; call its `start`. The family's weights change in
    place. What a node fails to send is left out of its round.

    Args:
        family: the server's; its bindings must be parts of shared tensors, such as slices.
        archs: by the clients' names: the member that each can carry.
        share: of the clients that take part in a round, at least one.
        seed: decides who is drawn and what happens on clients.
        patience: seconds to wait for clients that are drawn and have not appeared.

    Raises:
        InputError: there is no client, or the share is not above 0 and at most 1.
        MissingExtraError: Flower is not installed.
    """

    def __new__(cls, *args: Any, **options: Any) -> FamilyStrategy:
        """Return one that is a strategy of Flower, which is not imported before."""
        base: type = _flower("serverapp.strategy").Strategy
        made = cls if issubclass(cls, base) else type(cls.__name__, (cls, base), {})
        found: FamilyStrategy = object.__new__(made)
        return found

    def __init__(
        self,
        family: Family,
        archs: Mapping[str, Mapping[str, Value]],
        *,
        share: float = 1.0,
        seed: int = 0,
        patience: float = 120.0,
    ) -> None:
        if not archs or not 0 < share <= 1:
            raise InputError(
                f"{len(archs)} clients, share={share}: there must be a client, and a share is "
                "above 0 and at most 1"
            )
        self.family, self.archs, self.share = family, dict(archs), share
        self._rng = np.random.default_rng(seed)
        self._nodes = _Nodes(patience)

    def summary(self) -> None:
        """Log who there is."""
        _log.info("%s for %d clients", self.family, len(self.archs))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the members of this round's clients.

        Raises:
            InputError: a client that is drawn has no node.
        """
        names = list(self.archs)
        drawn, seeds = draw_round(self._rng, len(names), self.share)
        jobs: dict[str, Job] = {
            names[place]: (self.family.extract(self.archs[names[place]]), {"seed": seeds[place]})
            for place in drawn
        }
        return self._nodes.messages(grid, jobs, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge what came back into the family's weights."""
        updates = [
            update_from(self.family, self.archs[name], tensors, samples, name)
            for name, tensors, samples in self._nodes.trained(replies)
        ]
        if not updates:
            return None, None
        self.family.load_state_dict(merge(self.family.state_dict(), updates))
        sent = sum(update.bytes for update in updates)
        metrics = _flower().MetricRecord({"clients": len(updates), "bytes-up": sent})
        return _flower().ArrayRecord(dict(self.family.state_dict())), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return nothing: members are judged on the server."""
        return []

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return nothing."""
        return None


class _Nodes:
    """Which node is which client, and what goes there and comes back."""

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}

    def messages(
        self, grid: Grid, jobs: Mapping[str, Job], config: Mapping[str, Any] | None = None
    ) -> list[Message]:
        """Return the messages that let clients train their networks."""
        self._meet(grid, set(jobs))
        flower, messages = _flower(), []
        for name, (network, options) in jobs.items():
            content = {
                "arrays": flower.ArrayRecord(dict(network.state_dict())),
                "options": flower.ConfigRecord(dict(options)),
                "config": flower.ConfigRecord(dict(config or {})),
            }
            node = self._nodes[name]
            messages.append(flower.Message(flower.RecordDict(content), node, "train"))
        return messages

    def trained(self, replies: Iterable[Message]) -> Iterator[tuple[str, dict[str, Tensor], float]]:
        """Yield the names of those who have trained, their tensors and numbers of samples."""
        for reply in replies:
            name = self._names[reply.metadata.src_node_id]
            if reply.has_error():
                _log.warning("client %r failed: %s", name, reply.error)
                continue
            samples = float(reply.content["metrics"]["num-examples"])
            yield name, reply.content["arrays"].to_torch_state_dict(), samples

    def _meet(self, grid: Grid, wanted: set[str]) -> None:
        """Ask nodes which client they are, until all that are wanted have said so."""
        flower, until = _flower(), time.monotonic() + self.patience
        while True:
            new = [node for node in grid.get_node_ids() if node not in self._names]
            asked = [flower.Message(flower.RecordDict(), node, "query") for node in new]
            for reply in grid.send_and_receive(asked) if asked else ():
                if not reply.has_error():
                    name = str(reply.content["config"]["client"])
                    self._nodes[name] = reply.metadata.src_node_id
                    self._names[reply.metadata.src_node_id] = name
            absent = sorted(wanted - self._nodes.keys())
            if not absent:
                return
            if time.monotonic() > until:
                raise InputError(
                    f"no node of Flower says that it is client {absent[0]!r}; there are "
                    f"{', '.join(map(repr, self._nodes)) or 'none'}"
                )
            time.sleep(0.2)


def simulate(
    family: Family,
    clients: Sequence[Client],
    *,
    rounds: int,
    local: Fit = fit,
    share: float = 1.0,
    seed: int = 0,
    backend: Mapping[str, Any] | None = None,
) -> None:
    """Train a family on Flower's simulation: what `federate` does, in processes of their own.

    Args:
        family: the server's; its weights change in place.
        clients: who may be drawn; each is a node.
        rounds: how many.
        local: as in `federate`; it must pickle, and so must the data.
        share: as in `federate`.
        seed: as in `federate`, whose weights the same seed gives.
        backend: Flower's `backend_config`, such as
            `{"client_resources": {"num_cpus": 1, "num_gpus": 0.25}}`.

    Raises:
        InputError: an argument does not fit, or what a client returned is not finite.
        MissingExtraError: Flower is not installed.
    """
    strategy: Any = FamilyStrategy(
        family, {client.name: client.arch for client in clients}, share=share, seed=seed
    )

    def start(grid: Grid) -> None:
        arrays = _flower().ArrayRecord(dict(family.state_dict()))
        strategy.start(grid, arrays, num_rounds=rounds)

    _simulated(start, client_app(family, clients, local=local), len(clients), backend)


def on_flower(
    family: Family,
    clients: Sequence[Client],
    server: Callable[[Exchange], T],
    *,
    local: Callable[..., object] = fit,
    patience: float = 120.0,
    backend: Mapping[str, Any] | None = None,
) -> T:
    """Run a server of your own on Flower's simulation, with every client in a process of its own.

    Args:
        family: whose members clients train; its weights do not matter here, and stay.
        clients: each is a node.
        server: is given the exchange with them; `train_fedconv` takes one.
        local: trains a network in place, with the options that the server sends along; it must
            pickle, and so must the data.
        patience: seconds to wait for clients that have not appeared.
        backend: as in `simulate`.

    Returns:
        what `server` returns. A client that fails is not among those who have trained.

    Raises:
        InputError: a client has no node, or the server raised it.
        MissingExtraError: Flower is not installed.
    """
    nodes, found = _Nodes(patience), list[T]()

    def start(grid: Grid) -> None:
        def exchange(jobs: Mapping[str, Job], /) -> dict[str, float]:
            replies = grid.send_and_receive(nodes.messages(grid, jobs))
            samples = {}
            for name, tensors, count in nodes.trained(replies):
                jobs[name][0].load_state_dict(tensors)
                samples[name] = count
            return {name: samples[name] for name in jobs if name in samples}

        found.append(server(exchange))

    _simulated(start, client_app(family, clients, local=local), len(clients), backend)
    return found[0]


def _simulated(
    start: Callable[[Grid], None], nodes: ClientApp, count: int, backend: Mapping[str, Any] | None
) -> None:
    """Run a server among nodes of Flower's simulation; what it raises is raised here."""
    server: Any = _flower("serverapp").ServerApp()
    failed: list[Exception] = []

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        try:
            start(grid)
        except Exception as error:  # Flower would only log it
            failed.append(error)

    _flower("simulation").run_simulation(
        server_app=server,
        client_app=nodes,
        num_supernodes=count,
        backend_config=dict(backend or {}),
    )
    if failed:
        raise failed[0]
