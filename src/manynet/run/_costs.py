"""The costs that a config can name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from manynet.config import Config
from manynet.cost import Cost, macs, parameters, peak_memory
from manynet.cost import bytes as bytes_
from manynet.errors import InputError, did_you_mean

__all__ = ["LATENCY", "check_names", "counted", "searched", "wants_latency"]

LATENCY = "latency_ms"
_COUNTED: Mapping[str, Callable[[], Cost]] = {
    "bytes": bytes_,
    "macs": macs,
    "parameters": parameters,
}
_KNOWN: Mapping[str, Callable[[], Cost]] = {**_COUNTED, "peak_memory": peak_memory}


def counted(name: str) -> Cost | None:
    """Return a cost that is counted and needs no network to run; None if `name` is no such."""
    maker = _COUNTED.get(name)
    return None if maker is None else maker()


def check_names(config: Config) -> None:
    """Refuse a cost or a budget of a name that nothing measures.

    Raises:
        InputError: the name, where it stands, and the nearest known one.
    """
    names = [*_KNOWN, LATENCY]
    _check("search.costs", config.search.costs, names)
    _check("budget", config.budget, names)


def _check(where: str, found: Iterable[str], names: list[str]) -> None:
    for name in found:
        if name not in names:
            raise InputError(f"{where}: there is no cost called {name}{did_you_mean(name, names)}")


def wants_latency(config: Config) -> bool:
    """Return whether the search looks at latency."""
    return LATENCY in config.budget or LATENCY in config.search.costs


def searched(config: Config, predicted: Cost | None) -> list[Cost]:
    """Return the costs of the search: those named, and those that a budget needs."""
    names = dict.fromkeys([*config.search.costs, *config.budget])
    names.pop(LATENCY, None)
    costs = [_KNOWN[name]() for name in names]
    return [*costs, predicted] if predicted is not None and wants_latency(config) else costs
