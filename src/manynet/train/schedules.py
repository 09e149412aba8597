"""How the learning rate goes: functions from a step to a factor."""

from __future__ import annotations

import math
from collections.abc import Callable

from manynet.errors import InputError, did_you_mean

__all__ = ["Schedule", "constant", "cosine", "exponential", "linear", "schedule_of", "warmed_up"]

Schedule = Callable[[int], float]
"""From the number of steps taken to what the learning rate is multiplied by."""


def constant() -> Schedule:
    """Return a schedule that leaves the learning rate as it is."""
    return lambda step: 1.0


def cosine(steps: int) -> Schedule:
    """Return half a cosine wave, from 1 down to 0 at `steps`.

    Example:
        >>> [round(cosine(4)(step), 3) for step in range(5)]
        [1.0, 0.854, 0.5, 0.146, 0.0]
    """
    return lambda step: 0.5 * (1 + math.cos(math.pi * min(step / steps, 1.0)))


def linear(steps: int) -> Schedule:
    """Return a straight line, from 1 down to 0 at `steps`.

    Example:
        >>> [linear(4)(step) for step in range(6)]
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    return lambda step: max(0.0, 1 - step / steps)


def exponential(rate: float = 0.97, *, every: float = 1.0, floor: float = 0.05) -> Schedule:
    """Return BigNAS's schedule: exponential decay that ends in a constant.

    Args:
        rate: what the factor is multiplied by once in `every` steps, smoothly.
        every: steps; BigNAS decays once in 2.4 epochs.
        floor: the constant that it ends in.

    Raises:
        InputError: a rate that does not decay, or a floor or a period that cannot be.

    Reference: Yu et al., "BigNAS", 2020, arXiv 2003.11142; theirs goes down in stairs.

    Example:
        >>> [round(exponential(0.5, floor=0.2)(step), 2) for step in range(4)]
        [1.0, 0.5, 0.25, 0.2]
    """
    if not 0 < rate < 1 or not 0 <= floor <= 1 or not every > 0:
        raise InputError(
            f"exponential({rate}, every={every}, floor={floor}): the rate lies between 0 and 1, "
            "the floor from 0 to 1, and every is above 0"
        )
    return lambda step: max(rate ** (step / every), floor)


def warmed_up(schedule: Schedule, steps: int) -> Schedule:
    """Return `schedule` after a rise in a straight line over `steps` steps.

    Example:
        >>> [round(warmed_up(constant(), 4)(step), 2) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    if not steps:
        return schedule
    return lambda step: (step + 1) / steps if step < steps else schedule(step - steps)


def schedule_of(schedule: str | Schedule, steps: int, warmup: float) -> Schedule:
    """Return the schedule that a name means, stretched over `steps` and warmed up.

    Args:
        schedule: `"cosine"`, `"linear"`, `"exponential"` (at its floor of 5 % after 65 % of the
            steps, as in BigNAS), `"constant"`, or a function from the step to a factor, taken as
            it is.
        steps: steps of the whole training.
        warmup: steps of the rise if it is an integer, else their share of all steps.

    Raises:
        InputError: an unknown name, or a warm-up that is longer than the training.
    """
    if callable(schedule):
        return schedule
    rise = warmup if isinstance(warmup, int) else round(warmup * steps)
    if not 0 <= rise <= steps:
        raise InputError(f"warmup={warmup} is {rise} steps, and there are {steps}")
    left = max(steps - rise, 1)
    named: dict[str, Schedule] = {
        "constant": constant(),
        "cosine": cosine(left),
        "exponential": exponential(0.05, every=0.65 * left),
        "linear": linear(left),
    }
    if schedule not in named:
        raise InputError(f"schedule {schedule!r} is unknown{did_you_mean(schedule, named)}")
    return warmed_up(named[schedule], int(rise))
