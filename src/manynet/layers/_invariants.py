"""What all pairs of points have in common that a motion carries into one another.

Letters in shapes: `E` pairs, `O` orientations, `D` dimensions of space (2 or 3), `A` attributes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["envelope", "monomials", "pair_invariants", "safe_norm"]


def safe_norm(x: Tensor) -> Tensor:
    """Return the norm of the last dimension; its derivatives, all of them, are zero at zero.

    Example:
        >>> x = torch.zeros(1, 3, requires_grad=True)
        >>> torch.autograd.grad(safe_norm(x).sum(), x)[0]
        tensor([[0., 0., 0.]])
    """
    square = x.square().sum(-1)
    # rounding leaves a tiny vector where the exact one is zero, and that has huge derivatives
    none = square <= (8 * torch.finfo(x.dtype).eps) ** 2
    return torch.where(none, 1.0, square).sqrt().masked_fill(none, 0.0)


def pair_invariants(
    offsets: Tensor,
    orientations: Tensor | None = None,
    others: Tensor | None = None,
    *,
    complete: bool = False,
) -> Tensor:
    """Return the attributes of pairs that no motion of space changes.

    Pairs of points have one, their distance. With an orientation at each end, the attributes are
    those of the offset `r` along the one orientation `o` and across it (with a sign in the plane),
    and, where the other orientation `o'` is given, the cosine between both.

    Args:
        offsets: `r`, from the receiver to the sender.
        orientations: `o`, unit vectors that broadcast against the offsets.
        others: `o'`, likewise.
        complete: add `r.o'`. In space the three are the same for some pairs that no motion
            carries into one another; they ignore reflections with or without it.

    Raises:
        InputError: the dimensions of space differ or are others than 2 and 3, or `complete` has
            no second orientation.

    Shapes: `(..., D)` each, giving `(..., A)`.

    Reference: Bekkers et al. 2024, arXiv 2310.02970, theorem 1; the released code takes the
        cosine for the angle, and so do we.

    Example:
        >>> r, o = torch.tensor([3.0, 4.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> pair_invariants(r), pair_invariants(r, o), pair_invariants(r, o, -o)
        (tensor([5.]), tensor([3., 4.]), tensor([ 3.,  4., -1.]))
    """
    if orientations is None:
        return safe_norm(offsets)[..., None]
    size = offsets.shape[-1]
    if size not in (2, 3) or orientations.shape[-1] != size:
        raise InputError(
            f"the offsets have {size} dimensions and the orientations {orientations.shape[-1]}; "
            "both have 2, or both have 3"
        )
    if complete and others is None:
        raise InputError("complete=True adds an attribute of the second orientation: give others")
    along = (offsets * orientations).sum(-1)
    if size == 2:
        across = offsets[..., 1] * orientations[..., 0] - offsets[..., 0] * orientations[..., 1]
    else:
        across = safe_norm(offsets - along[..., None] * orientations)
    found = [along, across]
    if others is not None:
        found.append((orientations * others).sum(-1))
    if complete and others is not None:
        found.append((offsets * others).sum(-1))
    return torch.stack(torch.broadcast_tensors(*found), dim=-1)


def monomials(x: Tensor, degree: int = 3) -> Tensor:
    """Return all products of up to `degree` entries, those that occur several times included.

    Shapes: `(..., A)` to `(..., A + A**2 + … + A**degree)`.

    Example:
        >>> monomials(torch.tensor([2.0, 3.0]), 2)
        tensor([2., 3., 4., 6., 6., 9.])
    """
    found = [x]
    for _ in range(degree - 1):
        found.append((found[-1][..., :, None] * x[..., None, :]).flatten(-2))
    return torch.cat(found, dim=-1)


def envelope(x: Tensor, power: int = 6) -> Tensor:
    """Return a factor that falls from 1 at 0 to 0 at 1, smooth to the second derivative.

    Args:
        x: distances over the radius, not negative.
        power: higher ones stay near 1 for longer.

    Reference: Gasteiger et al. 2020, arXiv 2003.03123, equation 8.

    Example:
        >>> envelope(torch.tensor([0.0, 0.5, 1.0, 2.0]))
        tensor([1.0000, 0.8555, 0.0000, 0.0000])
    """
    p = power
    inside = 1 - x**p * ((p + 1) * (p + 2) / 2 - p * (p + 2) * x + p * (p + 1) / 2 * x.square())
    return torch.where(x < 1, inside, 0.0)
