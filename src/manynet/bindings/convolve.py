"""`Convolve`: a weight is another one with a learned filter slid over its two channel axes.

A valid convolution makes a weight of fewer channels, and a transposed one a weight of more. With a
filter that is one at its first position and zero elsewhere, the first is the leading slice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from manynet.bindings.axes import axes_of, length
from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.bindings.recipes import Recipe
from manynet.bindings.route import Route
from manynet.bindings.site import Group, Site
from manynet.bindings.slice import Slice, whole
from manynet.errors import InputError
from manynet.space import Arch, Implies, Value

__all__ = ["MLR", "Convolve", "Start", "convolved", "dilated"]

MLR = (0.85, 0.001)
"""FedConv's slopes above and below zero."""
Start = Literal["tap", "random"]
Slopes = tuple[float, float] | None


@dataclass(frozen=True)
class Convolve(Operation, kind="convolve"):
    """`f(kernel * (line[0] * weight + line[1]))`, with a filter for each position of the kernel.

    Args:
        weight: `(O, I, *kernel)`, `(O, I)` or `(O,)`.
        kernel: `(P, rows, columns)`, the directions of the filters; P is the number of positions of
            the weight's own kernel, 1 for matrices and vectors.
        norm: `(P,)`, the filters' norms.
        line: `(2, P)`, what the weight is first multiplied by and what is added, at each position.
        slopes: f multiplies what is above zero by the first, the rest by the second; None for
            none.
        transposed: make more channels instead of fewer.

    Reference: Shen et al. 2024, "FedConv", MobiSys. Its residual is part of `line`.
    """

    weight: Binding
    kernel: Binding
    norm: Binding
    line: Binding
    slopes: Slopes = None
    transposed: bool = False

    def value(
        self, arch: Arch, weight: Tensor, kernel: Tensor, norm: Tensor, line: Tensor
    ) -> Tensor:
        """Return the weight of fewer or of more channels."""
        own = weight.shape
        planes = weight.reshape(own[0], own[1] if len(own) > 1 else 1, -1).permute(2, 0, 1)
        planes = line[0].view(-1, 1, 1) * planes + line[1].view(-1, 1, 1)
        # a direction of zeros gives zeros, not NaN
        length_of = kernel.flatten(1).norm(dim=1).clamp_min(torch.finfo(kernel.dtype).tiny)
        taps = (kernel * (norm / length_of).view(-1, 1, 1)).unsqueeze(1)
        if len(planes) == 1 and 1 in taps.shape[2:]:
            made = self._along(planes[0], taps[0, 0]).unsqueeze(0)
        else:
            slide = functional.conv_transpose2d if self.transposed else functional.conv2d
            made = slide(planes.unsqueeze(0), taps, groups=len(planes)).squeeze(0)
        if self.slopes is not None:
            above, below = self.slopes
            made = torch.where(made > 0, above * made, below * made)
        shape = (*made.shape[1:], *own[2:]) if len(own) > 1 else made.shape[1:2]
        return made.permute(1, 2, 0).reshape(shape)

    def _along(self, plane: Tensor, taps: Tensor) -> Tensor:
        """Slide a filter over one axis only."""
        if taps.shape[0] > 1:
            return self._along(plane.T, taps.T).T
        row = taps[0]
        if not self.transposed:
            return _correlate(plane, row)
        beyond = len(row) - 1
        return _correlate(functional.pad(plane, (beyond, beyond)), row.flip(0))


