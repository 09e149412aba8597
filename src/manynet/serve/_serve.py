"""`serve`: a run's family behind HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manynet.errors import InputError
from manynet.run import Tell, Trained, silent, trained_family
from manynet.search import Front, Record
from manynet.serve._engine import Batching, Engine
from manynet.serve._http import background, foreground, needs_serve, socket_at
from manynet.serve._members import Members
from manynet.serve._policy import Policy, in_time

__all__ = ["Serving", "serve", "serving"]

MIB = 1 << 20


@dataclass(frozen=True)
class Serving:
    """How a run's family is served.

    Args:
        members: how many members of the front to switch between; their ends are among them.
        latency_ms: the target of a request that names none, in milliseconds; None for twice what
            the largest member takes for a full pass, and the wait.
        max_batch: the most samples of one pass.
        max_wait_ms: how long a request may wait for others to share a pass with.
        max_queue: the most samples that wait; requests beyond are refused with 503.
        max_body_mib: the largest request, in MiB.
        threads: of PyTorch.
        policy: decides before each pass who serves.
    """

    members: int = 8
    latency_ms: float | None = None
    max_batch: int = 16
    max_wait_ms: float = 1.0
    max_queue: int = 512
    max_body_mib: float = 16.0
    threads: int = 1
    policy: Policy = in_time

    def __post_init__(self) -> None:
        for name in ("members", "max_body_mib", "threads"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name}={getattr(self, name)} should be positive")
        if self.latency_ms is not None and self.latency_ms <= 0:
            raise InputError(f"latency_ms={self.latency_ms:g} should be positive")
        self.batching()

    def batching(self) -> Batching:
        """Return how requests are put together."""
        return Batching(self.max_batch, self.max_wait_ms, self.max_queue)


def serve(
    run: Path | str | Trained,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Serving | None = None,
    tell: Tell = silent,
    told: Callable[[str], object] = print,
) -> None:
    """Serve a run's family over HTTP until SIGTERM or SIGINT; then answer what waits and return.

    One process holds the shared weights, and of each member its own batch-norm statistics. Before
    each pass a policy looks at who waits and chooses the member: by the latency target of the
    requests, and by load, since with a longer queue smaller members serve. `/predict` answers;
    `/members`, `/health`, `/ready`, `/metrics` and `/openapi.json` tell.

    Args:
        run: the folder of a run that has a front; or its family, front and calibration.
        host: the address to listen at; by default this machine alone can reach it.
        port: 0 for any that is free.
        settings: how to serve.
        tell: hears how far the start is.
        told: hears the address once requests are taken.

    Raises:
        MissingExtraError: the extra `serve` is not installed.
        InputError: there is no run, the address is taken, or the network's inputs cannot be put
            together into batches.
        StorageError: the run has no trained family or no front yet.
    """
    needs_serve()
    listening = socket_at(host, port)
    with listening, _engine(run, settings or Serving(), tell) as (_, app):
        foreground(app, listening, told)


@contextlib.contextmanager
def serving(
    run: Path | str | Trained, settings: Serving | None = None, *, tell: Tell = silent
) -> Iterator[str]:
    """Serve a run's family at a free port of this machine while the context is open.

    Args:
        run: the folder of a run that has a front; or its family, front and calibration.
        settings: how to serve.
        tell: hears how far the start is.

    Yields:
        The address, such as `http://127.0.0.1:40123`.

    Raises:
        ManynetError: as `serve` does.
    """
    needs_serve()
    with _engine(run, settings or Serving(), tell) as (_, app), background(app) as url:
        yield url


@contextlib.contextmanager
def _engine(
    run: Path | str | Trained, settings: Serving, tell: Tell
) -> Iterator[tuple[Engine, Any]]:
    """Open the run, measure its members and start the engine."""
    from manynet.serve._app import app_of
    from manynet.serve._metrics import Metrics

    found = run if isinstance(run, Trained) else trained_family(Path(run), tell=tell)
    members = Members(
        found.family,
        picked(found.front, settings.members),
        found.example_inputs,
        higher_is_better=found.front.higher_is_better,
        prepare=found.calibrated,
        threads=settings.threads,
        tell=tell,
    )
    with members.clock.settings():
        candidates = members.measured(settings.max_batch, tell)
    metrics = Metrics()
    engine = Engine(
        members,
        candidates,
        policy=settings.policy,
        batching=settings.batching(),
        latency_ms=settings.latency_ms,
        watcher=metrics,
    )
    describes = {"metric": found.front.metric, "threads": settings.threads}
    app = app_of(engine, metrics, max_body=int(settings.max_body_mib * MIB), describes=describes)
    engine.start()
    try:
        yield engine, app
    finally:
        engine.close()


def picked(front: Front, count: int) -> tuple[Record, ...]:
    """Return `count` records spread over the front, the one of the best quality among them."""
    best = front.best()
    chosen = front.pick(count)
    return chosen if best in chosen else (*chosen[: count - 1], best)
