"""Costs that are counted: parameters, bytes and multiply-accumulates."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from manynet._inputs import Inputs
from manynet.bindings.stored import stored_bytes
from manynet.cost._cost import Cost, FamilyLike
from manynet.cost._count import by_layer, unique_tensors
from manynet.cost._table import lookup_of
from manynet.space import Arch

__all__ = ["bit_operations", "bytes_", "macs", "parameters"]


@dataclass(frozen=True)
class Counted(Cost):
    """A cost that is the sum of what each layer costs, and so can be tabulated for a family."""

    column: str = ""
    tabulated: ClassVar[bool] = True

    def of_arch(self, family: FamilyLike, arch: Arch) -> float:
        """Return the cost of the member of `arch`, exactly, at the family's example inputs.

        The first call tabulates the family's layers (one forward on the meta device a choice);
        later ones take microseconds where the layers of `arch` were met before.
        """
        return self.checked(lookup_of(family, self.column)(arch))


def parameters() -> Cost:
    """Cost: how many numbers the parameters hold, each shared tensor once.

    Example:
        >>> parameters()(nn.Linear(4, 8), Tensor(1, 4))
        40.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        tensors = [tensor for _, tensor in unique_tensors(member)]
        return sum(tensor.numel() for tensor in tensors if isinstance(tensor, nn.Parameter))

    return Counted("parameters", "parameters", function, column="parameters")


def bytes_() -> Cost:
    """Cost: bytes of the parameters and saved buffers in a file, each shared tensor once.

    The names and the header of the file are not in it. Quantized weights count as they are kept:
    as packed integers with their scales.

    Example:
        >>> bytes_()(nn.Linear(4, 8), Tensor(1, 4))
        160.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        return sum(stored_bytes(tensor) for _, tensor in unique_tensors(member))

    return Counted("bytes", "bytes", function, column="bytes")


def macs(*, per_sample: bool = True) -> Cost:
    """Cost: multiply-accumulates of one forward pass; see `by_layer` for what is counted.

    Nothing is computed, and a network that was counted before on inputs of the same shape is not
    counted again.

    Args:
        per_sample: for one sample; otherwise for the example inputs as they are, which is right
            where the first dimension is no batch, as in a graph.

    Example:
        >>> macs()(nn.Linear(4, 8), Tensor(16, 4))
        32.0
    """
    remembered: weakref.WeakKeyDictionary[nn.Module, tuple[object, float]]
    remembered = weakref.WeakKeyDictionary()

    def function(member: nn.Module, inputs: Inputs) -> float:
        key = _signature(member, inputs)
        known = remembered.get(member)
        if known is None or known[0] != key:
            layers = by_layer(member, inputs, per_sample=per_sample)
            known = remembered[member] = key, float(sum(layer.macs for layer in layers))
        return known[1]

    maker: Callable[..., Cost] = Counted if per_sample else Cost
    return maker("macs", "MACs", function, **({"column": "macs"} if per_sample else {}))


def bit_operations() -> Cost:
    """Cost: multiply-accumulates of one sample, each times the bits of its weight and its input.

    What is not quantized counts 32 bits.

    Example:
        >>> bit_operations()(nn.Linear(4, 8), Tensor(16, 4))
        32768.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        return sum(layer.bit_operations for layer in by_layer(member, inputs))

    return Counted("bit_operations", "bit operations", function, column="bit_operations")


def _signature(member: nn.Module, inputs: Inputs) -> object:
    """Return what a count depends on, as far as it can change under a network's feet."""
    given = tuple(value.shape if isinstance(value, Tensor) else value for value in inputs)
    return given, tuple(parameter.shape for parameter in member.parameters())