class _Correlate(torch.autograd.Function):
    """Rows `(R, N)` and one filter `(n,)` to `(R, N - n + 1)`.

    The filter of a classifier has hundreds of taps. Its gradient as PyTorch's convolution takes it
    costs some ten times as much as this one, which is a convolution with a channel for each row.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(rows, taps)
        filters = taps.expand(len(rows), 1, len(taps))
        return functional.conv1d(rows.unsqueeze(0), filters, groups=len(rows))[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (grad,), (rows, taps) = grads, ctx.saved_tensors
        of_rows = of_taps = None
        if ctx.needs_input_grad[0]:
            beyond = len(taps) - 1
            of_rows = _correlate(functional.pad(grad, (beyond, beyond)), taps.flip(0))
        if ctx.needs_input_grad[1]:
            filters = grad.contiguous().unsqueeze(1)
            of_taps = functional.conv1d(rows.unsqueeze(0), filters, groups=len(rows))[0].sum(0)
        return of_rows, of_taps


def _correlate(rows: Tensor, taps: Tensor) -> Tensor:
    return _Correlate.apply(rows, taps)  # type: ignore[no-any-return]


def convolved(
    archs: Sequence[Mapping[str, Value]],
    *,
    slopes: Slopes = MLR,
    start: Start = "tap",
    seed: int = 0,
) -> Recipe:
    """Let the members of `archs` read each weight through filters of their own; others cut it.

    The filters of an arch are shared by whoever has that arch. `manynet.bind` applies this to the
    weights of a family whose widths are elastic, `"*"` for all of them.

    Args:
        archs: the smaller members, each with a value for every choice of the family. A choice must
            tell them from each other and from the largest; with its value go those of the others.
        slopes: see `Convolve`.
        start: `"tap"` for the leading slice, `"random"` as PyTorch's convolutions start.
        seed: decides a random start.

    Example:
        >>> import manynet
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = manynet.elastic(net, torch.zeros(1, 4), width=(0.5, 1.0))
        >>> family = manynet.bind(family, "*", convolved([{"0.width": 4}], slopes=None))
        >>> family.at({"0.width": 4})[0]
        Linear(in_features=4, out_features=4, bias=True)
    """
    filters = _filters(start, slopes, seed)
    name = _telling(archs)
    rules = [
        Implies({name: (arch[name],)}, {other: (arch[other],) for other in arch if other != name})
        for arch in archs
        if len(arch) > 1
    ]

    def apply(group: Group) -> list[Binding]:
        bound: list[Binding] = []
        for rule in rules:
            group.constrain(rule)
        for site in group.sites:
            values: list[Value] = []
            options: list[Binding] = []
            for arch in archs:
                shapes = tuple(site.tensor.shape), _shape_in(site, arch)
                role = f"{name}={arch[name]}"
                whole_weight = whole(site.name, site.tensor)
                options.append(_filtered(site, whole_weight, shapes, role, filters))
                values.append(arch[name])
            bound.append(Route(name, tuple(values), (*options, site.weight)))
        return bound

    return apply


def dilated(
    small: Mapping[str, Tensor],
    *,
    slopes: Slopes = MLR,
    start: Start = "tap",
    seed: int = 0,
) -> Recipe:
    """Read each weight as the dilation of a smaller one, through transposed convolutions.

    Args:
        small: the smaller weights, by the names of the sites; they become buffers, `NAME.small`.
        slopes: see `Convolve`.
        start: `"tap"` for the smaller weight with zeros around, or `"random"`.
        seed: decides a random start.
    """
    filters = _filters(start, slopes, seed)

    def apply(group: Group) -> list[Binding]:
        bound: list[Binding] = []
        for site in group.sites:
            if site.name not in small:
                raise InputError(f"there is no smaller weight for {site.name}; add it to `small`")
            tensor = small[site.name].to(site.tensor)
            shapes = tuple(tensor.shape), tuple(site.tensor.shape)
            source = site.buffer("small", tensor)
            bound.append(_filtered(site, source, shapes, "dilation", filters))
        return bound

    return apply


Shapes = tuple[tuple[int, ...], tuple[int, ...]]
"""Of the weight that is there, and of the one that is wanted."""


@dataclass(frozen=True)
class _Filters:
    """Draws filters at their start."""

    start: Start
    slopes: Slopes
    generator: torch.Generator

    def drawn(self, shapes: Shapes) -> dict[str, Tensor]:
        have, want = shapes
        sizes = [abs(a - b) + 1 for a, b in zip(have[:2], want[:2], strict=True)]
        planes = math.prod(have[2:])
        kernel = torch.zeros(planes, sizes[0], sizes[1] if len(sizes) > 1 else 1)
        line = torch.zeros(2, planes)
        if self.start == "tap":
            kernel[:, 0, 0] = line[0] = 1
        else:
            bound = math.prod(kernel.shape[1:]) ** -0.5
            kernel.uniform_(-bound, bound, generator=self.generator)
            line.uniform_(-1, 1, generator=self.generator)
            line[0] += len(have) > 2  # the residual, which the paper's code has for convolutions
        return {"kernel": kernel, "norm": kernel.flatten(1).norm(dim=1), "line": line}


def _filters(start: Start, slopes: Slopes, seed: int) -> _Filters:
    if start not in ("tap", "random"):
        raise InputError(f'start={start!r} is unknown; use "tap" or "random"')
    return _Filters(start, slopes, torch.Generator().manual_seed(seed))


def _filtered(site: Site, source: Binding, shapes: Shapes, role: str, filters: _Filters) -> Binding:
    """Return the binding that makes a weight of one shape of a weight of another."""
    have, want = shapes
    grows = {a < b for a, b in zip(have, want, strict=False) if a != b}
    if len(have) != len(want) or have[2:] != want[2:] or len(grows) > 1:
        raise InputError(
            f"{site.name} cannot be filtered from {have} to {want}: filters change the two channel "
            "axes, both to fewer channels or both to more"
        )
    kernel, norm, line = (
        site.parameter(f"{role}.{name}", value.to(site.tensor))
        for name, value in filters.drawn(shapes).items()
    )
    return Convolve(source, kernel, norm, line, filters.slopes, True in grows)


def _telling(archs: Sequence[Mapping[str, Value]]) -> str:
    """Return a choice whose value tells the archs apart."""
    names = [name for name in archs[0] if all(name in arch for arch in archs)] if archs else []
    for name in names:
        if len({arch[name] for arch in archs}) == len(archs):
            return name
    raise InputError(
        f"no choice tells the {len(archs)} archs apart; give each a value of its own for one"
    )


def _shape_in(site: Site, arch: Mapping[str, Value]) -> tuple[int, ...]:
    """Return the shape of the site's tensor in the member of `arch`."""
    if not isinstance(site.binding, Slice):
        return tuple(site.tensor.shape)
    dims = site.binding.dims
    sizes = {a: int(arch[a.name]) for dim in dims for a in axes_of(dim) if a.name in arch}
    return tuple(length(dim, sizes) for dim in dims)
