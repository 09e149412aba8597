"""A small network of blocks with several kernels side by side, whose channels are atomic units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.models._stages import stages, stem

__all__ = ["AtomicBlock", "AtomicCNN", "KernelBranch", "atomic_cnn", "fold_constants"]


class KernelBranch(nn.Module):
    """Wide inside, narrow outside, with one depthwise kernel; what comes out is not normalized.

    A channel of its inside is an *atomic unit*: a row of `expand`, a depthwise filter with its
    norms, and a column of `project`. Nothing else reads it.

    Args:
        inputs: channels that come in.
        hidden: units.
        outputs: channels that go out.
        kernel: of the depthwise convolution.
        stride: 2 halves the image.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False
        )
        self.norm2 = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum over the units."""
        inner = torch.relu(self.norm1(self.expand(images)))
        inner = torch.relu(self.norm2(self.depthwise(inner)))
        return self.project(inner)  # type: ignore[no-any-return] # modules return Any


class AtomicBlock(nn.Module):
    """Branches of different kernels, whose sum is normalized and added to a shortcut.

    A branch that has lost all its units is skipped, and a block that has lost all of them is its
    shortcut. Where shapes do not agree, the shortcut is a 1x1 convolution in as many groups as both
    widths allow.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernels: of the branches, which start with equally many units.
        expansion: how many times wider than the input all branches together are inside.
        stride: 2 halves the image.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.

    Reference: Mei et al. 2020, arXiv 1912.09640 (AtomNAS); Ding et al. 2021, arXiv 2106.06560
    (HR-NAS), without its transformer branch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernels: Sequence[int] = (3, 5),
        expansion: int = 4,
        stride: int = 1,
    ) -> None:
        super().__init__()
        hidden = expansion * inputs // len(kernels)
        self.branches = nn.ModuleDict(
            {
                f"kernel{k}": KernelBranch(inputs, hidden, outputs, kernel=k, stride=stride)
                for k in kernels
            }
        )
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            groups = math.gcd(inputs, outputs)
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, groups=groups, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return what the block makes of `images`."""
        result: Tensor = self.shortcut(images)
        alive = [b for b in self.branches.values() if b.expand.out_channels]  # type: ignore[union-attr]
        if alive:
            inner = alive[0](images)
            for branch in alive[1:]:
                inner = inner + branch(images)
            result = result + self.norm(inner)
        return result


class AtomicCNN(nn.Module):
    """Stages of atomic blocks, each but the first half the image.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each stage; the stem has those of the first.
        depths: blocks of each stage.
        kernels: of the branches of every block.
        expansion: of every block.
        stride: of the stem.

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
        stride: int,
    ) -> None:
        super().__init__()
        self.stem = stem(channels, widths[0], stride=stride, activation=nn.ReLU)

        def block(inputs: int, width: int, *, stage: int, stride: int) -> nn.Module:
            return AtomicBlock(inputs, width, kernels=kernels, expansion=expansion, stride=stride)

        self.blocks = nn.Sequential(*chain(*stages(widths[0], widths, depths, block)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        features = torch.relu(self.blocks(self.stem(images))).mean((2, 3))
        return self.head(features)  # type: ignore[no-any-return] # modules return Any


def atomic_cnn(
    classes: int = 10,
    channels: int = 3,
    *,
    widths: Sequence[int] = (24, 48, 96),
    depths: Sequence[int] = (2, 2, 2),
    kernels: Sequence[int] = (3, 5),
    expansion: int = 4,
    stride: int = 2,
) -> AtomicCNN:
    """Return a small network whose channels can be searched one by one, for 24 by 24 pixels or so.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each stage.
        depths: blocks of each stage.
        kernels: of the branches of every block.
        expansion: how many times wider the blocks are inside, all branches together.
        stride: of the stem.

    Raises:
        InputError: the two differ in length, or hold what no network can have.

    Example:
        >>> atomic_cnn()(torch.zeros(2, 3, 24, 24)).shape
        torch.Size([2, 10])
    """
    if len(widths) != len(depths) or not widths or not kernels:
        raise InputError(
            f"atomic_cnn got {len(widths)} widths, {len(depths)} depths and {len(kernels)} "
            "kernels; give a width and a depth for every stage, and at least one kernel"
        )
    if min(classes, channels, expansion, stride, *widths, *depths) < 1 or any(
        k % 2 == 0 for k in kernels
    ):
        raise InputError("atomic_cnn needs sizes of at least 1 and odd kernels")
    if len(set(kernels)) < len(kernels) or expansion * min(widths) < len(kernels):
        raise InputError("atomic_cnn needs kernels that differ, and a unit for each of them")
    return AtomicCNN(
        classes,
        channels,
        widths=widths,
        depths=depths,
        kernels=kernels,
        expansion=expansion,
        stride=stride,
    )


@torch.no_grad()
def fold_constants(network: nn.Module, units: Mapping[str, Sequence[int]]) -> None:
    """Take out of the norms behind atomic blocks what units that say nothing still add.

    A unit whose last scale is zero adds its shift, cut at zero, times its column of `project`: the
    same everywhere. The running mean behind the sum loses that, in place, so that leaving out the
    unit changes nothing in evaluation mode. (In training mode the norm does so by itself.)

    Args:
        network: with `AtomicBlock`s.
        units: the units that are about to be left out, by the path of their `KernelBranch`.
    """
    for path, module in network.named_modules():
        if not isinstance(module, AtomicBlock):
            continue
        for kernel, branch in module.branches.items():
            gone = list(units.get(f"{path}.branches.{kernel}", ()))
            if gone:
                assert isinstance(branch, KernelBranch)
                constant = torch.relu(branch.norm2.bias[gone])
                mean = module.norm.running_mean
                assert mean is not None
                mean -= branch.project.weight[:, gone, 0, 0] @ constant
