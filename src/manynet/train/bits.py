"""`BitSchedule`: how many bits each layer draws, so that the mean of a member sees all widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np

from manynet.errors import InputError
from manynet.space import Arch, Space, Value

__all__ = ["BitSchedule", "bit_shares"]


def bit_shares(values: Sequence[float], mean: float) -> tuple[float, ...]:
    """Return how likely each value is in the draw of a given mean that favors nothing else.

    Of all distributions over the values with this mean, it is the one of the largest entropy: the
    logarithms of its shares lie on a line.

    Args:
        values: numbers, at least one.
        mean: within their range.

    Raises:
        InputError: the mean is outside.

    Example:
        >>> [round(share, 3) for share in bit_shares((2, 3, 4), 3)]
        [0.333, 0.333, 0.333]
        >>> [round(share, 3) for share in bit_shares((2, 3, 4), 2)]
        [1.0, 0.0, 0.0]
    """
    low, high = min(values), max(values)
    if not low <= mean <= high:
        raise InputError(f"no draw from {tuple(values)} has the mean {mean}; give one within them")
    if mean in (low, high):
        ends = [float(value == mean) for value in values]
        return tuple(end / sum(ends) for end in ends)
    left, right = -400.0 / (high - low), 400.0 / (high - low)
    for _ in range(200):
        slope = (left + right) / 2
        shares = _tilted(values, slope)
        found = math.fsum(share * value for share, value in zip(shares, values, strict=True))
        left, right = (slope, right) if found < mean else (left, slope)
    return tuple(shares)


def _tilted(values: Sequence[float], slope: float) -> list[float]:
    most = max(slope * value for value in values)
    weights = [math.exp(slope * value - most) for value in values]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


@dataclass(frozen=True)
class BitSchedule:
    """Draws one arch a step; the mean of its bits rises and falls from step to step.

    Where every layer draws its bits by itself and evenly, the mean over many layers is nearly the
    same in every draw, and members of few or of many bits are never trained. Here a step draws all
    layers around a mean that moves along a triangular wave from the fewest bits to the most and
    back. It has nothing to learn. Choices that are no bits are drawn evenly.

    Args:
        cycle: steps of a wave; a run should see at least four.
        rank: a pattern of the names of the choices that are bits.

    Raises:
        InputError: the cycle has no step, or the space no such choice.

    Reference: Yi et al. 2024, arXiv 2405.20202, whose schedule is a normal distribution with a
    moving mean; the draw of the largest entropy and the wave are ours.

    Example:
        >>> from manynet.space import Choice, Space
        >>> space = Space(tuple(Choice(f"{n}.bits", (2, 3, 4)) for n in range(100)))
        >>> rng, schedule = np.random.default_rng(0), BitSchedule(cycle=8)
        >>> archs = [schedule.archs_at(space, rng, step)[0] for step in (0, 4)]
        >>> [sum(arch.values()) / 100 for arch in archs]
        [2.0, 4.0]
    """

    cycle: int = 16
    rank: str = "*bits"

    def __post_init__(self) -> None:
        if self.cycle < 1:
            raise InputError(f"BitSchedule(cycle={self.cycle}): a wave has at least one step")

    def archs_at(self, space: Space, rng: np.random.Generator, step: int) -> Sequence[Arch]:
        """Return the arch of a step, counted from 0."""
        place = step % self.cycle / self.cycle
        return [self._around(space, rng, 1 - abs(2 * place - 1))]

    def archs(self, space: Space, rng: np.random.Generator) -> Sequence[Arch]:
        """Return an arch around a mean at random, for a loop that counts no steps."""
        return [self._around(space, rng, rng.random())]

    def _around(self, space: Space, rng: np.random.Generator, height: float) -> Arch:
        """Return an arch whose bits have a mean at a height from 0, the fewest, to 1."""
        values = {c.name: c.values for c in space.choices if fnmatch(c.name, self.rank)}
        if not values:
            raise InputError(f"BitSchedule(rank={self.rank!r}) matches no choice of the space")
        drawn: dict[str, Value] = {}
        if len(values) < len(space.names):
            drawn |= space.sample(rng, by="choice")
        for own in dict.fromkeys(values.values()):
            names = [name for name, options in values.items() if options == own]
            places = rng.choice(len(own), size=len(names), p=_shares_at(own, height))
            drawn |= {n: own[place] for n, place in zip(names, places.tolist(), strict=True)}
        return space.arch(drawn)


def _shares_at(values: Sequence[object], height: float) -> tuple[float, ...]:
    numbers = [float(value) for value in values]  # type: ignore[arg-type] # they are bits
    low, high = min(numbers), max(numbers)
    return bit_shares(numbers, min(high, low + height * (high - low)))
