"""What a block was given and what it returned, among all arguments and results."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from manynet._inputs import tensors_in

__all__ = ["stream"]


def stream(
    args: tuple[object, ...], kwargs: Mapping[str, object], outputs: object
) -> tuple[Tensor | None, Tensor]:
    """Return the tensor that a block was given and the one that it made of it.

    The latter is the first that it returns, the former the first argument that is like it; None
    where there is none.
    """
    after = tensors_in(outputs)[0]
    given = tensors_in((args, kwargs))
    return next(
        (x for x in given if x.shape == after.shape and x.dtype == after.dtype), None
    ), after
