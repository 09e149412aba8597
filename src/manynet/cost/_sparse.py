"""Costs of a network with zeros in its weights, each stated apart from the dense ones."""

from __future__ import annotations

from torch import nn

from manynet._inputs import Inputs
from manynet.bindings.pack import sparse_bytes as bytes_of
from manynet.cost._cost import Cost
from manynet.cost._count import by_layer, unique_tensors

__all__ = ["live_macs", "nonzeros", "sparse_bytes"]


def nonzeros() -> Cost:
    """Cost: how many numbers of the parameters are not zero, each shared tensor once.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 8, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight[:, 1:].detach())
        >>> nonzeros()(net, torch.zeros(1, 4))
        8.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        own = [t for _, t in unique_tensors(member) if isinstance(t, nn.Parameter)]
        return float(sum(int(tensor.count_nonzero()) for tensor in own))

    return Cost("nonzeros", "numbers", function)


def live_macs() -> Cost:
    """Cost: multiply-accumulates of one sample with weights that are not zero, layer by layer.

    It is what a runtime for sparse weights could come down to. PyTorch and ONNX Runtime multiply by
    zeros all the same: there only `macs`, and channels that `manynet.compact` leaves out, count.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 8, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight[:, 1:].detach())
        >>> live_macs()(net, torch.zeros(1, 4))
        8.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        weights = {
            path: module._parameters.get("weight") for path, module in member.named_modules()
        }
        total = 0.0
        for layer in by_layer(member, inputs):
            weight = weights[layer.path]
            dense = weight is None or not weight.numel()
            total += layer.macs * (1.0 if dense else int(weight.count_nonzero()) / weight.numel())
        return total

    return Cost("live_macs", "MACs", function)


def sparse_bytes() -> Cost:
    """Cost: bytes of parameters and saved buffers in a file that `export(sparse=True)` writes.

    A parameter takes a bit for each of its numbers and the numbers that are not zero, where that is
    less than all of them.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(4, 8, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight[:, 1:].detach())
        >>> sparse_bytes()(net, torch.zeros(1, 4))
        36.0
    """

    def function(member: nn.Module, inputs: Inputs) -> float:
        return float(sum(bytes_of(tensor) for _, tensor in unique_tensors(member)))

    return Cost("sparse_bytes", "bytes", function)
