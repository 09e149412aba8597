"""Linear layers of few bits in ONNX: integers that the runtime multiplies with as they are.

ONNX itself has no such operation; ONNX Runtime has `MatMulNBits`, for weights of 2, 4 and 8 bits
with a scale and a zero point for each block of inputs. Blocks are powers of two, from 16 to 256.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.codes import rounded_to_nearest
from manynet.bindings.pack import Integers, pack
from manynet.bindings.stored import integers_of

__all__ = ["rounded_member", "with_integers"]

_BITS = (4, 8)
"""Of the operation as it is used here; integers of fewer bits take a part of its levels."""
_BLOCKS = (256, 128, 64, 32, 16)
_DEFAULT = 32


def with_integers(member: nn.Module) -> nn.Module:
    """Return the network with linear layers that multiply with integers; it can only be traced.

    A weight that was extracted from a binding that rounds keeps its own integers; another one is
    rounded to 4 bits, see `rounded_member`. Layers for which the operation has no form, and those
    that share their weight with a module of another kind, stay as they are.
    """
    found = {path: own for path, own in _integers(member).items() if _block(own) is not None}
    if not found:
        return member
    copied = copy.deepcopy(member)
    for path, own in found.items():
        layer: Any = copied.get_submodule(path)
        put = _NBits(own, layer.bias)
        if not path:
            return put
        parent, _, name = path.rpartition(".")
        copied.get_submodule(parent)._modules[name] = put
    return copied


def rounded_member(member: nn.Module) -> nn.Module:
    """Return a copy whose linear weights have the values that `with_integers` gives them.

    Those without integers of their own are rounded to the nearest of 16 levels, in groups of 32
    inputs where 32 divides them.
    """
    copied = copy.deepcopy(member)
    for path, own in _integers(member).items():
        if _block(own) is not None:
            layer: Any = copied.get_submodule(path)
            layer.weight = nn.Parameter(own.weight().to(layer.weight), requires_grad=False)
    return copied


def _integers(member: nn.Module) -> dict[str, Integers]:
    """Return the integers of each linear layer, by its path."""
    users: dict[int, set[type[nn.Module]]] = {}
    for module in member.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), set()).add(type(module))
    found: dict[str, Integers] = {}
    for path, module in member.named_modules():
        if type(module) is nn.Linear and users[id(module.weight)] == {nn.Linear}:
            own = integers_of(module.weight)
            if own is None and module.in_features % _DEFAULT == 0:
                own = rounded_to_nearest(module.weight, 4, per=_DEFAULT)
            if own is not None and own.offset is None:
                found[path] = own
    return found


def _block(own: Integers) -> int | None:
    """Return the operation's block for integers, which must divide their groups; None for none."""
    size = own.integers.numel() // len(own.scale)
    size = min(size, own.shape[1])  # one scale for several rows is repeated in each
    return next((block for block in _BLOCKS if size % block == 0), None)


class _NBits(nn.Module):
    """What a linear layer of few bits computes, in ONNX Runtime's operation.

    Shapes: `(..., inputs)` to `(..., outputs)`.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None
    rest: Tensor | None
    bias: Tensor | None

    def __init__(self, own: Integers, bias: Tensor | None) -> None:
        super().__init__()
        block = _block(own)
        assert block is not None
        self.bits = next(bits for bits in _BITS if bits >= own.bits)
        self.outputs, self.inputs = own.shape
        self.block, self.dtype = block, own.dtype or own.scale.dtype
        blocks = self.inputs // block
        codes = pack(own.integers, self.bits).view(self.outputs, blocks, -1)
        self.register_buffer("packed", codes)
        self.register_buffer("scale", self._by_block(own.scale))
        zero, rest = self._zeros(own)
        self.register_buffer("zero", zero)
        self.register_buffer("rest", rest)
        self.register_buffer("bias", None if bias is None else bias.detach())

    def _by_block(self, values: Tensor) -> Tensor:
        """Return a number for each block, of one for each group. Shape: `(outputs, blocks)`."""
        count = self.outputs * self.inputs // self.block // len(values)
        flat = values.to(self.dtype).view(-1, 1).expand(-1, count)
        return flat.reshape(self.outputs, -1).contiguous()

    def _zeros(self, own: Integers) -> tuple[Tensor | None, Tensor | None]:
        """Return the zero points, and what is left of them, times the scale.

        Whole ones are packed, none are needed where they are the middle, and others are numbers as
        the inputs are. At 8 bits the runtime's CPU kernel takes whole ones only.
        """
        if own.zero is None and own.bits == self.bits:
            return None, None
        middle = own.scale.new_full((len(own.scale), 1), 2 ** (own.bits - 1))
        zeros = self._by_block(middle if own.zero is None else own.zero)
        rounded = zeros.round().clamp(0, 2**self.bits - 1)
        whole = torch.equal(zeros, rounded)
        if not whole and self.bits < 8:
            return zeros, None
        packed = torch.stack([pack(row, self.bits) for row in rounded])
        return packed, None if whole else (rounded - zeros) * self.scale

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's outputs."""
        operation: Any = torch.onnx.ops.symbolic
        given = [inputs, self.packed, self.scale]
        attributes = {
            "K": self.inputs, "N": self.outputs, "bits": self.bits, "block_size": self.block,
        }  # fmt: skip
        made: Tensor = operation(
            "com.microsoft::MatMulNBits",
            given if self.zero is None else [*given, self.zero],
            attributes,
            dtype=inputs.dtype,
            shape=(*inputs.shape[:-1], self.outputs),
            version=1,
        )
        if self.rest is not None:
            sums = inputs.unflatten(-1, (-1, self.block)).sum(-1)
            made = made + nn.functional.linear(sums, self.rest)
        return made if self.bias is None else made + self.bias
