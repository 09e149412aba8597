"""`Codes`: a weight that stays quantized while a low-rank adapter moves its groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manynet.bindings.operation import Operation
from manynet.bindings.pack import Integers, packed_bytes
from manynet.bindings.protocol import Binding
from manynet.bindings.quantize import groups_of
from manynet.space import Arch

__all__ = ["Codes", "levels_of", "rounded_to_nearest"]

_FARTHEST = 60_000.0  # a zero point of half precision is not allowed to be farther away


@dataclass(frozen=True)
class Codes(Operation, kind="codes"):
    """Frozen integers with a scale and a zero point for each group, and an adapter that is trained.

    The adapter is of low rank and adds the same number to all entries of a group, as one that works
    on the mean of each group of inputs does: `y += factor * left @ right @ mean(x)`. So it goes
    into the zero points, which then need not be whole: `zero - factor * left @ right / (size *
    scale)`. Scales and zero points are rounded to half precision, in which they are stored; the
    gradient passes straight through that rounding.

    Args:
        codes: integers of `torch.uint8` in the weight's shape, a shared buffer.
        scale: of each group, of half precision.
        bits: of an integer.
        size: entries of a group.
        zero: which integer stands for 0, by group, of `torch.uint8`; None for the middle.
        left: `(outputs, rank)`; None for no adapter.
        right: `(rank, groups of a row)`.
        factor: of the adapter.
        dtype: of the weight.

    Reference: Xu et al. 2023, arXiv 2309.14717 (QA-LoRA).
    """

    codes: Binding
    scale: Binding
    bits: int
    size: int
    zero: Binding | None = None
    left: Binding | None = None
    right: Binding | None = None
    factor: float = 1.0
    dtype: str = "float32"

    def value(self, arch: Arch, codes: Tensor, *values: Tensor | None) -> Tensor:
        """Return the weight."""
        found = self._integers(codes, *values)
        if found.zero is None or not found.zero.requires_grad:
            return found.weight()
        weight: Tensor = _Dequantize.apply(found, found.zero)
        return weight

    @torch.no_grad()
    def integers(self, arch: Arch, codes: Tensor, *values: Tensor | None) -> Integers:
        """Return the integers, with the adapter in their zero points."""
        found = self._integers(codes, *values)
        if self.left is None or found.zero is None:
            return found
        half = found.zero.half()
        return Integers(
            found.integers, found.scale, half, self.bits, found.shape, None, found.dtype
        )

    def _integers(
        self,
        codes: Tensor,
        scale: Tensor | None,
        zero: Tensor | None,
        left: Tensor | None,
        right: Tensor | None,
    ) -> Integers:
        assert scale is not None
        step = scale.view(-1, 1)
        point = None if zero is None else zero.view(-1, 1).float()
        if left is not None and right is not None:
            middle = float(2 ** (self.bits - 1)) if point is None else point
            moved = (left.float() @ right.float()).view(-1, 1) * (self.factor / self.size)
            point = _half((middle - moved / step.float()).clamp(-_FARTHEST, _FARTHEST))
        dtype: torch.dtype = getattr(torch, self.dtype)
        rows = codes.view(len(step), -1)
        return Integers(rows, step, point, self.bits, tuple(codes.shape), None, dtype)

    def entry_bits(self, arch: Arch) -> int:
        """Return the bits of an integer."""
        return self.bits

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return the bits of the packed integers, their scales and their zero points."""
        zero = 2 if self.left is not None else int(self.zero is not None)
        groups = value.numel() // self.size
        return 8.0 * (packed_bytes(value.numel(), self.bits) + (2 + zero) * groups)


class _Dequantize(torch.autograd.Function):
    """The weight of integers, whose gradient goes to the zero points: one sum for each group."""

    @staticmethod
    def forward(ctx: Any, found: Integers, zero: Tensor) -> Tensor:
        ctx.save_for_backward(found.scale)
        return found.weight()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (scale,) = ctx.saved_tensors
        total = grad.reshape(len(scale), -1).sum(1, keepdim=True, dtype=torch.float32)
        return None, total * -scale.float()


def _half(exact: Tensor) -> Tensor:
    """Return numbers of half precision; the gradient passes straight through."""
    rounded = exact.detach().half().float()
    return rounded + (exact - exact.detach())  # the value is exactly the rounded one


def levels_of(rows: Tensor, bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor | None]:
    """Return the scale, of half precision, and the zero point of each group.

    The scale is rounded up, so that no entry is farther than half a step from its level. A group of
    zeros gets the mean scale.

    Args:
        rows: a group each.
        bits: of the integers.
        symmetric: whether zero is the middle; else the levels reach from the smallest entry to the
            largest, zero among them.

    Shapes: `(groups, entries)` to `(groups, 1)` and `(groups, 1)` or None.

    Example:
        >>> scale, zero = levels_of(torch.tensor([[-1.0, 0.0, 2.0]]), 2, symmetric=False)
        >>> scale.tolist(), zero.tolist()
        ([[1.0]], [[1.0]])
    """
    rows = rows.float()
    if symmetric:
        low, step = None, rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    else:
        low = rows.amin(1, keepdim=True).clamp_max(0)
        step = (rows.amax(1, keepdim=True).clamp_min(0) - low) / (2**bits - 1)
    live = step > 1e-7  # about the least number of half precision
    other = step[live].mean() if bool(live.any()) else step.new_ones(())
    step = torch.where(live, step, other)
    half = step.half()
    half = torch.where(half.float() < step, (step * (1 + 2**-10)).half(), half)
    if low is None:
        return half, None
    return half, (-low / half.float()).round().clamp(0, 2**bits - 1)


def rounded_to_nearest(
    weight: Tensor, bits: int, *, per: str | int = 32, symmetric: bool = False
) -> Integers:
    """Return a weight as integers, each the nearest level.

    Args:
        weight: any shape of at least two dimensions.
        bits: of the integers, from 2 to 8.
        per: what has a scale of its own: `"tensor"`, `"channel"` or so many entries of a row.
        symmetric: see `levels_of`.

    Example:
        >>> own = rounded_to_nearest(torch.tensor([[-1.0, 0.1, 2.2, 0.9]]), 2, per=2)
        >>> own.integers.tolist(), own.weight().shape
        ([[0, 3], [3, 1]], torch.Size([1, 4]))
    """
    rows = groups_of(weight.detach(), per).float()
    scale, zero = levels_of(rows, bits, symmetric=symmetric)
    middle = 2 ** (bits - 1) if zero is None else zero
    codes = ((rows / scale.float()).round() + middle).clamp(0, 2**bits - 1).to(torch.uint8)
    return Integers(codes, scale, zero, bits, tuple(weight.shape), None, weight.dtype)
