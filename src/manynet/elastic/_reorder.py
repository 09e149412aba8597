"""Puts the positions of axes into another order, in every tensor at once: outputs do not change."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from manynet.bindings.axes import Axis, axes_of, positions
from manynet.elastic._trace import Trace

__all__ = ["permute_axes", "reorder"]

Order = npt.NDArray[np.int64]
"""Which old position stands at each new one; shorter than the axis where some are left out."""


def reorder(model: nn.Module, trace: Trace, orders: Mapping[Axis, Order]) -> nn.Module:
    """Return a copy of `model` with the positions of axes in another order.

    Args:
        model: the network that was traced; it is not changed.
        trace: its trace.
        orders: the old position of every new one, for each axis that is to change.
    """
    memo: dict[int, object] = {
        id(vars(model.get_submodule(path))[name]): {} for path, name in trace.caches
    }
    named = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    for name, tensor in named:
        if id(tensor) in memo:
            continue
        value = tensor.detach().clone()
        for axis, dim in enumerate(trace.tensors[name]):
            if any(factor in orders for factor in axes_of(dim)):
                index = torch.from_numpy(positions(dim, orders)).to(value.device)
                value = value.index_select(axis, index)
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(value, requires_grad=tensor.requires_grad)
        else:
            memo[id(tensor)] = value
    return copy.deepcopy(model, memo)


def permute_axes(model: nn.Module, trace: Trace, generator: np.random.Generator) -> nn.Module:
    """Return a copy of `model` with every elastic axis in a random order.

    Its outputs must be the model's, up to rounding: where they are not, the trace is wrong.

    Args:
        model: the network that was traced; it is not changed.
        trace: its trace.
        generator: draws the orders.
    """
    return reorder(model, trace, {axis: generator.permutation(axis.size) for axis in trace.axes})
