"""Quantized members in ONNX: integers and scales, as pairs of quantize and dequantize."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings.pack import Integers
from manynet.bindings.stored import integers_of
from manynet.elastic.precision import InputQuantizer

__all__ = ["put_integers", "whole_integers", "with_pairs"]

_VERSION = 19  # of the pair, which is in every set of operations that PyTorch writes now


def with_pairs(member: nn.Module) -> nn.Module:
    """Return the network with quantizers that become pairs in ONNX; itself if it has none."""
    if not any(isinstance(module, InputQuantizer) for module in member.modules()):
        return member
    copied = copy.deepcopy(member)
    for module in copied.modules():
        quantizer = module._modules.get("input_quantizer")
        if isinstance(quantizer, InputQuantizer):
            module._modules["input_quantizer"] = _Pair(quantizer)
    return copied


class _Pair(nn.Module):
    """What an input quantizer computes, in ONNX's operations; it can only be traced.

    Fewer bits use a part of the eight that the operation has. An offset is no zero point, which
    would have to be a whole number of steps; so it is taken off before and put on after.
    """

    step: Tensor
    zero: Tensor
    offset: Tensor | None

    def __init__(self, quantizer: InputQuantizer) -> None:
        super().__init__()
        self.bits, self.signed = quantizer.bits, quantizer.signed
        kind = torch.int8 if self.signed else torch.uint8
        step = quantizer.step.detach().abs().clamp_min(1e-12).view(())
        self.register_buffer("step", step)
        self.register_buffer("zero", torch.zeros((), dtype=kind, device=step.device))
        offset = None if quantizer.symmetric else quantizer.offset.detach().clone()
        self.register_buffer("offset", offset)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the rounded inputs."""
        if self.bits >= 16:
            return inputs
        moved = inputs if self.offset is None else inputs - self.offset
        if self.bits < 8:
            low = -(2 ** (self.bits - 1)) if self.signed else 0
            high = low + 2**self.bits - 1
            moved = torch.minimum(torch.maximum(moved, low * self.step), high * self.step)
        how: dict[str, Any] = {"shape": moved.shape, "version": _VERSION}
        operation: Any = torch.onnx.ops.symbolic
        levels = operation(
            "QuantizeLinear", (moved, self.step, self.zero), dtype=self.zero.dtype, **how
        )
        back: Tensor = operation(
            "DequantizeLinear", (levels, self.step, self.zero), dtype=moved.dtype, **how
        )
        return back if self.offset is None else back + self.offset


def whole_integers(member: nn.Module) -> dict[str, Integers]:
    """Return the integers of those weights for which ONNX has a form.

    It has a scale for a tensor or a channel, and a zero of 8 bits, but no offset.
    """
    found = {name: integers_of(parameter) for name, parameter in member.named_parameters()}
    return {
        name: own
        for name, own in found.items()
        if own is not None
        and own.offset is None
        and len(own.scale) in (1, own.shape[0])
        and own.scale.dtype == torch.float32
    }


def put_integers(proto: Any, weights: Mapping[str, Integers]) -> None:
    """Put integers of 8 bits in the place of an ONNX model's float weights, in place."""
    from onnx import helper, numpy_helper

    graph = proto.graph
    for tensor in [tensor for tensor in graph.initializer if tensor.name in weights]:
        own, name = weights[tensor.name], tensor.name
        if tuple(tensor.dims) != own.shape:  # the exporter has moved its dimensions
            continue
        middle = 2 ** (own.bits - 1)
        zero = own.scale.new_zeros(len(own.scale)) if own.zero is None else own.zero - middle
        parts = {
            "levels": (own.integers.to(own.scale) - middle).to(torch.int8),
            "scale": own.scale,
            "zero": zero.to(torch.int8),
        }
        graph.initializer.remove(tensor)
        for role, part in parts.items():
            size = own.shape if role == "levels" else ((-1,) if len(own.scale) > 1 else ())
            array = part.detach().cpu().view(size).numpy()
            graph.initializer.append(numpy_helper.from_array(array, f"{name}.{role}"))
        names = [f"{name}.{role}" for role in parts]
        graph.node.insert(0, helper.make_node("DequantizeLinear", names, [name], axis=0))
