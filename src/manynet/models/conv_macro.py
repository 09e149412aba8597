"""A plain chain of wide convolutions: the space of TangleNAS's first experiments, made small.

Letters in shapes: `B` batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["conv_macro"]


def conv_macro(
    classes: int = 10,
    channels: int = 1,
    *,
    widths: Sequence[int] = (8, 16, 32, 64),
    kernel: int = 7,
) -> nn.Sequential:
    """Return convolutions of large kernels, one of 7 by 7 that stays, and two linear layers.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of the convolutions; the image is halved after the first two.
        kernel: their kernels, odd.

    Example:
        >>> import torch
        >>> conv_macro()(torch.zeros(2, 1, 16, 16)).shape
        torch.Size([2, 10])

    Shapes: `(B, channels, 16, 16)` to `(B, classes)`.

    Reference: Sukthanker et al. 2023, arXiv 2312.10440. Ours has a quarter of the channels, smaller
    images, and two linear layers instead of four; where theirs pools was not confirmed.
    """
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise((channels, *widths))):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2), nn.BatchNorm2d(after)]
        layers += [nn.ReLU(), nn.MaxPool2d(2) if number < 2 else nn.Identity()]
    layers += [nn.Conv2d(widths[-1], 32, 7, padding=2), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * 32, 64), nn.ReLU(), nn.Linear(64, classes))
