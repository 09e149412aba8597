"""What a cost is: a named figure of a network, counted, measured or predicted."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import nn

from manynet._inputs import Example, Inputs, positional
from manynet.errors import InputError
from manynet.space import Arch, Space

__all__ = ["Cost", "FamilyLike", "cost"]


class FamilyLike(Protocol):
    """What a cost needs of a family: its space, its members, and inputs that fit them."""

    @property
    def space(self) -> Space:
        """The choices of the family."""
        ...

    @property
    def example_inputs(self) -> Inputs:
        """Inputs that every member takes."""
        ...

    def at(self, arch: Arch, /) -> nn.Module:
        """Return the member of an arch."""
        ...


@dataclass(frozen=True)
class Cost:
    """A figure of a network, smaller is better.

    Call it with a network and inputs that fit it; `of_arch` asks for a member of a family.

    Args:
        name: what it is called in tables, budgets and files, for example `"macs"`.
        unit: its unit in words, for example `"ms"`.
        function: takes a network and the tuple of its inputs, returns the figure.
        measured: it ran on a device; otherwise it was counted or predicted.
        predicted: it comes from a fitted model, and so has an error.
        timed: a clock or a counter of the machine measures it, and other work there spoils it.
    """

    name: str
    unit: str
    function: Callable[[nn.Module, Inputs], float] = field(repr=False)
    measured: bool = False
    predicted: bool = False
    timed: bool = field(default=False, repr=False)  # not a setting, so not in the fingerprint
    tabulated: ClassVar[bool] = False
    """Whether `of_arch` looks it up in a table of the family."""

    def __call__(self, member: nn.Module, example_inputs: Example) -> float:
        """Return the cost of one network.

        Raises:
            InputError: the figure is not a number, not finite or negative.
        """
        return self.checked(self.function(member, positional(member, example_inputs)))

    def of_arch(self, family: FamilyLike, arch: Arch) -> float:
        """Return the cost of the member of `arch`; costs that can be tabulated are then quick."""
        return self(family.at(arch), family.example_inputs)

    def checked(self, value: object) -> float:
        """Return `value` as a float if it can be a cost.

        Raises:
            InputError: it is not a number, not finite or negative.
        """
        try:
            figure = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"cost {self.name!r} returned {value!r}; it should return one number"
            ) from error
        if not math.isfinite(figure) or figure < 0:
            raise InputError(
                f"cost {self.name!r} returned {figure} {self.unit}; "
                "it should return a finite number that is not negative"
            )
        return figure


def cost(
    name: str, *, unit: str, measured: bool = False
) -> Callable[[Callable[[nn.Module, Inputs], float]], Cost]:
    """Make a cost of a function of your own.

    Args:
        name: what it is called in tables, budgets and files.
        unit: its unit in words.
        measured: it runs the network on a device; a search on several workers measures it while
            they rest, as it does a latency.

    Raises:
        InputError: the name is empty.

    Example:
        >>> import torch
        >>> @cost("layers", unit="layers")
        ... def layers(member, example_inputs):
        ...     return sum(1 for _ in member.modules())
        >>> layers(nn.Linear(2, 2), (torch.zeros(1, 2),))
        1.0
        >>> layers
        Cost(name='layers', unit='layers', measured=False, predicted=False)
    """
    if not name:
        raise InputError("a cost needs a name, for example @cost('energy', unit='mJ')")

    def decorate(function: Callable[[nn.Module, Inputs], float]) -> Cost:
        return Cost(name, unit, function, measured, timed=measured)

    return decorate
