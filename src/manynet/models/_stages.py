"""What the ready convolutional networks have in common: a stem, and blocks in stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import nn

__all__ = ["MakeBlock", "stages", "stem"]


class MakeBlock(Protocol):
    """Makes one block of a stage, `(B, inputs, H, W)` to `(B, width, H / stride, W / stride)`."""

    def __call__(self, inputs: int, width: int, *, stage: int, stride: int) -> nn.Module:
        """Return the block."""
        ...


def stem(
    channels: int, width: int, *, stride: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Return a convolution of 3 x 3 with batch norm, `(B, channels, H, W)` to `(B, width, …)`."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), activation()
    )


def stages(
    inputs: int, widths: Sequence[int], depths: Sequence[int], block: MakeBlock
) -> list[nn.Sequential]:
    """Return a sequence of blocks for each stage; each stage but the first halves the image.

    Args:
        inputs: channels of what the first block reads.
        widths: channels of each stage.
        depths: blocks of each stage, at least one.
        block: makes a block; only the first of a stage may change channels or have a stride.
    """
    found = []
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        first = block(inputs, width, stage=stage, stride=2 if stage else 1)
        rest = [block(width, width, stage=stage, stride=1) for _ in range(depth - 1)]
        found.append(nn.Sequential(first, *rest))
        inputs = width
    return found
