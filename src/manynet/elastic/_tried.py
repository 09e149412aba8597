"""Tries whether experts can change places: what the trace has proposed but cannot have seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from manynet._inputs import device_of, evaluating, moved
from manynet.bindings.axes import axes_of
from manynet.elastic._reorder import reorder, reorder_in_place
from manynet.elastic._trace import Frozen, Trace

__all__ = ["alike", "outputs_of", "tried"]

TOLERANCE = 1e-4
"""Of the largest output: sums over experts in another order, in single precision."""


@torch.no_grad()
def tried(
    model: nn.Module, inputs: tuple[Any, ...], trace: Trace, *, inplace: bool = False
) -> Trace:
    """Return the trace, without the axes of experts if a change of their places shows.

    A model without values, on the meta device, cannot be tried: its experts stay whole.

    Args:
        model: the network.
        inputs: example inputs.
        trace: its trace.
        inplace: move the experts of the model itself, and back, instead of those of a copy.
    """
    if not trace.experts:
        return trace
    why = "a model without values shows nothing of its experts"
    if not any(tensor.is_meta for tensor in model.parameters()):
        if _interchangeable(model, inputs, trace, inplace=inplace):
            return trace
        why = "the outputs change when experts change places"
    lost = [
        Frozen(name, number, why)
        for name, dims in trace.tensors.items()
        for number, dim in enumerate(dims)
        if any(axis in trace.experts for axis in axes_of(dim))
    ]
    left = tuple(axis for axis in trace.axes if axis not in trace.experts)
    return replace(trace, axes=left, frozen=(*trace.frozen, *lost), experts=())


def _interchangeable(
    model: nn.Module, inputs: tuple[Any, ...], trace: Trace, *, inplace: bool
) -> bool:
    rng = np.random.default_rng(0)
    orders = {axis: rng.permutation(axis.size) for axis in trace.experts}
    before = outputs_of(model, inputs)
    if inplace:
        reorder_in_place(model, trace, orders)
        after = outputs_of(model, inputs)
        reorder_in_place(model, trace, {axis: np.argsort(o) for axis, o in orders.items()})
    else:
        after = outputs_of(reorder(model, trace, orders), inputs)
    return len(before) == len(after) and all(map(alike, before, after))


def outputs_of(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    """Return what a model computes in evaluation mode; what it draws at random, it draws again."""
    device = device_of(model)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), evaluating(model):
        torch.manual_seed(0)
        leaves = tree_leaves(model(*moved(inputs, device)))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def alike(left: Tensor, right: Tensor) -> bool:
    """Return whether two outputs are the same but for rounding."""
    if left.shape != right.shape:
        return False
    finite = left.isfinite() & right.isfinite()
    scale = left[finite].abs().max().clamp_min(1e-12) if bool(finite.any()) else 1.0
    return bool(((left - right)[finite].abs() <= TOLERANCE * scale).all())
