"""Flower: the rounds of `federate` among its nodes, on one machine or many.

A node trains the member that it can carry, as a plain network, and sends the tensors back; the
strategy merges them as `federate` does. Rounds with the same seed give the same weights on either.

Flower (`pip install 'manynet[flower]'`) holds back other libraries, so it is best given an
environment of its own.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manynet.errors import InputError, MissingExtraError
from manynet.family import Family
from manynet.federate._local import Fit, fit
from manynet.federate._merge import merge
from manynet.federate._rounds import Client, draw_round, update_of
from manynet.federate._update import Update
from manynet.space import Value

if TYPE_CHECKING:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid

__all__ = ["FamilyStrategy", "client_app", "simulate"]

_log = logging.getLogger(__name__)


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
        local: trains a member in place, as in `federate`.

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
        local(member, client.data, seed=int(message.content["config"]["seed"]))
        update = update_of(family, client, member)
        content = {
            "arrays": flower.ArrayRecord(dict(update.tensors)),
            "metrics": flower.MetricRecord({"num-examples": update.weight}),
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
        self.patience = patience
        self._rng = np.random.default_rng(seed)
        self._nodes: dict[str, int] = {}
        self._names: dict[int, str] = {}

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
        self._meet(grid, {names[place] for place in drawn})
        flower, messages = _flower(), []
        for place in drawn:
            member = self.family.extract(self.archs[names[place]])
            content = {
                "arrays": flower.ArrayRecord(dict(member.state_dict())),
                "config": flower.ConfigRecord({**config, "seed": seeds[place]}),
            }
            node = self._nodes[names[place]]
            messages.append(flower.Message(flower.RecordDict(content), node, "train"))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge what came back into the family's weights."""
        updates = []
        for reply in replies:
            name = self._names[reply.metadata.src_node_id]
            if reply.has_error():
                _log.warning("client %r failed in round %d: %s", name, server_round, reply.error)
                continue
            updates.append(self._update(name, reply))
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

    def _update(self, name: str, reply: Message) -> Update:
        parts = self.family.parts(self.archs[name]).values()
        return Update(
            reply.content["arrays"].to_torch_state_dict(),
            float(reply.content["metrics"]["num-examples"]),
            name,
            {part.source: part.index for part in parts},
        )


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
    server: Any = _flower("serverapp").ServerApp()
    failed: list[Exception] = []

    @server.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        try:
            arrays = _flower().ArrayRecord(dict(family.state_dict()))
            strategy.start(grid, arrays, num_rounds=rounds)
        except InputError as error:  # Flower would only log it
            failed.append(error)

    _flower("simulation").run_simulation(
        server_app=server,
        client_app=client_app(family, clients, local=local),
        num_supernodes=len(clients),
        backend_config=dict(backend or {}),
    )
    if failed:
        raise failed[0]
