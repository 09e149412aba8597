"""Augmentation of a whole batch at once, so that all members of a step see the same images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from manynet.errors import InputError

__all__ = ["crop_and_flip"]


def crop_and_flip(padding: int = 4, *, flip: bool = True) -> Callable[[Tensor], Tensor]:
    """Return a function that shifts each image at random and mirrors half of them.

    Hand it to `train` as `augment`. It draws from torch's own generator, which `train` seeds.

    Args:
        padding: pixels by which an image may move in each direction; the gap is filled with 0,
            the mean colour of normalised images.
        flip: mirror left and right, which is wrong for digits and letters.

    Returns:
        a function from `(B, C, H, W)` to a new tensor of the same shape.

    Raises:
        InputError: `padding` is negative, or the function is handed something else than images.

    Example:
        >>> images = torch.ones(2, 3, 8, 8)
        >>> crop_and_flip(1)(images).shape
        torch.Size([2, 3, 8, 8])
    """
    if padding < 0:
        raise InputError(f"padding is {padding}; it must be 0 or more pixels")

    def augment(images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise InputError(
                f"crop_and_flip got inputs of shape {tuple(images.shape)}; it augments images of "
                "shape (batch, channels, height, width): leave it out for other data"
            )
        return _shifted(images, padding, flip)

    return augment


def _shifted(images: Tensor, padding: int, flip: bool) -> Tensor:
    count, channels, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (padding,) * 4)
    down = torch.randint(2 * padding + 1, (count, 1), device=device)
    right = torch.randint(2 * padding + 1, (count, 1), device=device)
    rows = down + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = right + columns
    sample = torch.arange(count, device=device).view(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return padded[sample, channel, rows.view(count, 1, -1, 1), columns.view(count, 1, 1, -1)]
