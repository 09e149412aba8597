"""A small network of inverted residual blocks, in the way of MobileNetV3 and EfficientNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.errors import InputError
from manynet.models._stages import stages, stem

__all__ = ["InvertedResidual", "MobileCNN", "mobile_cnn"]


class SqueezeExcite(nn.Module):
    """Scales each channel by what all channels of the image say.

    Shapes: `(B, channels, H, W)` to the same.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scaled channels."""
        means = functional.silu(self.reduce(images.mean((2, 3), keepdim=True)))
        return images * torch.sigmoid(self.expand(means))


class InvertedResidual(nn.Module):
    """Wide inside, narrow outside, with a shortcut around it whatever its stride and width.

    The last norm starts at zero, so that every block starts as its shortcut: a deep member and a
    shallow one then start as the same function. A block that halves the image has an average
    pooling in its shortcut, one that changes the width a 1x1 convolution.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        expansion: how many times wider it is inside.
        kernel: of the depthwise convolution.
        stride: 2 halves the image.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.

    Reference: Sandler et al. 2018, arXiv 1801.04381; the shortcuts and the zero are those of Yu et
    al., "BigNAS", 2020, arXiv 2003.11142, section 3.2.
    """

    def __init__(
        self, inputs: int, outputs: int, *, expansion: int = 4, kernel: int = 3, stride: int = 1
    ) -> None:
        super().__init__()
        inside = expansion * inputs
        self.expand = nn.Conv2d(inputs, inside, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(inside)
        self.depthwise = nn.Conv2d(
            inside, inside, kernel, stride, kernel // 2, groups=inside, bias=False
        )
        self.norm2 = nn.BatchNorm2d(inside)
        self.excite = SqueezeExcite(inside, max(4, inputs // 4))
        self.project = nn.Conv2d(inside, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.norm3.weight)
        shortcut: list[nn.Module] = [nn.AvgPool2d(stride)] if stride > 1 else []
        if inputs != outputs:
            shortcut.append(nn.Conv2d(inputs, outputs, 1, bias=False))
        self.shortcut = nn.Sequential(*shortcut)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the block makes of `images`."""
        inner = functional.silu(self.norm1(self.expand(images)))
        inner = self.excite(functional.silu(self.norm2(self.depthwise(inner))))
        result: Tensor = self.shortcut(images) + self.norm3(self.project(inner))
        return result


class MobileCNN(nn.Module):
    """Stages of inverted residual blocks, each but the first half the image.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of the stem and of each stage.
        depths: blocks of each stage; the first of a stage cannot be left out.
        kernels: kernel of each stage's blocks.
        expansion: of every block.
        dropout: before the last layer.

    Shapes: `(B, channels, H, W)` to `(B, classes)`.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        *,
        widths: Sequence[int],
        depths: Sequence[int],
        kernels: Sequence[int],
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        first, *rest = widths
        self.stem = stem(channels, first, stride=2, activation=nn.SiLU)

        def block(inputs: int, width: int, *, stage: int, stride: int) -> nn.Module:
            kernel = kernels[stage]
            return InvertedResidual(
                inputs, width, expansion=expansion, kernel=kernel, stride=stride
            )

        self.stages = nn.Sequential(*stages(first, rest, depths, block))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        features = functional.silu(self.norm(self.stages(self.stem(images)))).mean((2, 3))
        return self.head(self.dropout(features))  # type: ignore[no-any-return] # as above


def mobile_cnn(
    classes: int = 10,
    channels: int = 3,
    *,
    widths: Sequence[int] = (16, 24, 40, 64),
    depths: Sequence[int] = (3, 3, 3),
    kernels: Sequence[int] = (5, 5, 5),
    expansion: int = 4,
    dropout: float = 0.0,
) -> MobileCNN:
    """Return a small MobileNet with squeeze-and-excite, by default for 32 by 32 pixels.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of the stem and of each stage.
        depths: blocks of each stage.
        kernels: size of each stage's kernels.
        expansion: how many times wider the blocks are inside.
        dropout: before the last layer.

    Raises:
        InputError: the three differ in length, or hold what no network can have.

    Example:
        >>> mobile_cnn()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if len(depths) != len(kernels) or len(widths) != len(depths) + 1 or not depths:
        raise InputError(
            f"mobile_cnn got {len(widths)} widths, {len(depths)} depths and {len(kernels)} "
            "kernels; give a depth and a kernel for every stage, and one width more, for the stem"
        )
    if min(classes, channels, expansion, *widths, *depths) < 1 or any(k % 2 == 0 for k in kernels):
        raise InputError("mobile_cnn needs sizes of at least 1 and odd kernels")
    return MobileCNN(
        classes,
        channels,
        widths=widths,
        depths=depths,
        kernels=kernels,
        expansion=expansion,
        dropout=dropout,
    )
