"""`Unpack`: a weight read from packed integers, which are all that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.pack import Integers, packed_bytes
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["Unpack"]


@dataclass(frozen=True)
class Unpack(Operation, kind="unpack"):
    """The weight that packed integers stand for; it is not trained.

    Args:
        packed: the bytes, a shared buffer; see `manynet.bindings.pack`.
        scale: of each group.
        bits: of an integer.
        shape: the weight's.
        groups: how many scales there are.
        zero: which integer stands for 0, by group; None for the middle.
        offset: of the levels, by group; None for 0.
        dtype: the weight's type, where the scales have half of its precision.
        real_zero: whether `zero` has half precision and need not be whole.
    """

    packed: Binding
    scale: Binding
    bits: int
    shape: tuple[int, ...]
    groups: int
    zero: Binding | None = None
    offset: Binding | None = None
    dtype: str | None = None
    real_zero: bool = False

    def value(self, arch: Arch, *values: Tensor | None) -> Tensor:
        """Return the weight."""
        return self.integers(arch, *values).weight()

    def integers(self, arch: Arch, *values: Tensor | None) -> Integers:
        """Return the integers."""
        roles = zip(("packed", "scale", "zero", "offset"), values, strict=True)
        known = {role: value for role, value in roles if value is not None}
        about = {"bits": self.bits, "shape": self.shape, "dtype": self.dtype}
        return Integers.of(known, about)

    def entry_bits(self, arch: Arch) -> int:
        """Return the bits of an integer."""
        return self.bits

    def stored_bits(self, arch: Arch, value: Tensor) -> float:
        """Return the bits of the packed integers and of their scales, zeros and offsets."""
        number = value.element_size() if self.dtype is None else 2
        zero = 2 if self.real_zero else int(self.zero is not None)
        of_group = number * (1 if self.offset is None else 2) + zero
        return 8.0 * (packed_bytes(value.numel(), self.bits) + of_group * self.groups)
