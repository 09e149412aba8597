"""Which choices of a family its model's own code cannot do without: members are built and run.

The code may pick a layer by a number that the trace has not seen, or demand several widths to be so
large together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from manynet._inputs import device_of, evaluating, moved
from manynet.family import Family
from manynet.space import Value

__all__ = ["failing_alone", "failing_lists", "failing_together", "failure"]

_LENGTHS_TRIED = 4
"""How many ways to shorten several lists have to work in a row, at least: as many as there are."""


def failing_lists(family: Family, inputs: tuple[Any, ...]) -> dict[str, Exception]:
    """Return the lists that cannot be shorter beside others as they are, where there are several.

    The code may go through one of them by the numbers of another.
    """
    names = [depth.choice for depth in family.blueprint.depths if depth.closes]
    if len(names) < 2:
        return {}
    found = _failing_of(names, family, inputs)
    values = {choice.name: choice.values for choice in family.space.choices}
    rng, passed = np.random.default_rng(0), 0
    while passed < max(_LENGTHS_TRIED, len(names)):
        left = [name for name in names if name not in found]
        picked = {name: values[name][rng.integers(len(values[name]))] for name in left}
        lost = _first_failing(picked, family, inputs)
        passed = 0 if lost else passed + 1
        found |= lost
    return found


def _first_failing(
    picked: Mapping[str, Value], family: Family, inputs: tuple[Any, ...]
) -> dict[str, Exception]:
    """Return the first choice that fails at the value picked for it beside those before it."""
    arch: dict[str, Value] = dict(family.space.largest)
    if failure(family, {**arch, **picked}, inputs) is None:
        return {}
    for name, value in picked.items():
        arch[name] = value
        error = failure(family, arch, inputs)
        if error is not None:
            return {name: error}
    return {}


def failing_alone(family: Family, inputs: tuple[Any, ...]) -> dict[str, Exception]:
    """Return the choices that alone, at their smallest, make the model's code fail, and how."""
    return _failing_of([choice.name for choice in family.space.choices], family, inputs)


def _failing_of(
    names: Sequence[str], family: Family, inputs: tuple[Any, ...]
) -> dict[str, Exception]:
    largest, smallest = family.space.largest, family.space.smallest
    found = {}
    for name in names:
        error = failure(family, {**largest, name: smallest[name]}, inputs)
        if error is not None:
            found[name] = error
    return found


def failing_together(family: Family, inputs: tuple[Any, ...]) -> dict[str, Exception]:
    """Return the choices that make the code fail at their smallest beside those before them."""
    arch: dict[str, Value] = dict(family.space.largest)
    found = {}
    for choice in family.space.choices:
        smaller = {**arch, choice.name: family.space.smallest[choice.name]}
        error = failure(family, smaller, inputs)
        if error is None:
            arch = smaller
        else:
            found[choice.name] = error
    return found


def failure(family: Family, arch: Mapping[str, Value], inputs: tuple[Any, ...]) -> Exception | None:
    """Run a member once, so that a wrong trace is found here and not in training."""
    try:
        with torch.no_grad(), evaluating(family.at(arch)) as member:
            member(*moved(inputs, device_of(member)))
    except Exception as error:
        return error
    finally:
        family.clear()  # what the member copied is not kept
    return None
