"""A Ray cluster for the length of a search: started, joined, or found in use already."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from manynet.errors import InputError, MissingExtraError, WorkerError
from manynet.search.workers import RayWorkers, cores

__all__ = ["connected", "ray_library"]

_LEAST_STORE = 128 * 2**20
"""Bytes of an object store that is started; Ray asks for 75 MiB at least."""
_ROOM = 1.25
"""What the object store gets beyond what is put into it, as a factor."""
_PATIENCE_S = 5.0
"""How long the head of a cluster may take to answer."""


def ray_library() -> Any:
    """Return the module `ray`. Raises `MissingExtraError`."""
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


@contextlib.contextmanager
def connected(workers: RayWorkers, nbytes: int) -> Iterator[Any]:
    """Be connected to Ray for a while; a connection that was there before stays.

    Args:
        workers: where the cluster is, and what an evaluation needs.
        nbytes: how much will be put into the object store.

    Yields:
        the module `ray`.

    Raises:
        InputError: the cluster cannot be reached.
        WorkerError: Ray cannot be started, or no machine of the cluster has room for an evaluation.
    """
    ray = ray_library()
    if ray.is_initialized():
        _check_room(ray, workers)
        yield ray
        return
    if workers.host_and_port is not None:
        _check_reach(*workers.host_and_port)
    try:
        with _quiet_start(ray, alone=workers.address is None), _own_signals():
            ray.init(**_how(workers, nbytes))
        _check_room(ray, workers)
        yield ray
    finally:
        with _own_signals():
            ray.shutdown()


def _how(workers: RayWorkers, nbytes: int) -> dict[str, Any]:
    silent: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if workers.address is not None:
        return {"address": workers.address, **silent}
    count = workers.count or cores()
    return {
        "address": "local",
        "num_cpus": max(1, round(count * workers.cpus + 0.499)),
        "include_dashboard": False,
        "object_store_memory": max(_LEAST_STORE, int(_ROOM * nbytes) + _LEAST_STORE // 2),
        **silent,
    }


def _check_reach(host: str, port: int) -> None:
    """See whether somebody listens there: Ray itself would try for a minute, then abort."""
    try:
        socket.create_connection((host, port), timeout=_PATIENCE_S).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {host}:{port} ({error.strerror or error}); check the "
            "address that `ray start --head` showed, and that this machine can reach it"
        ) from error


def _check_room(ray: Any, workers: RayWorkers) -> None:
    """See that some machine can take an evaluation: a task that none can take waits for ever."""
    wanted = {"CPU": workers.cpus, "GPU": workers.gpus}
    machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    if not any(_has(machine, wanted) for machine in machines):
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
        found = "; ".join(
            f"{one.get('CPU', 0):g} CPU, {one.get('GPU', 0):g} GPU" for one in machines
        )
        raise WorkerError(
            f"no machine of the Ray cluster has {asked} for an evaluation (they have {found or 0})"
            "; ask for less with RayWorkers(cpus=…, gpus=…), or add a machine"
        )


def _has(machine: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    return all(machine.get(name, 0.0) >= amount for name, amount in wanted.items())


@contextlib.contextmanager
def _quiet_start(ray: Any, *, alone: bool) -> Iterator[None]:
    """Let Ray send no statistics, stay on the loopback address, and say what fails in one line."""
    from ray._private import ray_constants

    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if alone:  # as Ray does by default on macOS and Windows: no other machine is to join
        ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        reason = str(error).strip().splitlines()[0]
        if alone:
            raise WorkerError(f"Ray cannot be started on this machine: {reason}") from error
        raise InputError(
            f"the Ray cluster cannot be joined: {reason}; start one with `ray start --head`, or "
            "check the address and that Ray and Python have the same versions there"
        ) from error
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        if before is None:
            del os.environ["RAY_USAGE_STATS_ENABLED"]
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = before


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put back what this program does at SIGTERM: Ray takes it for itself."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)
