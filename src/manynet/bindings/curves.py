"""Recipes for weights behind a curve: `companded` and `powered`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manynet.bindings.compand import CURVES, Compand, Power, expand
from manynet.bindings.protocol import Binding
from manynet.bindings.route import Route
from manynet.bindings.site import Group, Site
from manynet.errors import InputError, did_you_mean
from manynet.space import Choice

__all__ = ["companded", "powered"]

ROOM = 1.05
"""The curve's range, where the weights decide it, is so many times the largest weight."""


def companded(
    *,
    curve: str = "arctan",
    height: float = 3.0,
    slope: float | Sequence[float] = 1.5,
    per: str = "layer",
    learned: bool = False,
) -> Callable[[Group], Sequence[Binding]]:
    """Read each weight through a curve of its own that spreads small weights, presses large ones.

    It starts with the same weights. Train it at the plain network's learning rate over the square
    of the slope, since a weight's step is so much larger; decay acts on the latent numbers.

    Args:
        curve: `"arctan"`, `"tanh"`, `"softsign"` or `"mu-law"`.
        height: of the curve, in standard deviations of the weights; it is raised where the
            largest weight would not fit.
        slope: at zero; above 1 for companding. Several become a choice, `slope`: one set of latent
            numbers and networks from nearly linear to nearly of one size. The largest slope
            starts with the model's weights.
        per: what has a curve of its own: the `"layer"`, or each `"channel"` (row).
        learned: train heights and widths too, as their logarithms; vectors do not decay.

    Reference: Cakaj et al. 2023, arXiv 2306.16993; the defaults are ours, in terms that do not
    depend on the scale of the weights.

    Example:
        >>> from manynet import bind
        >>> model = torch.nn.Linear(4, 3)
        >>> family = bind(model, "weight", companded())
        >>> bool(torch.allclose(family.at({}).weight, model.weight, atol=1e-6))
        True
    """
    slopes = (float(slope),) if isinstance(slope, int | float) else tuple(sorted(set(slope)))
    if curve not in CURVES:
        raise InputError(f"there is no curve {curve!r}{did_you_mean(curve, CURVES)}")
    if not slopes or min(slopes) <= 0 or height <= 0:
        raise InputError(f"height={height}, slope={slope}: both must be above 0")
    if per not in ("layer", "channel"):
        raise InputError(f"per={per!r}: give 'layer' or 'channel'")

    def scale(site: Site, role: str, value: Tensor) -> Binding:
        make = site.parameter if learned else site.buffer
        return make(role, value.log() if learned else value, alike=per == "channel")

    def width(site: Site, value: Tensor) -> Binding:
        if len(slopes) == 1:
            return scale(site, "width", value / slopes[0])
        options = tuple(scale(site, f"width-{one:g}", value / one) for one in slopes)
        return Route("slope", slopes, options)

    def bound(site: Site) -> Binding:
        tall = _heights(site.tensor, height, CURVES[curve].limit, per)
        latent = expand(site.tensor, tall, tall / slopes[-1], curve=curve)
        return Compand(
            site.parameter("latent", latent, alike=True),
            scale(site, "height", tall),
            width(site, tall),
            curve,
            learned,
        )

    def apply(group: Group) -> list[Binding]:
        if len(slopes) > 1:
            group.choice(Choice("slope", slopes))
        return [bound(site) for site in group.sites]

    return apply


def _heights(weight: Tensor, height: float, limit: float, per: str) -> Tensor:
    """Return the height of a layer's curve, `(1,)`, or of each row's, `(rows, 1, …)`."""
    rows = weight.reshape(1 if per == "layer" else len(weight), -1)
    spread = rows.std(1, correction=0).clamp_min(1e-8)
    tall = torch.maximum(height * spread, ROOM * rows.abs().amax(1) / limit)
    return tall if per == "layer" else tall.view(-1, *(1,) * (weight.dim() - 1))


def powered(exponent: float = 2.0) -> Callable[[Group], Sequence[Binding]]:
    """Read each weight as a power of a latent number, which keeps its sign: it becomes sparse.

    It starts with the same weights.

    Args:
        exponent: above 1.

    Reference: Schwarz et al. 2021, arXiv 2110.00296 (Powerpropagation).
    """
    if not exponent > 0:
        raise InputError(f"exponent={exponent}: it must be above 0")

    def apply(group: Group) -> list[Binding]:
        return [
            Power(
                site.parameter(
                    "latent", site.tensor.sign() * site.tensor.abs() ** (1 / exponent), alike=True
                ),
                exponent,
            )
            for site in group.sites
        ]

    return apply
