"""The costs that a config can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from manynet.config import Config
from manynet.cost import (
    Cost,
    energy,
    kv_cache_bytes,
    macs,
    parameters,
    peak_memory,
    token_latency,
)
from manynet.cost import bytes as bytes_
from manynet.errors import InputError, did_you_mean

__all__ = [
    "LATENCY",
    "TOKEN",
    "check_counters",
    "check_names",
    "counted",
    "per_token",
    "searched",
    "wants_latency",
]

LATENCY = "latency_ms"
TOKEN = "token_ms"
"""The time in which a language model writes one token."""
ENERGY = "energy_mj"
"""The energy of one pass, where the machine has a counter for it."""
_COUNTED: Mapping[str, Callable[[], Cost]] = {
    "bytes": bytes_,
    "macs": macs,
    "parameters": parameters,
}
_WRITING: Mapping[str, Callable[[], Cost]] = {
    "kv_cache_bytes": kv_cache_bytes,
    TOKEN: token_latency,
}
_KNOWN: Mapping[str, Callable[[], Cost]] = {**_COUNTED, "peak_memory": peak_memory, **_WRITING}


def counted(name: str) -> Cost | None:
    """Return a cost that is counted and needs no network to run; None if `name` is no such."""
    maker = _COUNTED.get(name)
    return None if maker is None else maker()


def check_names(config: Config) -> None:
    """Refuse a cost or a budget of a name that nothing measures.

    Raises:
        InputError: the name, where it stands, and the nearest known one.
    """
    names = [*_KNOWN, LATENCY, ENERGY]
    _check("search.costs", config.search.costs, names)
    _check("budget", config.budget, names)


def _check(where: str, found: Iterable[str], names: list[str]) -> None:
    for name in found:
        if name not in names:
            raise InputError(f"{where}: there is no cost called {name}{did_you_mean(name, names)}")


def check_counters(config: Config, device: torch.device) -> None:
    """Refuse a run that looks at energy where nothing counts it, before it has begun.

    Raises:
        InputError: the device has no counter of energy, or it may not be read.
    """
    if ENERGY in {*config.search.costs, *config.budget}:
        energy(device)


def wants_latency(config: Config) -> bool:
    """Return whether the search looks at latency."""
    return LATENCY in config.budget or LATENCY in config.search.costs


def per_token(config: Config, **settings: Any) -> Cost:
    """Return the time of one token, the last one of a text as long as those of the data."""
    return token_latency(tokens=config.data.length - 1, **settings)


def searched(
    config: Config,
    predicted: Cost | None,
    *,
    device: torch.device | str = "cpu",
    generates: bool = False,
) -> list[Cost]:
    """Return the costs of the search: those named, and those that a budget needs.

    Of a model that writes text, the bytes of its key-value cache always belong to them.

    Raises:
        InputError: a cost of writing text is named, and the model writes none; or energy, and the
            device has no counter of it.
    """
    names = dict.fromkeys([*config.search.costs, *config.budget])
    names.pop(LATENCY, None)
    if generates:
        names["kv_cache_bytes"] = None
    elif wrong := [name for name in names if name in _WRITING]:
        raise InputError(f"{wrong[0]} is a cost of writing text, and {config.model} writes none")
    made: dict[str, Callable[[], Cost]] = {
        **_KNOWN,
        TOKEN: lambda: per_token(config),
        ENERGY: lambda: energy(device),
    }
    costs = [made[name]() for name in names]
    return [*costs, predicted] if predicted is not None and wants_latency(config) else costs
