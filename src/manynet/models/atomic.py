"""A small network of blocks with several kernels side by side, whose channels are atomic units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.errors import InputError
from manynet.models._stages import stages, stem

__all__ = [
    "AtomicBlock",
    "AtomicCNN",
    "KernelBranch",
    "TokenBranch",
    "atomic_cnn",
    "check_blocks",
    "fold_constants",
]


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


class TokenAttention(nn.Module):
    """Attention between tokens, then two layers for each of them, both added to what comes in.

    Nothing in it hangs on the number of the tokens, nor on their order.

    Args:
        size: numbers of a token.
        heads: that divide it.

    Shapes: `(B, T, size)` to the same.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.out = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.mlp = nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens after they have seen each other."""
        batch, count, size = tokens.shape
        parts = self.qkv(self.before(tokens)).view(batch, count, 3, self.heads, size // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, size / heads) each
        seen = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(seen.transpose(1, 2).reshape(batch, count, size))
        return tokens + self.mlp(self.between(tokens))  # type: ignore[no-any-return]


class TokenBranch(nn.Module):
    """A light transformer whose tokens are channels: it sees the whole image at once.

    The image and the place of each pixel are projected to a few channels, each of which is pooled
    to a small square: a token. Attention between the tokens takes work in proportion to the square
    of their number. What comes out is as large as the image again, and is not normalized.

    A token is an *atomic unit*: a row of `expand`, a scale of `norm2` and a column of `project`.
    Other tokens read it, so what a silent one says to them is lost when it goes.

    Args:
        inputs: channels that come in.
        hidden: units.
        outputs: channels that go out.
        side: of the squares.
        heads: of the attention; they divide the numbers of a square.
        stride: 2 halves the image.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.

    Reference: Ding et al. 2021, arXiv 2106.06560 (HR-NAS). Its decoder is left out.
    """

    def __init__(
        self, inputs: int, hidden: int, outputs: int, *, side: int, heads: int, stride: int
    ) -> None:
        super().__init__()
        self.side, self.stride = side, stride
        self.expand = nn.Conv2d(inputs + 2, hidden, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)  # named as in `KernelBranch`: its scales are searched
        self.attention = TokenAttention(side * side, heads)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the tokens say of each place."""
        height, width = images.shape[-2:]
        inner = torch.relu(self.norm2(self.expand(torch.cat([images, _places(images)], 1))))
        tokens = functional.adaptive_avg_pool2d(inner, self.side).flatten(2)
        squares = self.attention(tokens).unflatten(2, (self.side, self.side))
        size = [(length - 1) // self.stride + 1 for length in (height, width)]
        spread = functional.interpolate(squares, size, mode="bilinear", align_corners=False)
        return self.project(spread)  # type: ignore[no-any-return] # modules return Any


def _places(images: Tensor) -> Tensor:
    """Return how far down and to the right each pixel is, from -1 to 1, `(B, 2, H, W)`."""
    down, right = (
        torch.linspace(-1, 1, length, dtype=images.dtype, device=images.device)
        for length in images.shape[-2:]
    )
    places = torch.stack(torch.meshgrid(down, right, indexing="ij"))
    return places.expand(images.shape[0], -1, -1, -1)


class AtomicBlock(nn.Module):
    """Branches of different kernels, whose sum is normalized and added to a shortcut.

    A branch that has lost all its units is skipped, and a block that has lost all of them is its
    shortcut. Where shapes do not agree, the shortcut is a 1x1 convolution in as many groups as both
    widths allow.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        kernels: of the branches, which start with equally many units.
        expansion: how many times wider than the input all branches of kernels together are inside.
        stride: 2 halves the image.
        tokens: units of a light transformer beside them, `TokenBranch`; 0 for none.
        side: of its tokens.

    Shapes: `(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`.

    Reference: Mei et al. 2020, arXiv 1912.09640 (AtomNAS); Ding et al. 2021, arXiv 2106.06560
    (HR-NAS).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernels: Sequence[int] = (3, 5),
        expansion: int = 4,
        stride: int = 1,
        tokens: int = 0,
        side: int = 4,
    ) -> None:
        super().__init__()
        hidden = expansion * inputs // len(kernels)
        branches: dict[str, nn.Module] = {
            f"kernel{k}": KernelBranch(inputs, hidden, outputs, kernel=k, stride=stride)
            for k in kernels
        }
        if tokens:
            branches["tokens"] = TokenBranch(
                inputs, tokens, outputs, side=side, heads=side, stride=stride
            )
        self.branches = nn.ModuleDict(branches)
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
        tokens: of every block's light transformer; 0 for none.
        side: of the tokens.

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
        tokens: int,
        side: int,
    ) -> None:
        super().__init__()
        self.stem = stem(channels, widths[0], stride=stride, activation=nn.ReLU)

        def block(inputs: int, width: int, *, stage: int, stride: int) -> nn.Module:
            how = {"kernels": kernels, "expansion": expansion, "tokens": tokens, "side": side}
            return AtomicBlock(inputs, width, stride=stride, **how)  # type: ignore[arg-type]

        self.blocks = nn.Sequential(*chain(*stages(widths[0], widths, depths, block)))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        features = torch.relu(self.blocks(self.stem(images))).mean((2, 3))
        return self.head(features)  # type: ignore[no-any-return] # modules return Any


def check_blocks(
    name: str,
    sizes: Sequence[int],
    widths: Sequence[int],
    kernels: Sequence[int],
    *,
    expansion: int,
    tokens: int,
) -> None:
    """Refuse what no network of `AtomicBlock`s can have.

    Raises:
        InputError: one of `sizes` is below 1, or kernels or tokens do not fit.
    """
    if min(sizes) < 1 or tokens < 0 or not kernels or any(k % 2 == 0 for k in kernels):
        raise InputError(f"{name} needs sizes of at least 1, tokens or none, and odd kernels")
    if len(set(kernels)) < len(kernels) or expansion * min(widths) < len(kernels):
        raise InputError(f"{name} needs kernels that differ, and a unit for each of them")


def atomic_cnn(
    classes: int = 10,
    channels: int = 3,
    *,
    widths: Sequence[int] = (24, 48, 96),
    depths: Sequence[int] = (2, 2, 2),
    kernels: Sequence[int] = (3, 5),
    expansion: int = 4,
    stride: int = 2,
    tokens: int = 0,
    side: int = 4,
) -> AtomicCNN:
    """Return a small network whose channels can be searched one by one, for 24 by 24 pixels or so.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each stage.
        depths: blocks of each stage.
        kernels: of the branches of every block.
        expansion: how many times wider the blocks are inside, all branches of kernels together.
        stride: of the stem.
        tokens: of every block's light transformer (HR-NAS has 64); 0 for none.
        side: of the tokens, and how many heads look at them (HR-NAS has 8).

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
    sizes = (classes, channels, expansion, stride, side, *widths, *depths)
    check_blocks("atomic_cnn", sizes, widths, kernels, expansion=expansion, tokens=tokens)
    return AtomicCNN(
        classes,
        channels,
        widths=widths,
        depths=depths,
        kernels=kernels,
        expansion=expansion,
        stride=stride,
        tokens=tokens,
        side=side,
    )


@torch.no_grad()
def fold_constants(network: nn.Module, units: Mapping[str, Sequence[int]]) -> None:
    """Take out of the norms behind atomic blocks what units that say nothing still add.

    A unit whose last scale is zero adds its shift, cut at zero, times its column of `project`: the
    same everywhere. The running mean behind the sum loses that, in place, so that leaving out the
    unit changes nothing in evaluation mode. (In training mode the norm does so by itself.) What a
    token of a `TokenBranch` says to the others is no constant, and is not folded.

    Args:
        network: with `AtomicBlock`s.
        units: the units that are about to be left out, by the path of their `KernelBranch`.
    """
    for path, module in network.named_modules():
        if not isinstance(module, AtomicBlock):
            continue
        for kernel, branch in module.branches.items():
            gone = list(units.get(f"{path}.branches.{kernel}", ()))
            if gone and isinstance(branch, KernelBranch):
                constant = torch.relu(branch.norm2.bias[gone])
                mean = module.norm.running_mean
                assert mean is not None
                mean -= branch.project.weight[:, gone, 0, 0] @ constant
