"""`Generate`: a weight that a small network makes of a code, whole or chunk by chunk."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError, did_you_mean
from manynet.space import Arch

__all__ = ["Generate"]

_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


@dataclass(frozen=True)
class Generate(Operation, kind="generate"):
    """What a multi-layer perceptron makes of a code.

    Args:
        code: a vector: a learned one for each layer or task, or the arch (`Encode`).
        layers: weight and bias of each linear layer of the perceptron, in turn.
        shape: the generated weight's; its entries are the outputs, but for surplus at the end.
        chunks: one vector a chunk, `(chunks, entries)`; each chunk's outputs are made of the code
            with the chunk's vector behind it, so that the last layer can be small. None: whole.
        activation: between the layers: `relu`, `gelu`, `silu` or `tanh`.

    Raises:
        InputError: the activation is none of these.

    Reference: Ha et al. 2017, arXiv 1609.09106; von Oswald et al. 2020, arXiv 1906.00695.
    """

    once: ClassVar[bool] = True
    code: Binding
    layers: tuple[Binding, ...]
    shape: tuple[int, ...]
    chunks: Binding | None = None
    activation: str = "relu"

    def __post_init__(self) -> None:
        if self.activation not in _ACTIVATIONS:
            raise InputError(
                f"activation={self.activation!r} is unknown"
                f"{did_you_mean(self.activation, _ACTIVATIONS)}"
            )

    def value(
        self, arch: Arch, code: Tensor, layers: tuple[Tensor, ...], chunks: Tensor | None
    ) -> Tensor:
        """Return the weight."""
        act = _ACTIVATIONS[self.activation]
        x = code[None]
        if chunks is not None:
            x = torch.cat([x.expand(len(chunks), -1), chunks], dim=1)
        for number in range(0, len(layers), 2):
            x = functional.linear(act(x) if number else x, layers[number], layers[number + 1])
        size = math.prod(self.shape)
        if x.numel() < size:
            raise InputError(
                f"the network generates {x.numel():,} numbers for a weight of {size:,}; "
                "give its last layer more outputs, or more chunks"
            )
        return x.flatten()[:size].view(self.shape)
