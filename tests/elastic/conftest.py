"""Checks that every traced network must pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from manynet.bindings.axes import length
from manynet.elastic._reorder import permute_axes, reorder
from manynet.elastic._trace import Trace, trace_model

Verify = Callable[..., Trace]


def randomize(model: nn.Module) -> None:
    """Give norms and everything that starts as a constant random values: constants hide errors."""
    for tensor in [*model.parameters(), *model.buffers()]:
        if not (tensor.is_floating_point() and tensor.numel()):
            continue
        if bool((tensor == tensor.reshape(-1)[0]).all()):
            nn.init.uniform_(tensor, 0.5, 1.5)


def run(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def difference(model: nn.Module, other: nn.Module, inputs: Any) -> float:
    """Return the largest difference of the outputs, relative to the largest output."""
    pairs = zip(run(model, inputs), run(other, inputs), strict=True)
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-30)) for a, b in pairs)


def halved(model: nn.Module, trace: Trace) -> nn.Module:
    """Return the member that keeps the leading half of every axis, attributes included."""
    sizes = {axis: (axis.size + 1) // 2 for axis in trace.axes}
    member = reorder(model, trace, {axis: np.arange(size) for axis, size in sizes.items()})
    for attribute, dim in trace.attributes.items():
        module, size = member.get_submodule(attribute.path), length(dim, sizes)
        if attribute.index is None:
            setattr(module, attribute.name, size)
        else:
            items = list(getattr(module, attribute.name))
            items[attribute.index] = size
            setattr(module, attribute.name, type(getattr(module, attribute.name))(items))
    return member


@pytest.fixture
def verify() -> Verify:
    """Trace a model; check that permuted axes change nothing and that the half-sized one runs."""

    @torch.no_grad()
    def check(model: nn.Module, inputs: Any, tolerance: float = 1e-5) -> Trace:
        randomize(model)
        model.eval()
        trace = trace_model(model, inputs)
        assert difference(model, permute_axes(model, trace, np.random.default_rng(0)), inputs) <= (
            tolerance
        )
        whole, small = run(model, inputs), run(halved(model, trace), inputs)
        assert [tensor.shape for tensor in small] == [tensor.shape for tensor in whole]
        return trace

    return check
