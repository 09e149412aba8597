"""GPTQ: integers that heed what goes into a layer.

Letters of shapes: `O` outputs, `I` inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manynet.bindings.codes import levels_of
from manynet.bindings.pack import Integers
from manynet.errors import InputError

__all__ = ["gptq"]

_COLUMNS = 128  # errors are passed on to the columns behind so many at once


@torch.no_grad()
def gptq(
    weight: Tensor,
    gram: Tensor,
    bits: int,
    *,
    per: str | int = 32,
    symmetric: bool = False,
    damping: float = 0.01,
) -> Integers:
    """Return a linear weight as integers whose errors make up for each other on given inputs.

    Columns are rounded one after the other, and the error of each is passed on to those that are
    not rounded yet, so that the layer's outputs change least. The levels of a group follow from its
    entries when its first column is reached.

    Args:
        weight: of a linear layer.
        gram: `X.T @ X` of its inputs, as `input_grams` returns; any factor does not matter.
        bits: of the integers, from 2 to 8.
        per: `"channel"`, or how many entries of a row have a scale of their own.
        symmetric: whether zero is the middle of the levels.
        damping: this share of the mean of the gram's diagonal is added to it.

    Raises:
        InputError: the shapes do not fit, or groups do not divide the inputs.

    Shapes: `(O, I)` and `(I, I)`.

    Reference: Frantar et al. 2022, arXiv 2210.17323.

    Example:
        >>> own = gptq(torch.randn(4, 8), torch.eye(8), 4, per=8)
        >>> (own.weight() - own.weight().round()).shape
        torch.Size([4, 8])
    """
    outputs, inputs = weight.shape
    size = inputs if per == "channel" else per
    if not isinstance(size, int) or inputs % size or gram.shape != (inputs, inputs):
        raise InputError(
            f"gptq of a weight {tuple(weight.shape)} with a gram {tuple(gram.shape)} and "
            f"per={per!r}: give the gram of its inputs, and 'channel' or a divisor of {inputs}"
        )
    upper = _inverse_root(gram.double(), damping).float()
    left = weight.detach().float().clone()
    codes = torch.empty(outputs, inputs, dtype=torch.uint8, device=weight.device)
    groups = inputs // size
    scales = torch.empty(outputs, groups, dtype=torch.float16, device=weight.device)
    zeros = torch.empty(outputs, groups, device=weight.device)
    step, zero = scales[:, :1].float(), zeros[:, :1]
    for start in range(0, inputs, _COLUMNS):
        end = min(start + _COLUMNS, inputs)
        errors = left.new_empty(outputs, end - start)
        for column in range(start, end):
            if column % size == 0:
                ahead = left[:, column : column + size]
                if column + size > end:  # the group's rest has not had this block's errors yet
                    ahead = ahead.clone()
                    done = slice(0, column - start)
                    ahead[:, end - column :] -= (
                        errors[:, done] @ upper[start:column, end : column + size]
                    )
                half, found = levels_of(ahead, bits, symmetric=symmetric)
                zero = torch.full_like(half, 2 ** (bits - 1)).float() if found is None else found
                step = half.float()
                scales[:, column // size], zeros[:, column // size] = half[:, 0], zero[:, 0]
            own = left[:, column : column + 1]
            code = ((own / step).round() + zero).clamp(0, 2**bits - 1)
            codes[:, column] = code[:, 0].to(torch.uint8)
            error = (own - (code - zero) * step) / upper[column, column]
            left[:, column:end] -= error @ upper[column : column + 1, column:end]
            errors[:, column - start] = error[:, 0]
        left[:, end:] -= errors @ upper[start:end, end:]
    point = None if symmetric else zeros.view(-1, 1)
    rows, scale = codes.view(outputs * groups, size), scales.view(-1, 1)
    return Integers(rows, scale, point, bits, tuple(weight.shape), None, weight.dtype)


def _inverse_root(gram: Tensor, damping: float) -> Tensor:
    """Return the upper Cholesky factor of the inverse of a damped gram."""
    gram = gram.clone()
    diagonal = gram.diagonal()
    mean = float(diagonal.mean())
    diagonal += damping * mean if mean > 0 else 1.0
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    upper: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return upper
