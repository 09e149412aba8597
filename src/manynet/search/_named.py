"""Strategies by name."""

from __future__ import annotations

from collections.abc import Mapping

from manynet.errors import InputError, did_you_mean
from manynet.search.coarse_to_fine import CoarseToFine
from manynet.search.genetic import Genetic
from manynet.search.linas import Linas, one_shot, weak_nas
from manynet.search.nsga2 import NSGA2
from manynet.search.random_ import Exhaustive, Random
from manynet.search.strategies import Strategy, StrategyFactory
from manynet.space import Space

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
    strategy: str | Strategy | StrategyFactory, space: Space, *, seed: int, population: int
) -> Strategy:
    """Return the strategy of that name, or the one given or made by the factory given.

    Raises:
        InputError: there is no strategy of that name, or what was given is none.
    """
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InputError(
                f"there is no search strategy {strategy!r}{did_you_mean(strategy, STRATEGIES)}"
            )
        return STRATEGIES[strategy](space, seed=seed, population=population)
    if isinstance(strategy, type) or not isinstance(strategy, Strategy):
        strategy = _made(strategy, space, seed, population)
    return strategy


def _made(factory: object, space: Space, seed: int, population: int) -> Strategy:
    made = factory(space, seed=seed, population=population) if callable(factory) else factory
    if not isinstance(made, Strategy):
        raise InputError(
            f"{factory!r} is no search strategy: it needs ask() -> archs and tell(evaluations)"
        )
    return made
