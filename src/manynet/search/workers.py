"""Where a search judges its archs: on the workers of a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass

from manynet.errors import InputError

__all__ = ["RayWorkers", "workers_of"]


@dataclass(frozen=True)
class RayWorkers:
    """Workers of a Ray cluster, each of which judges one arch at a time.

    Every evaluation is a task of Ray. The family is put into the cluster's object store once, and
    the workers of a machine read its weights where they lie. Where this process uses Ray already
    (`ray.init`), that connection is used and left open; otherwise a search begins by starting Ray
    or joining the cluster, which takes some seconds, and ends by leaving it.

    Args:
        count: the most evaluations at once. None: one for each core of this machine; at an
            address as many as the cluster has room for, more when it grows.
        address: of the head of a running cluster, `"HOST:6379"`, or `"auto"` for the one that runs
            on this machine. None starts Ray on this machine for as long as the search takes: it
            listens on the loopback address alone and reports to nobody.
        cpus: cores of an evaluation, and so threads of PyTorch.
        gpus: GPUs of an evaluation, which may be a part of one. A family on a GPU needs some.
        retries: how often an evaluation is done again whose worker was lost.

    Raises:
        InputError: a number is out of range, or the address is none.

    Example:
        >>> RayWorkers(2)
        RayWorkers(count=2, address=None, cpus=1.0, gpus=0.0, retries=3)
    """

    count: int | None = None
    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        """Check the arguments."""
        if self.count is not None and self.count < 1:
            raise InputError(f"RayWorkers(count={self.count}): it needs at least 1, or None")
        if self.cpus <= 0 or self.gpus < 0 or self.retries < 0:
            raise InputError(
                f"RayWorkers(cpus={self.cpus:g}, gpus={self.gpus:g}, retries={self.retries}): "
                "cpus must be above 0, gpus and retries at least 0"
            )
        if self.address is not None and self.address != "auto":
            _split(self.address)

    @property
    def threads(self) -> int:
        """Threads of PyTorch in a worker."""
        return max(1, int(self.cpus))

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Where the head of the cluster listens; None if that is still to be found out."""
        return None if self.address in (None, "auto") else _split(str(self.address))


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or "//" in address or not port.isdigit():
        raise InputError(
            f"the address {address!r} of a Ray cluster should be HOST:PORT of its head, such as "
            '"192.168.0.1:6379", as `ray start --head` shows it, or "auto"'
        )
    return host.strip("[]"), int(port)


def workers_of(given: int | RayWorkers) -> RayWorkers | None:
    """Return the workers that an argument means; None for this process alone.

    Raises:
        InputError: it is neither a number from 0 nor workers.
    """
    if isinstance(given, RayWorkers):
        return given
    if type(given) is not int or given < 0:
        raise InputError(
            f"workers={given!r} should be a number, 0 for this process alone, or RayWorkers(…)"
        )
    return RayWorkers(given) if given else None


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
