"""`Compand`: a weight is the image of free numbers under one increasing, learnable curve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Compand", "expand"]


@dataclass(frozen=True)
class Compand(Operation, kind="compand"):
    """`height * arctan(latent / width)`: odd, increasing, steep at zero and flat far out.

    Args:
        latent: the free numbers, which the optimizer moves.
        height: a positive number, or one for each row; learned or not.
        width: likewise.

    Reference: Cakaj et al. 2023, arXiv 2306.16993 (Weight Compander). The abstract was read; that
    the curve is an arctangent is recalled, not confirmed.
    """

    latent: Binding
    height: Binding
    width: Binding

    def value(self, arch: Arch, latent: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Return the weight."""
        return height * torch.atan(latent / width)


def expand(weight: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Return the latent numbers whose image is `weight`.

    Raises:
        InputError: an entry lies outside the curve's range, `height * pi / 2`.
    """
    if bool((weight.abs() >= height * (torch.pi / 2)).any()):
        raise InputError(
            f"a weight of {float(weight.abs().max()):.3g} is out of the curve's range; "
            "give a larger height"
        )
    return width * torch.tan(weight / height)
