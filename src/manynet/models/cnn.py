"""Small networks that train in a minute on a laptop: plain modules, ready to be made elastic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.models._stages import stages, stem

__all__ = ["ResidualBlock", "SmallCNN", "mlp", "small_cnn"]


class ResidualBlock(nn.Module):
    """Two convolutions, the first with a larger kernel, around which the input goes.

    The last norm starts at zero, so that every block starts as its shortcut and deep members
    train as easily as shallow ones.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        stride: 2 halves the image.
        kernel: size of the first convolution.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        nn.init.zeros_(self.norm2.weight)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return what the block makes of `images`."""
        inner = torch.relu(self.norm1(self.conv1(images)))
        return torch.relu(self.norm2(self.conv2(inner)) + self.shortcut(images))


class SmallCNN(nn.Module):
    """A residual network in a few stages, each half the image and more channels.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each stage.
        depths: blocks of each stage; the first of a stage cannot be left out.
        kernels: kernel of each stage's blocks.

    Shapes: `(B, channels, H, W)` to `(B, classes)`.
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        kernels: Sequence[int],
    ) -> None:
        super().__init__()
        self.stem = stem(channels, widths[0], stride=1, activation=nn.ReLU)

        def block(inputs: int, width: int, *, stage: int, stride: int) -> nn.Module:
            return ResidualBlock(inputs, width, stride=stride, kernel=kernels[stage])

        self.stages = nn.Sequential(*stages(widths[0], widths, depths, block))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        features = self.pool(self.stages(self.stem(images)))
        return self.head(features.flatten(1))  # type: ignore[no-any-return] # modules return Any


def small_cnn(
    classes: int = 10,
    channels: int = 1,
    *,
    widths: Sequence[int] = (16, 32),
    depths: Sequence[int] = (2, 2),
    kernels: Sequence[int] = (3, 3),
) -> SmallCNN:
    """Return a small residual network, by default for images of 8 by 8 to 32 by 32 pixels.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each stage.
        depths: blocks of each stage.
        kernels: size of each stage's kernels.

    Raises:
        InputError: the three differ in length, or hold what no network can have.

    Example:
        >>> small_cnn()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if len({len(widths), len(depths), len(kernels)}) > 1 or not widths:
        raise InputError(
            f"small_cnn got {len(widths)} widths, {len(depths)} depths and {len(kernels)} kernels; "
            "give one of each for every stage"
        )
    if min(classes, channels, *widths, *depths) < 1 or any(kernel % 2 == 0 for kernel in kernels):
        raise InputError("small_cnn needs sizes of at least 1 and odd kernels")
    return SmallCNN(classes, channels, widths, depths, kernels)


def mlp(
    inputs: int, classes: int, *, widths: Sequence[int] = (256, 256, 256), dropout: float = 0.0
) -> nn.Sequential:
    """Return a plain network of linear layers, for rows of numbers.

    Args:
        inputs: numbers a row; images are flattened.
        classes: outputs.
        widths: of the hidden layers.
        dropout: after each hidden layer.

    Example:
        >>> mlp(64, 10, widths=(32,))
        Sequential(
          (0): Flatten(start_dim=1, end_dim=-1)
          (1): Linear(in_features=64, out_features=32, bias=True)
          (2): ReLU()
          (3): Linear(in_features=32, out_features=10, bias=True)
        )
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, classes))
