"""Puts the positions of axes into another order, in every tensor at once: outputs do not change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim, axes_of, length, positions
from manynet.elastic._trace import Trace
from manynet.family.skeleton import Skeleton

__all__ = ["Order", "permute_axes", "reorder", "reorder_in_place", "reordered"]

Order = npt.NDArray[np.int64]
"""Which old position stands at each new one; shorter than the axis where some are left out."""


@torch.no_grad()
def reorder(model: nn.Module, trace: Trace, orders: Mapping[Axis, Order]) -> nn.Module:
    """Return a copy of `model` with the positions of axes in another order.

    Args:
        model: the network that was traced; it is not changed.
        trace: its trace.
        orders: the old position of every new one, for each axis that is to change.
    """
    moved: dict[str, Tensor] = {}
    for name, tensor in _tensors(model):
        value = reordered(tensor, trace.tensors[name], orders)
        value = tensor.detach().clone() if value is None else value
        if isinstance(tensor, nn.Parameter):
            moved[name] = nn.Parameter(value, requires_grad=tensor.requires_grad)
        else:
            moved[name] = value
    copy, _ = Skeleton(model, trace.caches).build(moved)
    return copy


@torch.no_grad()
def reorder_in_place(model: nn.Module, trace: Trace, orders: Mapping[Axis, Order]) -> None:
    """Put the positions of axes of `model` itself in another order, tensor by tensor.

    A tensor that changes gets storage of its own, one at a time, and its old storage is let go:
    what others hold of it, or the file that it is mapped to, stays as it was. The others keep their
    storage. Gradients and cached tables are dropped.

    Args:
        model: the network that was traced.
        trace: its trace.
        orders: the old position of every new one, for each axis that is to change.
    """
    for path, name in trace.caches:
        vars(model.get_submodule(path))[name] = {}
    for name, tensor in _tensors(model):
        tensor.grad = None
        value = reordered(tensor, trace.tensors[name], orders)
        if value is not None:
            tensor.data = value


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def reordered(tensor: Tensor, dims: tuple[Dim, ...], orders: Mapping[Axis, Order]) -> Tensor | None:
    """Return the tensor in another order, in storage of its own; None where its order stays."""
    value = tensor.detach()
    for number, dim in enumerate(dims):
        if any(axis in orders for axis in axes_of(dim)):
            value = _reordered_dim(value, number, dim, orders)
    same = value.data_ptr() == tensor.data_ptr() and value.shape == tensor.shape
    return None if same and value.device.type != "meta" else value


def _reordered_dim(value: Tensor, number: int, dim: Dim, orders: Mapping[Axis, Order]) -> Tensor:
    """Return `value` with one dimension put in order, factor by factor: whole runs move at once."""
    value = value.unflatten(number, [length((factor,)) for factor in dim])
    for place, factor in enumerate(dim, number):
        if any(_moves(axis, orders) for axis in axes_of((factor,))):
            index = torch.from_numpy(positions((factor,), orders)).to(value.device)
            value = value.index_select(place, index)
    return value.flatten(number, number + len(dim) - 1)


def _moves(axis: Axis, orders: Mapping[Axis, Order]) -> bool:
    return axis in orders and not np.array_equal(orders[axis], np.arange(axis.size))


def permute_axes(model: nn.Module, trace: Trace, generator: np.random.Generator) -> nn.Module:
    """Return a copy of `model` with every elastic axis in a random order.

    Its outputs must be the model's, up to rounding: where they are not, the trace is wrong.

    Args:
        model: the network that was traced; it is not changed.
        trace: its trace.
        generator: draws the orders.
    """
    return reorder(model, trace, {axis: generator.permutation(axis.size) for axis in trace.axes})
