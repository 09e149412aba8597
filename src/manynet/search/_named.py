"""Strategies by name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from manynet.errors import InputError, did_you_mean
from manynet.search.coarse_to_fine import CoarseToFine
from manynet.search.genetic import Genetic
from manynet.search.linas import Linas, one_shot, weak_nas
from manynet.search.nsga2 import NSGA2
from manynet.search.random_ import Exhaustive, Random
from manynet.search.strategies import Strategy, StrategyFactory
from manynet.space import Arch, Space

__all__ = ["STRATEGIES", "make_strategy"]

STRATEGIES: Mapping[str, StrategyFactory] = {
    "coarse_to_fine": CoarseToFine,
    "exhaustive": Exhaustive,
    "genetic": Genetic,
    "linas": Linas,
    "nsga2": NSGA2,
    "one_shot": one_shot,
    "random": Random,
    "weak_nas": weak_nas,
}


def make_strategy(
    strategy: str | Strategy | StrategyFactory,
    space: Space,
    *,
    seed: int,
    population: int,
    canonical: Callable[[Arch], Arch] | None = None,
) -> Strategy:
    """Return the strategy of that name, or the one given or made by the factory given.

    Args:
        strategy: a name, a strategy, or what makes one.
        space: where the archs come from.
        seed: of the strategy.
        population: archs at once.
        canonical: as `search` takes it; handed to what has an argument of that name.

    Raises:
        InputError: there is no strategy of that name, or what was given is none.
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InputError(
                f"there is no search strategy {strategy!r}{did_you_mean(strategy, STRATEGIES)}"
            )
        strategy = STRATEGIES[strategy]
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        options = {"seed": seed, "population": population}
        strategy = _made(strategy, space, options, canonical)
    return strategy


def _made(
    factory: object,
    space: Space,
    options: dict[str, Any],
    canonical: Callable[[Arch], Arch] | None,
) -> Strategy:
    if canonical is not None and callable(factory) and _takes(factory, "canonical"):
        options = {**options, "canonical": canonical}
    made = factory(space, **options) if callable(factory) else factory
    if not isinstance(made, Strategy):
        raise InputError(
            f"{factory!r} is no search strategy: it needs ask() -> archs and tell(evaluations)"
        )
    return made


def _takes(factory: Callable[..., object], name: str) -> bool:
    """Whether a function has an argument of that name which is not given yet."""
    bound = factory.keywords if isinstance(factory, functools.partial) else {}
    return name in inspect.signature(factory).parameters and name not in bound
