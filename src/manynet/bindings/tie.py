"""`Tie`: several layers read one weight, each with a scale, a shift or an orientation of its own.

Layers that read exactly the same need no binding but one: give them the same `Slice`, and a member
holds one parameter in all of them. What is no part of the weight, such as norms, biases and places
in a key-value cache, stays with the layers in any case.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Tie"]


@dataclass(frozen=True)
class Tie(Operation, kind="tie"):
    """What another layer reads, as this call site has it.

    Args:
        weight: what is shared.
        scale: the site's own factors, which broadcast to the weight; None for none.
        shift: the site's own summands; None for none.
        transposed: whether the last two dimensions change places, as between an encoder and its
            decoder; this comes first.
    """

    weight: Binding
    scale: Binding | None = None
    shift: Binding | None = None
    transposed: bool = False

    def value(
        self, arch: Arch, weight: Tensor, scale: Tensor | None, shift: Tensor | None
    ) -> Tensor:
        """Return the weight as this site has it."""
        weight = weight.transpose(-2, -1) if self.transposed else weight
        weight = weight if scale is None else weight * scale
        return weight if shift is None else weight + shift
