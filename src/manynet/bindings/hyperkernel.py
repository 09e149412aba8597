"""`HyperKernel`: a convolution's kernel from a short vector, through two layers that many share.

Letters: `Z` numbers of the vector, `D` inner width, `I` and `O` inputs and outputs of a block, `k`
side of the kernel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.bindings.recipes import Recipe
from manynet.bindings.site import Group
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["HyperKernel", "hyper_kernels"]


@dataclass(frozen=True)
class HyperKernel(Operation, kind="hyper_kernel"):
    """A kernel of square blocks of channels, each generated from a vector of its own.

    For each input channel a vector of the inner width is made of the block's vector; one matrix,
    the same for all channels, makes the channel's part of the kernel of it.

    Args:
        codes: one vector a block, of `(Z,)`: those of the first outputs first.
        inner: weight and bias of the first layer, `(I, D, Z)` and `(I, D)`.
        outer: weight and bias of the second, `(O * k * k, D)` and `(O * k * k,)`.
        shape: the kernel's, `(outputs, inputs, k, k)`, whole multiples of `O` and `I`.

    Reference: Ha, Dai, Le, "HyperNetworks", ICLR 2017, arXiv 1609.09106, section 3.1.
    """

    codes: tuple[Binding, ...]
    inner: tuple[Binding, Binding]
    outer: tuple[Binding, Binding]
    shape: tuple[int, ...]

    def value(
        self,
        arch: Arch,
        codes: tuple[Tensor, ...],
        inner: tuple[Tensor, Tensor],
        outer: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the kernel."""
        outputs, inputs, *area = self.shape
        hidden = torch.einsum("idz,bz->bid", inner[0], torch.stack(codes)) + inner[1]
        blocks = hidden @ outer[0].T + outer[1]  # (blocks, I, O * k * k)
        count, rows = inputs // blocks.shape[1], blocks.shape[2] // math.prod(area)
        tiles = blocks.view(outputs // rows, count, -1, rows, *area)
        # (row of blocks, column of blocks, I, O, k, k) -> (outputs, inputs, k, k)
        return tiles.permute(0, 3, 1, 2, 4, 5).reshape(self.shape)


def hyper_kernels(
    *, code: int = 64, inner: int = 64, block: tuple[int, int] = (16, 16), seed: int = 0
) -> Recipe:
    """Generate kernels of one side and any widths, by one generator: `bind(together=True)`.

    It starts with kernels of the spread that the group's have.

    Args:
        code: `Z`, numbers of a block's vector.
        inner: `D`.
        block: outputs and inputs of a block; must divide those of every kernel. Leave the first
            convolution, shortcuts and the classifier out of the group.
        seed: of the start.

    Raises:
        InputError: a tensor is no kernel of that side, or the block does not divide it.
    """

    def apply(group: Group) -> list[Binding]:
        generator = torch.Generator().manual_seed(seed)
        like, (rows, columns) = group.sites[0].tensor, block
        area = tuple(like.shape[2:])
        for site in group.sites:
            found = tuple(site.tensor.shape)
            if len(found) != 4 or found[2:] != area or found[0] % rows or found[1] % columns:
                raise InputError(
                    f"{site.name} of shape {found} is no kernel of {'x'.join(map(str, area))} in "
                    f"blocks of {rows} by {columns}; leave it out, or take another block"
                )
        spread = torch.stack([site.tensor.float().std() for site in group.sites]).mean().cpu()

        def normal(*shape: int, size: float | Tensor = 1.0) -> Tensor:
            return (torch.randn(shape, generator=generator) * size).to(like)

        numbers = rows * math.prod(area)
        first = (
            group.parameter("inner_weight", normal(columns, inner, code, size=code**-0.5)),
            group.parameter("inner_bias", torch.zeros(columns, inner).to(like)),
        )
        second = (
            group.parameter("outer_weight", normal(numbers, inner, size=spread * inner**-0.5)),
            group.parameter("outer_bias", torch.zeros(numbers).to(like)),
        )
        bound = []
        for site in group.sites:
            shape = tuple(site.tensor.shape)
            count = shape[0] // rows * (shape[1] // columns)
            codes = tuple(site.parameter(f"code{n}", normal(code)) for n in range(count))
            bound.append(site.reads(HyperKernel(codes, first, second, shape)))
        return bound

    return apply
