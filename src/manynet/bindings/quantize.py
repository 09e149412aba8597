"""`Quantize`: a weight rounded to few levels, trained as if it were not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import ByArch, Operation, setting
from manynet.bindings.pack import Integers, packed_bytes
from manynet.bindings.protocol import Binding
from manynet.bindings.rounding import learned_round, straight_through
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Quantize"]

_WHOLE = 16
"""So many bits and more leave the weight as it is."""


@dataclass(frozen=True)
class Quantize(Operation, kind="quantize"):
    """A weight rounded to `2 ** bits` levels; the gradient passes straight through.

    Each setting may be decided by the arch. Two bits and a symmetric form have the levels -2 to 1
    times the step: symmetric is where zero lies, not how far the levels reach.

    Args:
        weight: the weight.
        bits: from 2 to 8. 16 and more leave the weight as it is.
        per: what has a scale of its own: the whole `"tensor"`, each `"channel"` (row), or each
            group of so many entries of a row.
        symmetric: whether zero lies in the middle of the levels; else they reach from the smallest
            entry to the largest, zero among them, or begin where a learned offset says.
        scale: a learned step size, one number for each group. None: it follows from the entries.
        offset: a learned offset of the levels, one number for each group; needed beside a learned
            scale where the form is not symmetric, and not read where it is.

    Reference: Esser et al. 2020, arXiv 1902.08153 (learned step size); Jacob et al. 2018,
    arXiv 1712.05877.
    """

    weight: Binding
    bits: int | ByArch = 8
    per: str | int | ByArch = "channel"
    symmetric: bool | ByArch = True
    scale: Binding | None = None
    offset: Binding | None = None

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.per not in ("tensor", "channel") and not isinstance(self.per, int | ByArch):
            raise InputError(f"per={self.per!r}: give 'tensor', 'channel' or a group's size")
        if (self.scale is None and self.offset is not None) or (
            self.scale is not None and self.offset is None and self.symmetric is not True
        ):
            raise InputError(
                "a learned scale needs symmetric=True or a learned offset beside it, and a "
                "learned offset needs a learned scale"
            )

    def value(
        self, arch: Arch, weight: Tensor, scale: Tensor | None, offset: Tensor | None
    ) -> Tensor:
        """Return the rounded weight."""
        bits = int(setting(self.bits, arch))
        if bits >= _WHOLE:
            return weight
        if scale is None:
            return straight_through(weight, lambda w: self.integers(arch, w).weight())
        half = 2 ** (bits - 1)
        own = None if offset is None or setting(self.symmetric, arch) else offset.view(-1, 1)
        rows = self._groups(arch, weight)
        return learned_round(rows, scale.view(-1, 1), -half, half - 1, own).view(weight.shape)

    @torch.no_grad()
    def integers(
        self,
        arch: Arch,
        weight: Tensor,
        scale: Tensor | None = None,
        offset: Tensor | None = None,
    ) -> Integers:
        """Return the integers that stand for `weight`; theirs is exactly the value."""
        bits, symmetric = int(setting(self.bits, arch)), bool(setting(self.symmetric, arch))
        rows, most, half = self._groups(arch, weight), 2**bits - 1, 2 ** (bits - 1)
        zero: Tensor | None = None
        own: Tensor | None = None
        if scale is not None:
            step = scale.view(-1, 1).abs().clamp_min(1e-12)
            own = None if symmetric or offset is None else offset.view(-1, 1)
        elif symmetric:
            most_below = -rows.amin(1, keepdim=True)  # no second tensor of the rows' size
            largest = torch.maximum(rows.amax(1, keepdim=True), most_below)
            step = (largest / (half - 1)).clamp_min(1e-12)
        else:
            low = rows.amin(1, keepdim=True).clamp_max(0)
            high = rows.amax(1, keepdim=True).clamp_min(0)
            step = ((high - low) / most).clamp_min(1e-12)
            zero = (-low / step).round()
        levels = ((rows if own is None else rows - own) / step).round_()
        integers = levels.add_(half if zero is None else zero).clamp_(0, most)
        return Integers(integers, step, zero, bits, tuple(weight.shape), own)

    def _groups(self, arch: Arch, weight: Tensor) -> Tensor:
        return groups_of(weight, setting(self.per, arch))

    def entry_bits(self, arch: Arch) -> int | None:
        """Return the bits of an integer."""
        bits = int(setting(self.bits, arch))
        return None if bits >= _WHOLE else bits

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return the bits of the packed integers and of their scales, zeros and offsets."""
        bits = self.entry_bits(arch)
        if bits is None:
            return super().stored_bits(arch, value)
        of_group = value.element_size()
        if not setting(self.symmetric, arch):
            of_group += 1 if self.scale is None else value.element_size()
        groups = len(self._groups(arch, value))
        return 8.0 * (packed_bytes(value.numel(), bits) + of_group * groups)


def groups_of(weight: Tensor, per: str | int) -> Tensor:
    """Return a weight as rows of entries that have one scale.

    Raises:
        InputError: a group's size does not divide the rows.

    Shapes: any to `(groups, entries)`.
    """
    if per == "tensor":
        return weight.reshape(1, -1)
    rows = weight.reshape(len(weight), -1)
    if per == "channel":
        return rows
    size = int(per)
    if rows.shape[1] % size:
        raise InputError(
            f"groups of {size} do not divide rows of {rows.shape[1]} entries; "
            "give a divisor, or per='channel'"
        )
    return rows.reshape(-1, size)
