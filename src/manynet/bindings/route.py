"""`Route`, `Row`: the arch chooses what is read; `Encode`: the arch as numbers, for a router.

A router that weighs experts by the arch is a `Mix` whose coefficients a `Generate` makes of the
`Encode`d arch: one logit an expert is layer-wise, one for each row and expert is neuron-wise. A
choice made anew for each token is computation, not a way of reading a weight: it belongs to the
layers of the skeleton, whose experts' weights can be bound like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.axes import Axis, length
from manynet.bindings.operation import Operation, narrow, resolved
from manynet.bindings.protocol import Binding, Reading
from manynet.bindings.slice import Slice
from manynet.space import Arch, Value

__all__ = ["Encode", "Route", "Row"]


@dataclass(frozen=True)
class Route(Operation, kind="route"):
    """One of several bindings, by the value that a choice has in the arch.

    Args:
        choice: name of the choice.
        values: its values.
        options: what is read for each of them; one more is read for every other value.
    """

    choice: str
    values: tuple[Value, ...]
    options: tuple[Binding, ...]

    def chosen(self, arch: Arch) -> Binding:
        """Return the option that an arch chooses."""
        value = arch[self.choice]
        place = self.values.index(value) if value in self.values else len(self.values)
        return self.options[place]

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return what the chosen option reads, and nothing of the others."""
        return self.chosen(arch).at(arch, sizes)

    def entry_bits(self, arch: Arch) -> int | None:
        """Return the bits of the chosen option's integers."""
        option = resolved(self, arch)
        return option.entry_bits(arch) if isinstance(option, Operation) else None

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return the bits of the chosen option."""
        option = resolved(self, arch)
        if isinstance(option, Operation):
            return option.stored_bits(arch, value)
        return super().stored_bits(arch, value)


@dataclass(frozen=True)
class Row(Operation, kind="row"):
    """The row of a table that stands for the value that a choice has in the arch.

    The table is a vector that holds one row after the other, so that it is trained as vectors are:
    without weight decay. Only the row that is read is touched in training.

    Args:
        table: its one dimension is the rows, times what a row is made of.
        choice: name of the choice.
        values: its values, in the order of the rows.
    """

    table: Slice
    choice: str
    values: tuple[Value, ...]

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return the row as a part of the table."""
        size = length(self.table.dims[0], sizes) // len(self.values)
        start = self.values.index(arch[self.choice]) * size
        return narrow(self.table.at(arch, sizes), (slice(start, start + size),))


@dataclass(frozen=True)
class Encode(Operation, kind="encode"):
    """The arch as a vector: for each choice, its value over the largest, or a one among zeros.

    Args:
        choices: names of the choices.
        values: the values of each; numbers give one entry, others one for each value.
        like: a shared tensor that says in which type and on which device.
    """

    choices: tuple[str, ...]
    values: tuple[tuple[Value, ...], ...]
    like: Binding

    @property
    def entries(self) -> int:
        """How many numbers the vector has."""
        return sum(1 if _numeric(values) else len(values) for values in self.values)

    def value(self, arch: Arch, like: Tensor) -> Tensor:
        """Return the vector."""
        numbers: list[float] = []
        for name, values in zip(self.choices, self.values, strict=True):
            own = arch[name]
            if _numeric(values):
                numbers.append(float(own) / max(abs(float(v)) for v in values))
            else:
                numbers += [float(own == value) for value in values]
        return torch.tensor(numbers, dtype=like.dtype, device=like.device)


def _numeric(values: tuple[Value, ...]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
