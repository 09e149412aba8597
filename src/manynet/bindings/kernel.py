"""`KernelTransform`: a smaller convolution kernel is the center of a larger one, times a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from manynet.bindings.axes import Axis, DimTable
from manynet.bindings.kinds import register
from manynet.bindings.protocol import Computed, Part, Reading
from manynet.bindings.protocol import part_of as read
from manynet.bindings.slice import Slice
from manynet.space import Arch

__all__ = ["KernelTransform"]


@dataclass(frozen=True)
class KernelTransform:
    """A convolution's weight whose kernel shrinks step by step, each step through a matrix.

    From one size to the next smaller one: take the center, flatten it, multiply it by the step's
    matrix. With identity matrices this is the plain center crop, which is how they start.

    Args:
        weight: how the weight itself is cut: channels first, then the kernel's dimensions.
        kernel: the axis of the kernel's side.
        sizes: the sides to choose from, largest first.
        matrices: names of the shared matrices, `(side ** n, side ** n)` of the smaller side, one a
            step; `n` is the number of spatial dimensions.

    Reference: Cai et al. 2019, arXiv 1908.09791, section 3.3, elastic kernel size.
    """

    weight: Slice
    kernel: Axis
    sizes: tuple[int, ...]
    matrices: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """The weight, then the matrices."""
        return (*self.weight.reads, *self.matrices)

    def at(self, arch: Arch, sizes: Mapping[Axis, int]) -> Reading:
        """Return the block itself for the largest kernel, else the computed smaller one."""
        side = sizes[self.kernel]
        whole = self.weight.at(arch, {**sizes, self.kernel: self.kernel.size})
        source = self.weight.reads[0]
        assert isinstance(whole, Part)  # elastic kernels are cut from a shared tensor itself
        if side == self.kernel.size:
            return whole
        steps = self.sizes.index(side)
        used = self.matrices[:steps]

        def shrink(tensors: Sequence[Tensor]) -> Tensor:
            weight = read(tensors[0], whole)
            for (large, small), matrix in zip(
                pairwise(self.sizes[: steps + 1]), tensors[1:], strict=True
            ):
                weight = _step(weight, large, small, matrix)
            return weight

        parts = (whole, *(Part(name, (slice(None), slice(None))) for name in used))
        return Computed((source, *used), shrink, parts)

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return the binding as JSON values."""
        return {
            "kind": "kernel_transform",
            "weight": self.weight.to_json(table),
            "kernel": table.encode((self.kernel,)),
            "sizes": list(self.sizes),
            "matrices": list(self.matrices),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], table: DimTable) -> KernelTransform:
        """Return the binding that `to_json` wrote."""
        (kernel,) = table.decode(data["kernel"])
        if not isinstance(kernel, Axis):
            raise ValueError("the kernel of a kernel transform is one axis")
        weight = Slice.from_json(data["weight"], table)
        return cls(weight, kernel, tuple(data["sizes"]), tuple(data["matrices"]))


def _step(weight: Tensor, large: int, small: int, matrix: Tensor) -> Tensor:
    start = (large - small) // 2
    center = (slice(None), slice(None), *(slice(start, start + small),) * (weight.dim() - 2))
    cropped = weight[center]
    return (cropped.reshape(-1, matrix.shape[0]) @ matrix.T).view(cropped.shape)


register("kernel_transform", KernelTransform.from_json)
