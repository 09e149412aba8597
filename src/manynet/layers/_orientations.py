"""Directions as a grid on the circle or the sphere, and vectors as signals on it.

Letters in shapes: `O` orientations, `D` dimensions of space (2 or 3), `N` nodes, `V` vectors.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["lift_vectors", "orientation_grid", "random_rotations", "read_vectors"]


def orientation_grid(count: int, *, dimensions: int = 3, seed: int = 0, steps: int = 100) -> Tensor:
    """Return unit vectors that are spread evenly: exactly in the plane, by repulsion in space.

    Args:
        count: `O`.
        dimensions: `D`.
        seed: of the random start in space.
        steps: of the repulsion, of 0.1 on spherical angles, with noise that shrinks.

    Raises:
        InputError: there is no such grid.

    Shapes: `(O, D)`.

    Reference: Bekkers et al. 2024, arXiv 2310.02970: energy mean of `(angle / pi) ** -2`.

    Example:
        >>> orientation_grid(4, dimensions=2).round().abs()
        tensor([[1., 0.],
                [0., 1.],
                [1., 0.],
                [0., 1.]])
    """
    if count < 1 or dimensions not in (2, 3):
        raise InputError(
            f"orientation_grid({count}, dimensions={dimensions}): there is one of at least 1 "
            "orientation, in 2 or 3 dimensions"
        )
    if dimensions == 2:
        angles = torch.arange(count, dtype=torch.float64) * (2 * math.pi / count)
        return torch.stack([angles.cos(), angles.sin()], dim=1).float()
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    start = start / start.norm(dim=1, keepdim=True)
    angles = torch.stack([start[:, 2].acos(), torch.atan2(start[:, 1], start[:, 0])], dim=1)
    for step in range(steps if count > 1 else 0):
        noise = torch.randn(angles.shape, generator=generator, dtype=torch.float64)
        slope = _repulsion(angles)
        angles = angles - 0.1 * slope + 0.001 * (1 - step / steps) * noise
    return _on_sphere(angles).float()


def _on_sphere(angles: Tensor) -> Tensor:
    polar, azimuth = angles.unbind(1)
    flat = polar.sin()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), polar.cos()], dim=1)


def _repulsion(angles: Tensor) -> Tensor:
    """Return the gradient of the energy of points on the sphere."""
    with torch.enable_grad():
        angles = angles.detach().requires_grad_()
        points = _on_sphere(angles)
        count = len(points)
        above = torch.triu_indices(count, count, 1)
        cosines = (points[above[0]] * points[above[1]]).sum(1).clamp(-1 + 1e-7, 1 - 1e-7)
        energy = (cosines.acos() / math.pi).pow(-2).mean()
        (slope,) = torch.autograd.grad(energy, angles)
    return slope


def random_rotations(
    count: int,
    *,
    dimensions: int = 3,
    generator: torch.Generator | None = None,
    like: Tensor | None = None,
) -> Tensor:
    """Return rotations drawn evenly from all.

    Args:
        count: how many.
        dimensions: `D`.
        generator: of the random numbers.
        like: a tensor of the wanted type and device.

    Shapes: `(count, D, D)`; a vector `v` is turned by `rotation @ v`.

    Example:
        >>> turns = random_rotations(5)
        >>> bool(torch.allclose(torch.linalg.det(turns), torch.ones(5), atol=1e-5))
        True
    """
    like = torch.empty(0) if like is None else like
    drawn = torch.randn(count, dimensions, dimensions, generator=generator, dtype=torch.float64)
    turns, triangular = torch.linalg.qr(drawn)
    # columns with signs as of a Gram-Schmidt process are even; then no reflections
    turns = turns * torch.diagonal(triangular, dim1=-2, dim2=-1).sign()[:, None, :]
    flip = torch.linalg.det(turns).sign()[:, None]
    turns = torch.cat([turns[:, :, :1] * flip[:, :, None], turns[:, :, 1:]], dim=2)
    return turns.to(like.device, like.dtype)


def lift_vectors(vectors: Tensor, grid: Tensor) -> Tensor:
    """Return vectors as signals on the grid: for each orientation `o`, the product `v.o`.

    Shapes: vectors `(N, V, D)` and grid `(O, D)`, or `(N, O, D)`, giving `(N, O, V)`.
    """
    return torch.einsum("nvd,nod->nov", vectors, grid.expand(len(vectors), *grid.shape[-2:]))


def read_vectors(signal: Tensor, grid: Tensor) -> Tensor:
    """Return what vectors signals on the grid stand for: the mean of `f(o) o`.

    A vector that was lifted comes back at a third of its length (in the plane, a half); the maps
    on both sides learn what is missing.

    Shapes: signal `(N, O, V)` and grid `(O, D)`, or `(N, O, D)`, giving `(N, V, D)`.
    """
    grid = grid.expand(len(signal), *grid.shape[-2:])
    return torch.einsum("nov,nod->nvd", signal, grid) / signal.shape[1]
