"""`Quantize`: a weight rounded to few levels, trained as if it were not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import ByArch, Operation, setting
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Integers", "Quantize", "pack", "unpack"]


@dataclass(frozen=True)
class Integers:
    """A quantized weight: `(integers - zero) * scale` in the shape of `shape`.

    Args:
        integers: `(groups, entries of a group)`, from 0 to `2 ** bits - 1`.
        scale: `(groups, 1)`.
        zero: `(groups, 1)`: which integer stands for 0.
        bits: how many bits an integer has.
        shape: the weight's.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor
    bits: int
    shape: tuple[int, ...]

    def weight(self) -> Tensor:
        """Return the weight."""
        return ((self.integers - self.zero) * self.scale).view(self.shape)


@dataclass(frozen=True)
class Quantize(Operation, kind="quantize"):
    """A weight rounded to `2 ** bits` levels; the gradient passes straight through.

    Args:
        weight: the weight.
        bits: from 2 to 8, or decided by the arch. 16 and more leave the weight as it is.
        per: what has a scale of its own: the whole `"tensor"`, each `"channel"` (row), or each
            group of so many entries of a row.
        symmetric: whether zero lies in the middle of the levels; else they reach from the smallest
            entry to the largest, zero among them.
        scale: a learned step size, which broadcasts to `(groups, 1)`; only where symmetric. None:
            it follows from the entries.

    Reference: Esser et al. 2020, arXiv 1902.08153 (learned step size); Jacob et al. 2018,
    arXiv 1712.05877.
    """

    weight: Binding
    bits: int | ByArch = 8
    per: str | int = "channel"
    symmetric: bool = True
    scale: Binding | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.per not in ("tensor", "channel") and not isinstance(self.per, int):
            raise InputError(f"per={self.per!r}: give 'tensor', 'channel' or a group's size")
        if self.scale is not None and not self.symmetric:
            raise InputError("a learned scale needs symmetric=True")

    def value(self, arch: Arch, weight: Tensor, scale: Tensor | None) -> Tensor:
        """Return the rounded weight."""
        if int(setting(self.bits, arch)) >= 16:
            return weight
        if scale is None:
            rounded = self.integers(arch, weight.detach()).weight()
            return weight + (rounded - weight).detach()
        half = 2 ** (int(setting(self.bits, arch)) - 1)
        step = scale.abs().clamp_min(1e-12)
        levels = (self._groups(weight) / step).clamp(-half, half - 1)
        levels = levels + (levels.round() - levels).detach()
        return (levels * step).view(weight.shape)

    @torch.no_grad()
    def integers(self, arch: Arch, weight: Tensor, scale: Tensor | None = None) -> Integers:
        """Return the integers that stand for `weight`."""
        bits = int(setting(self.bits, arch))
        rows, most = self._groups(weight), 2**bits - 1
        if self.symmetric:
            half = 2 ** (bits - 1)
            step = rows.abs().amax(1, keepdim=True) / (half - 1) if scale is None else scale.abs()
            step = step.clamp_min(1e-12).expand(len(rows), 1)
            zero = torch.full_like(step, half)
        else:
            low = rows.amin(1, keepdim=True).clamp_max(0)
            high = rows.amax(1, keepdim=True).clamp_min(0)
            step = ((high - low) / most).clamp_min(1e-12)
            zero = (-low / step).round()
        integers = ((rows / step).round() + zero).clamp(0, most)
        return Integers(integers, step, zero, bits, tuple(weight.shape))

    def _groups(self, weight: Tensor) -> Tensor:
        if self.per == "tensor":
            return weight.reshape(1, -1)
        rows = weight.reshape(len(weight), -1)
        if self.per == "channel":
            return rows
        size = int(self.per)
        if rows.shape[1] % size:
            raise InputError(
                f"groups of {size} do not divide rows of {rows.shape[1]} entries; "
                "give a divisor, or per='channel'"
            )
        return rows.reshape(-1, size)

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return the bits of the packed integers and of their scales and zeros."""
        bits = int(setting(self.bits, arch))
        if bits >= 16:
            return super().stored_bits(arch, value)
        numbers = 1 if self.symmetric else 2
        return bits * value.numel() + 32.0 * numbers * len(self._groups(value))


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return `integers` from 0 to `2 ** bits - 1` as bytes without gaps, lowest bits first.

    Example:
        >>> packed = pack(torch.tensor([1, 7, 4, 2]), 3)
        >>> packed.numel(), unpack(packed, 3, 4).tolist()
        (2, [1, 7, 4, 2])
    """
    places = torch.arange(bits, device=integers.device)
    ones = (integers.flatten().long()[:, None] >> places & 1).flatten()
    ones = torch.nn.functional.pad(ones, (0, -len(ones) % 8)).view(-1, 8)
    return (ones << torch.arange(8, device=ones.device)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the `count` integers that `pack` wrote."""
    ones = (packed.long()[:, None] >> torch.arange(8, device=packed.device) & 1).flatten()
    places = torch.arange(bits, device=packed.device)
    return (ones[: count * bits].view(count, bits) << places).sum(1)
