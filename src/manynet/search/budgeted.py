"""Archs that keep to a budget of bits before anything is judged: drawn, lowered, repaired."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manynet.errors import BudgetError, InputError
from manynet.search._named import make_strategy
from manynet.search.strategies import Evaluation, Strategy, StrategyFactory
from manynet.space import Arch, Space, Value

__all__ = ["Repaired", "draw_at", "lower", "rises"]

Rises = Mapping[str, Mapping[Value, float]]


def rises(
    space: Space, judge: Callable[[Arch], float], names: Sequence[str]
) -> dict[str, dict[Value, float]]:
    """Return how much worse the largest arch gets by each lower value of one choice.

    Args:
        space: of the archs.
        judge: how bad an arch is, measured; called once for the largest, and once for each lower
            value of each of the choices.
        names: of the choices.
    """
    largest = dict(space.largest)
    least = judge(space.largest)
    found: dict[str, dict[Value, float]] = {}
    for name in names:
        lowered = [value for value in space[name].values if value != largest[name]]
        found[name] = {v: judge(space.arch({**largest, name: v})) - least for v in lowered}
        found[name][largest[name]] = 0.0
    return found


def lower(
    space: Space, arch: Mapping[str, Value], rise: Rises, sizes: Mapping[str, float], mean: float
) -> Arch:
    """Lower one choice after the other until the mean of an arch's bits is within a budget.

    The next is always the one whose next lower value costs least for what it saves.

    Args:
        space: of the archs.
        arch: where to begin; the largest for the whole greedy allocation.
        rise: for each choice, what each of its values costs; as `rises` or
            `manynet.fit.weight_rises` return.
        sizes: how much each choice counts in the mean, such as the weights of its layer.
        mean: the most that is allowed.

    Raises:
        BudgetError: even the lowest values are above it.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space((Choice("a.bits", (2, 4)), Choice("b.bits", (2, 4))))
        >>> rise = {"a.bits": {2: 5.0, 4: 0.0}, "b.bits": {2: 1.0, 4: 0.0}}
        >>> lower(space, space.largest, rise, {"a.bits": 1, "b.bits": 1}, 3)
        Arch({'a.bits': 4, 'b.bits': 2})
    """
    values = dict(space.arch(arch))
    total = sum(sizes.values())
    spent = _bits(values, sizes)
    while spent > mean * total + 1e-9:
        steps = [
            ((rise[n][below] - rise[n][now]) / (size * (float(now) - float(below))), n, below)
            for n, size in sizes.items()
            if (below := _below(space, n, now := values[n])) is not None
        ]
        if not steps:
            found = space.arch(values)
            raise BudgetError(
                f"a mean of {mean} bits is out of reach: the lowest is {spent / total:g}",
                nearest=found,
            )
        _, name, below = min(steps, key=lambda step: step[0])
        spent -= sizes[name] * (float(values[name]) - float(below))
        values[name] = below
    return space.arch(values)


def draw_at(
    space: Space,
    sizes: Mapping[str, float],
    mean: float,
    rng: np.random.Generator,
    *,
    tolerance: float = 0.01,
) -> Arch:
    """Draw an arch at random whose bits have a given mean.

    Every choice is drawn evenly; then choices at random go one value down, or up, until the mean is
    below the given one by the tolerance at most.

    Args:
        space: of the archs.
        sizes: how much each choice counts in the mean.
        mean: the most that is allowed.
        rng: all chance comes from it.
        tolerance: how far below it may be.

    Raises:
        InputError: there is no such arch, or none was found.
    """
    values = dict(space.sample(rng, by="choice"))
    names, total = list(sizes), float(sum(sizes.values()))
    for _ in range(1_000 * len(names)):
        found = _bits(values, sizes) / total
        if mean - tolerance <= found <= mean + 1e-9:
            return space.arch(values)
        name = names[int(rng.integers(len(names)))]
        options = space[name].values
        place = options.index(values[name]) + (-1 if found > mean else 1)
        if 0 <= place < len(options):
            values[name] = options[place]
    raise InputError(f"no arch with a mean of {mean} bits within {tolerance} was found")


def _bits(values: Mapping[str, Any], sizes: Mapping[str, float]) -> float:
    return sum(size * float(values[name]) for name, size in sizes.items())


def _below(space: Space, name: str, value: Value) -> Any:
    """Return the next lower value of a choice, or None."""
    options = space[name].values
    place = options.index(value)
    return options[place - 1] if place else None


class Repaired:
    """A strategy whose archs are changed to keep a budget before they are judged.

    Where nearly no arch of a space keeps it, as a mean of bits far from the middle, a strategy
    alone would spend its proposals on archs that are refused.

    Args:
        repair: from the arch that a strategy asks for to one within the budget, such as
            `lambda arch: lower(space, arch, rise, sizes, 2.5)`.
        strategy: the strategy, or its name.

    Example:
        >>> from manynet.space import Choice
        >>> space = Space(tuple(Choice(f"{n}.bits", (2, 3, 4)) for n in range(9)))
        >>> few = Repaired(lambda arch: space.arch({**arch, "0.bits": 2}), "random")
        >>> {arch["0.bits"] for arch in few(space, seed=0, population=8).ask()}
        {2}
    """

    def __init__(
        self,
        repair: Callable[[Arch], Arch],
        strategy: str | StrategyFactory = "genetic",
    ) -> None:
        self.repair, self.strategy = repair, strategy

    def __call__(self, space: Space, *, seed: int, population: int) -> Strategy:
        """Return the strategy for a space."""
        inner = make_strategy(self.strategy, space, seed=seed, population=population)
        return _Within(inner, self.repair)


class _Within:
    def __init__(self, inner: Strategy, repair: Callable[[Arch], Arch]) -> None:
        self.inner, self.repair = inner, repair

    def ask(self) -> Sequence[Arch]:
        return list(dict.fromkeys(map(self.repair, self.inner.ask())))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self.inner.tell(evaluations)
