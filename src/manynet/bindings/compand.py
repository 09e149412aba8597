"""`Compand`: a weight is the image of free numbers under one increasing curve; `Power` another.

A companding curve is steep at zero and flat far out: small weights spread, large ones are pressed
together. `Power` does the opposite, and so makes weights sparse.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError, did_you_mean
from manynet.space import Arch

__all__ = ["CURVES", "Compand", "Curve", "Power", "compand", "expand"]


@dataclass(frozen=True)
class Curve:
    """An odd, increasing function whose slope is one at zero and less everywhere else.

    Args:
        forward: the function.
        inverse: its inverse.
        slope: its derivative; it may write into its argument, which is not needed afterwards.
        limit: what it stays below; infinite for one without a limit.
    """

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    limit: float


CURVES = {
    "arctan": Curve(
        torch.atan, torch.tan, lambda u: u.square_().add_(1).reciprocal_(), math.pi / 2
    ),
    "tanh": Curve(torch.tanh, torch.atanh, lambda u: u.tanh_().square_().neg_().add_(1), 1.0),
    "softsign": Curve(
        lambda u: u / (1 + u.abs()),
        lambda y: y / (1 - y.abs()),
        lambda u: u.abs_().add_(1).square_().reciprocal_(),
        1.0,
    ),
    "mu-law": Curve(
        lambda u: u.sign() * u.abs().log1p(),
        lambda y: y.sign() * y.abs().expm1(),
        lambda u: u.abs_().add_(1).reciprocal_(),
        math.inf,
    ),
}
"""The curves by name."""


@dataclass(frozen=True)
class Compand(Operation, kind="compand"):
    """`height * curve(latent / width)`: odd, increasing, steep at zero and flat far out.

    The slope at zero is `height / width`. It computes in float32 or more.

    Args:
        latent: the free numbers, which the optimizer moves.
        height: a positive number, or one for each row; learned or not.
        width: likewise.
        curve: the name of one of `CURVES`.
        logs: whether height and width are given as their logarithms, so that learned ones stay
            positive.

    Reference: Cakaj et al. 2023, arXiv 2306.16993 (Weight Compander). The abstract was read; that
    the curve is an arctangent is recalled, not confirmed. The other curves are ours.
    """

    latent: Binding
    height: Binding
    width: Binding
    curve: str = "arctan"
    logs: bool = False

    def __post_init__(self) -> None:
        """Check the curve's name."""
        _curve(self.curve)

    def value(self, arch: Arch, latent: Tensor, height: Tensor, width: Tensor) -> Tensor:
        """Return the weight."""
        scales = (height.exp(), width.exp()) if self.logs else (height, width)
        return compand(latent, *scales, curve=self.curve)


@dataclass(frozen=True)
class Power(Operation, kind="power"):
    """`sign(latent) * |latent| ** exponent`: small weights get smaller steps, and end near zero.

    Args:
        latent: the free numbers.
        exponent: above 1; 1 is the identity.

    Reference: Schwarz et al. 2021, arXiv 2110.00296 (Powerpropagation).
    """

    latent: Binding
    exponent: float = 2.0

    def value(self, arch: Arch, latent: Tensor) -> Tensor:
        """Return the weight."""
        size = latent.abs().clamp_min(1e-30)  # a root has no slope at zero
        return latent * size ** (self.exponent - 1)


def compand(latent: Tensor, height: Tensor, width: Tensor, *, curve: str = "arctan") -> Tensor:
    """Return the weights that latent numbers stand for.

    Args:
        latent: any shape.
        height: positive; it broadcasts to the latent numbers.
        width: likewise.
        curve: the name of one of `CURVES`.

    Example:
        >>> compand(torch.tensor([0.5, 1.0]), torch.tensor(1.0), torch.tensor(0.5))
        tensor([0.7854, 1.1071])
    """
    found: Tensor = _Compand.apply(latent, height, width, _curve(curve))
    return found


class _Compand(torch.autograd.Function):
    """The weights, and their derivative from the latent numbers alone: nothing else is kept.

    Memory of the weight's size is asked for once, for the result; all else happens in place.
    """

    @staticmethod
    def forward(ctx: Any, latent: Tensor, height: Tensor, width: Tensor, curve: Curve) -> Tensor:
        ctx.curve = curve
        ctx.save_for_backward(latent, height, width)
        wide = torch.promote_types(latent.dtype, torch.float32)
        ratio = latent.to(wide) / width.to(wide)
        return curve.forward(ratio).mul_(height.to(wide)).to(latent.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        latent, height, width = ctx.saved_tensors
        wide = torch.promote_types(latent.dtype, torch.float32)
        tall, broad, grad = height.to(wide), width.to(wide), grad.to(wide)
        ratio = latent.to(wide) / broad
        _, of_height, of_width, _ = ctx.needs_input_grad
        by_height = grad * ctx.curve.forward(ratio) if of_height else None
        kept = ratio.clone() if of_width else None
        inner = ctx.curve.slope(ratio).mul_(grad).mul_(tall / broad)
        by_width = None if kept is None else kept.mul_(inner).neg_()
        return (
            inner.to(latent.dtype),
            None if by_height is None else by_height.sum_to_size(height.shape).to(height.dtype),
            None if by_width is None else by_width.sum_to_size(width.shape).to(width.dtype),
            None,
        )


def expand(
    weight: Tensor, height: Tensor, width: Tensor, *, curve: str = "arctan", clamp: bool = False
) -> Tensor:
    """Return the latent numbers whose image is `weight`: the inverse of `compand`.

    Args:
        weight: any shape.
        height: positive; it broadcasts to the weight.
        width: likewise.
        curve: the name of one of `CURVES`.
        clamp: take 0.999 of the curve's limit for weights beyond that, and warn, instead of
            raising an error.

    Raises:
        InputError: an entry lies outside the curve's range, and `clamp` is False.

    Example:
        >>> height, width = torch.tensor(1.0), torch.tensor(0.5)
        >>> expand(compand(torch.tensor([0.25]), height, width), height, width)
        tensor([0.2500])
    """
    known = _curve(curve)
    wide = torch.promote_types(weight.dtype, torch.float32)
    ratio = weight.to(wide) / height.to(wide)
    most = known.limit * 0.999 if clamp else known.limit
    beyond = int((ratio.abs() >= most).sum()) if math.isfinite(most) else 0
    if beyond and not clamp:
        raise InputError(
            f"{beyond} weights are out of the curve's range, the largest is "
            f"{float(weight.abs().max()):.3g}; give a larger height, or clamp=True"
        )
    if beyond:
        warnings.warn(
            f"{beyond} of {weight.numel()} weights are out of the curve's range and were moved to "
            "its end; a larger height would keep them",
            stacklevel=2,
        )
        ratio = ratio.clamp(-most, most)
    return (width.to(wide) * known.inverse(ratio)).to(weight.dtype)


def _curve(name: str) -> Curve:
    if name not in CURVES:
        raise InputError(f"there is no curve {name!r}{did_you_mean(name, CURVES)}")
    return CURVES[name]
