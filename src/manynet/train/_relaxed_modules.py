"""What is relaxed beside the weights: norms over elastic widths, and blocks that can be left out.

Letters in shapes: `C` channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.bindings.axes import Dim, axes_of, length, select
from manynet.bindings.protocol import Binding
from manynet.bindings.slice import Slice
from manynet.family import Family

__all__ = ["Gate", "SuperposedNorm", "cut_by", "relax_depths", "relax_norms", "sizes_of"]


def cut_by(dims: Iterable[Dim], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the choices `names` that cut the dimensions, each once."""
    known = set(names)
    axes = (axis for dim in dims for axis in axes_of(dim) if axis.frozen is None)
    return tuple(dict.fromkeys(axis.name for axis in axes if axis.name in known))


def sizes_of(family: Family, choice: str) -> tuple[int, ...]:
    """Return the values of a choice of sizes."""
    return tuple(int(value) for value in family.space[choice].values)


class SuperposedNorm(nn.Module):
    """A layer norm or RMS norm whose statistics are taken over every width by itself.

    Args:
        norm: the norm of the largest width; its parameters are taken over.
        dim: what the width is made of.
        values: the sizes of each choice that cuts it.

    Shapes: `(..., C)` to `(..., C)`.
    """

    def __init__(
        self,
        norm: nn.LayerNorm | nn.RMSNorm,
        dim: Dim,
        values: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__()
        self.weight: nn.Parameter | None = norm.weight
        self.bias: nn.Parameter | None = getattr(norm, "bias", None)
        self.small = norm.eps
        # unlike itself, so that PyTorch's fused encoder layer, which passes norms by, stays off
        self.eps = math.nan
        self.centered = isinstance(norm, nn.LayerNorm)
        self.widths: list[tuple[int, ...]] = []
        axes = {axis: axis.name for axis in axes_of(dim) if axis.name in values}
        for number, name in enumerate(values):
            self.register_buffer(f"shares{number}", torch.ones(len(values[name])), persistent=False)
        for number, places in enumerate(
            itertools.product(*(range(len(v)) for v in values.values()))
        ):
            self.widths.append(places)
            sizes = {
                name: v[place] for (name, v), place in zip(values.items(), places, strict=True)
            }
            index = np.arange(length(dim))[
                select(dim, {axis: sizes[name] for axis, name in axes.items()})
            ]
            self.register_buffer(f"kept{number}", torch.from_numpy(index), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the norms over the widths, padded and times their shares."""
        total = torch.zeros_like(x)
        for number, places in enumerate(self.widths):
            kept = self._buffers[f"kept{number}"]
            assert kept is not None
            share: Tensor | float = 1.0
            for choice, place in enumerate(places):
                shares = self._buffers[f"shares{choice}"]
                assert shares is not None
                share = share * shares[place]
            normed = share * self._norm(x.index_select(-1, kept), kept)
            total = total.index_add(-1, kept, normed.to(x.dtype))
        return total

    def _norm(self, x: Tensor, kept: Tensor) -> Tensor:
        weight, bias = (None if p is None else p[kept] for p in (self.weight, self.bias))
        if self.centered:
            assert self.small is not None
            return functional.layer_norm(x, (len(kept),), weight, bias, self.small)
        return functional.rms_norm(x, (len(kept),), weight, self.small)


def relax_norms(
    parts: Mapping[str, nn.Module], family: Family, shares: Mapping[str, Binding]
) -> dict[str, Binding]:
    """Replace the norms over elastic widths.

    Args:
        parts: the modules by their paths; changed in place.
        family: what is relaxed.
        shares: how the shares of each choice are read.

    Returns:
        the bindings of the new norms' shares.
    """
    found: dict[str, Binding] = {}
    for path, module in parts.items():
        if not isinstance(module, nn.LayerNorm | nn.RMSNorm):
            continue
        dims = [follow.dim for follow in family.blueprint.follows if follow.path == path]
        binding = family.blueprint.bindings.get(f"{path}.weight")
        dims += binding.dims if isinstance(binding, Slice) else ()
        cut = cut_by(dims, shares)
        if cut and len(module.normalized_shape) == 1:
            parent, _, name = path.rpartition(".")
            values = {choice: sizes_of(family, choice) for choice in cut}
            parts[parent]._modules[name] = SuperposedNorm(module, dims[0], values)
            for number, choice in enumerate(cut):
                found[f"{path}.shares{number}"] = shares[choice]
    return found


class Gate:
    """A forward hook of a block: it counts as much as the depths that keep it.

    Args:
        kept: for each depth, whether it keeps the block.
    """

    def __init__(self, kept: tuple[bool, ...]) -> None:
        self.kept = kept

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Return a point between the block's input and its output."""
        shares: Any = block.depth_shares
        share = sum(one for one, kept in zip(shares, self.kept, strict=True) if kept)
        before = args[0] if args else next(iter(kwargs.values()))
        after = output[0] if isinstance(output, tuple) else output
        weight = torch.as_tensor(share, dtype=before.dtype, device=before.device)
        mixed = torch.lerp(before, after.to(before.dtype), weight)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed


def relax_depths(
    parts: Mapping[str, nn.Module], family: Family, shares: Mapping[str, Binding]
) -> dict[str, Binding]:
    """Hook the blocks that can be left out; return the bindings of the shares that they read."""
    found: dict[str, Binding] = {}
    for depth in family.blueprint.depths:
        values = sizes_of(family, depth.choice)
        for number, path in enumerate(depth.blocks):
            if number < min(values):
                continue
            block = parts[path]
            block.register_buffer("depth_shares", torch.ones(len(values)), persistent=False)
            block.register_forward_hook(
                Gate(tuple(number < value for value in values)), with_kwargs=True
            )
            found[f"{path}.depth_shares"] = shares[depth.choice]
    return found
