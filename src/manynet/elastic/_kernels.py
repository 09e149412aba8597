"""Convolution kernels that members may shrink to their center."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim
from manynet.elastic._trace import Trace
from manynet.errors import InputError
from manynet.family import Follow
from manynet.space import Choice

__all__ = ["ElasticKernel", "find_kernels"]


@dataclass(frozen=True)
class ElasticKernel:
    """A convolution whose kernel members may shrink.

    Args:
        path: the convolution.
        axis: the side of its kernel.
        sizes: the sides to choose from, largest first.
        follows: its attributes that change along.
    """

    path: str
    axis: Axis
    sizes: tuple[int, ...]
    follows: tuple[Follow, ...]

    @property
    def weight(self) -> str:
        """Name of the convolution's weight."""
        return f"{self.path}.weight" if self.path else "weight"

    @property
    def choice(self) -> Choice:
        """The choice of the kernel's side."""
        return Choice(self.axis.name, tuple(reversed(self.sizes)))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices of a learned transform, one a step."""
        steps = pairwise(self.sizes)
        return tuple(f"kernel_transform.{self.path}.{big}to{small}" for big, small in steps)

    def matrices(self, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the matrices of a learned transform at its start: a plain center crop."""
        weight = model.get_parameter(self.weight)
        return {
            name: torch.eye(small ** (weight.dim() - 2), dtype=weight.dtype, device=weight.device)
            for name, small in zip(self.names, self.sizes[1:], strict=True)
        }


def find_kernels(
    model: nn.Module, trace: Trace, kernel: bool | Sequence[int] | None, keep: Sequence[str]
) -> list[ElasticKernel]:
    """Return the convolutions whose kernels may shrink: odd, square, padded to keep the size.

    Raises:
        InputError: a size to choose from is even or not positive, or fits no convolution.
    """
    if kernel is None or kernel is False:
        return []
    wanted = None if kernel is True else _checked(kernel)
    found = []
    for path, module in model.named_modules():
        if path in trace.calls and not any(fnmatch.fnmatchcase(path, p) for p in keep):
            sizes = _sizes(module, wanted)
            name = f"{path}.weight" if path else "weight"
            if len(sizes) > 1 and name in trace.tensors:
                assert isinstance(module, nn.modules.conv._ConvNd)
                found.append(_elastic(path, module, sizes))
    if not found and wanted is not None:
        raise InputError(
            f"kernel={tuple(wanted)} fits no convolution of the model; kernels can shrink where "
            "they are odd, square and padded by half their size"
        )
    return found


def _checked(sizes: Sequence[int]) -> Sequence[int]:
    for size in sizes:
        if size != int(size) or size < 1 or size % 2 == 0:
            raise InputError(f"kernel holds {size!r}; sizes of kernels are odd, such as (3, 5)")
    return sizes


def _sizes(module: nn.Module, wanted: Sequence[int] | None) -> tuple[int, ...]:
    """Return the sides that `module` may choose from, largest first; empty where it cannot."""
    if not isinstance(module, nn.modules.conv._ConvNd) or module.transposed:
        return ()
    side = module.kernel_size[0]
    if side < 3 or side % 2 == 0 or set(module.kernel_size) != {side}:
        return ()
    if module.padding_mode != "zeros":
        return ()
    if not isinstance(module.padding, str):
        same = tuple((side - 1) // 2 * dilation for dilation in module.dilation)
        if tuple(module.padding) != same:
            return ()
    elif module.padding != "same":
        return ()
    smaller = range(3, side, 2) if wanted is None else sorted({s for s in wanted if s < side})
    return (side, *reversed(smaller))


def _elastic(path: str, module: nn.modules.conv._ConvNd, sizes: tuple[int, ...]) -> ElasticKernel:
    axis = Axis(f"{path}.kernel" if path else "kernel", sizes[0], anchor="center")
    dim: Dim = (axis,)
    follows = [Follow(path, "kernel_size", i, dim) for i in range(len(module.kernel_size))]
    if not isinstance(module.padding, str):
        # the padding of a kernel of side k is (k - 1) / 2 * dilation, and k is odd
        follows += [
            Follow(path, "padding", i, dim, offset=-(dilation // 2), scale=dilation, divisor=2)
            for i, dilation in enumerate(module.dilation)
        ]
    return ElasticKernel(path, axis, sizes, tuple(follows))
