"""How a network that generates weights starts, so that what it generates starts well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["Fan", "Target", "hyperfan_init", "target_of"]

Fan = Literal["in", "out", "harmonic"]
"""What a generated layer keeps: the size of activations, of gradients, or a mean of both."""


@dataclass(frozen=True)
class Target:
    """One generated tensor.

    Args:
        kind: a layer's weight, its bias, or the scale or shift of a norm.
        fan_in: inputs of one output of its layer, kernel area included.
        fan_out: outputs that one input of its layer reaches, kernel area included.
        biased: whether the layer's bias is generated as well as its weight.
    """

    kind: Literal["weight", "bias", "norm"]
    fan_in: int = 1
    fan_out: int = 1
    biased: bool = False

    def variance(self, fan: Fan = "in", gain: float = 2.0) -> float:
        """Return which variance the entries should start with.

        Args:
            fan: what the layer is to keep.
            gain: 2 where a ReLU follows the layers, 1 where nothing does.

        Example:
            >>> Target("weight", 64, 10, biased=True).variance()
            0.015625
        """
        if self.kind == "norm":
            return 0.0
        if self.kind == "weight":
            inner = gain / ((2 if self.biased else 1) * self.fan_in)
            outer = gain / self.fan_out
        else:
            inner = gain / 2
            outer = max(0.0, gain * (1 - self.fan_in / self.fan_out))
        if fan == "harmonic":
            return 2 / (1 / inner + 1 / outer) if outer else 0.0
        return inner if fan == "in" else outer


def target_of(name: str, shapes: Mapping[str, Sequence[int]]) -> Target:
    """Return what is known of a generated tensor by its name and the shapes of all of them.

    Args:
        name: such as `"0.weight"`.
        shapes: of all generated tensors, by name.

    Example:
        >>> target_of("0.bias", {"0.weight": (10, 3, 5, 5), "0.bias": (10,)}).fan_in
        75
    """
    owner, _, role = name.rpartition(".")
    weight = shapes.get(f"{owner}.weight" if owner else "weight", ())
    if len(shapes[name]) > 1:
        weight = shapes[name]
    elif len(weight) < 2:
        return Target("norm") if role in ("weight", "bias") else Target("bias", 1, 1)
    area = math.prod(weight[2:])
    fans = weight[1] * area, weight[0] * area
    biased = (f"{owner}.bias" if owner else "bias") in shapes
    return Target("weight" if len(shapes[name]) > 1 else "bias", *fans, biased)


def hyperfan_init(
    variance: float, *, inputs: int, square: float = 1.0, generator: torch.Generator, outputs: int
) -> Tensor:
    """Return the weight of a head whose outputs have the wanted variance over draws of everything.

    Args:
        variance: of the outputs, see `Target.variance`.
        inputs: of the head.
        square: mean square of an input: the variance of the code, where the layers before the head
            start with `2 / fan_in` and ReLU.
        generator: of the random numbers, on the CPU.
        outputs: of the head.

    Returns:
        uniform numbers of shape `(outputs, inputs)`.

    Raises:
        InputError: the inputs have no size.

    Reference: Chang, Flokas, Lipson, "Principled Weight Initialization for Hypernetworks", ICLR
        2020, arXiv 2312.08399. `hypnettorch` takes twice the sum of the inverse fans for the
        harmonic mean; here it is the harmonic mean.
    """
    if not square > 0 or inputs < 1:
        raise InputError(f"a head of {inputs} inputs of mean square {square} generates nothing")
    bound = math.sqrt(3 * variance / (inputs * square))
    return (2 * torch.rand(outputs, inputs, generator=generator) - 1) * bound
