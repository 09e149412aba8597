"""Which members are measured to predict the others, and what tells them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from manynet.cost._regression import Array
from manynet.errors import InputError
from manynet.space import Arch, Space, Value

__all__ = ["FEWEST", "drawn_archs", "leveled", "news", "onehot_of", "touches_by_choice"]

FEWEST = 8


def drawn_archs(space: Space, samples: int, seed: int) -> list[Arch]:
    """Return different archs: the largest, the smallest, and random ones of all sizes."""
    rng = np.random.default_rng(seed)
    found = dict.fromkeys([space.largest, space.smallest])
    for number in range(20 * samples):
        if len(found) >= samples:
            break
        found.setdefault(space.sample(rng) if number % 2 else leveled(space, rng))
    if len(found) < FEWEST:
        raise InputError(
            f"the family has {len(found)} members or samples={samples} is small, and a fit needs "
            f"{FEWEST}; measure each with latency() instead"
        )
    return list(found)


def leveled(space: Space, rng: np.random.Generator) -> Arch:
    """Return an arch whose choices are all near one level between smallest and largest."""
    level = rng.uniform()
    vector = np.clip(rng.normal(level, 0.25, len(space.choices)), 0.0, 1.0)
    return space.decode(vector)


def news(arch: Arch, parts: Iterable[tuple[tuple[str, ...], Mapping[Any, float]]]) -> int:
    """Return how much an arch would tell of groups of layers: new values, or combinations."""
    score = 0
    for names, known in parts:
        values = tuple(arch[name] for name in names)
        keys = [key if len(names) > 1 else (key,) for key in known]
        met = [{key[at] for key in keys} for at in range(len(names))]
        score += 10 * sum(value not in some for value, some in zip(values, met, strict=True))
        score += (values if len(names) > 1 else values[0]) not in known
    return score


def onehot_of(space: Space, archs: Sequence[Arch]) -> Array:
    """Return a one for each value that an arch has, among zeros, `(archs, values)`."""
    return np.array(
        [[float(arch[c.name] == v) for c in space.choices for v in c.values] for arch in archs]
    )


def touches_by_choice(space: Space, touch: Array) -> dict[str, dict[Value, float]]:
    """Return the touches by choice and value."""
    left = iter(touch)
    return {c.name: {value: float(next(left)) for value in c.values} for c in space.choices}
