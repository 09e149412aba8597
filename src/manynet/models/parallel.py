"""A network of several resolutions side by side, all of atomic blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.errors import InputError
from manynet.models._stages import stem
from manynet.models.atomic import AtomicBlock, check_blocks

__all__ = ["Exchange", "ParallelCNN", "parallel_cnn"]


class Exchange(nn.Module):
    """Gives each resolution what itself and its neighbors hold, in blocks that may die.

    What comes from the next finer one is halved by its block, what comes from the next coarser one
    is enlarged after it. A resolution that was not there before begins with what the finest but one
    gives it.

    Args:
        widths: channels of each resolution, the finest first.
        before: resolutions that come in.
        after: those that go out: as many, or one more.
        **how: of `AtomicBlock`.

    Shapes: a list of `(B, widths[i], H / 2**i, W / 2**i)`, in and out.
    """

    def __init__(self, widths: Sequence[int], before: int, after: int, **how: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict()
        for to in range(after):
            for come in range(max(0, to - 1), min(before, to + 2)):
                stride = 2 if come < to else 1
                block = AtomicBlock(widths[come], widths[to], stride=stride, **how)
                self.blocks[f"{come}_{to}"] = block

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        """Return what each resolution has after the exchange."""
        found: dict[int, Tensor] = {}
        for name, block in self.blocks.items():
            come, to = map(int, name.split("_"))
            result = block(images[come])
            if come > to:
                result = functional.interpolate(result, images[to].shape[-2:])
            found[to] = found[to] + result if to in found else result
        return list(found.values())


class ParallelCNN(nn.Module):
    """Stages of more and more resolutions side by side, and a head that reads all of the last.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each resolution, the finest first.
        resolutions: how many each stage has.
        depth: blocks of each resolution in a stage, after the exchange.
        stride: of the stem.
        **how: of `AtomicBlock`.

    Shapes: `(B, channels, H, W)` to `(B, classes)`.

    Reference: Ding et al. 2021, arXiv 2106.06560 (HR-NAS).
    """

    def __init__(
        self,
        classes: int,
        channels: int,
        *,
        widths: Sequence[int],
        resolutions: Sequence[int],
        depth: int,
        stride: int,
        **how: Any,
    ) -> None:
        super().__init__()
        self.stem = stem(channels, widths[0], stride=stride, activation=nn.ReLU)
        before = [1, *resolutions[:-1]]
        self.exchanges = nn.ModuleList(
            Exchange(widths, old, new, **how) for old, new in zip(before, resolutions, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(*(AtomicBlock(width, width, **how) for _ in range(depth)))
                for width in widths[:count]
            )
            for count in resolutions
        )
        self.head = nn.Linear(sum(widths[: resolutions[-1]]), classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        inner = [self.stem(images)]
        for exchange, stage in zip(self.exchanges, self.stages, strict=True):
            assert isinstance(stage, nn.ModuleList)
            pairs = zip(stage, exchange(inner), strict=True)
            inner = [torch.relu(blocks(one)) for blocks, one in pairs]
        features = torch.cat([one.mean((2, 3)) for one in inner], 1)
        return self.head(features)  # type: ignore[no-any-return] # modules return Any


def parallel_cnn(
    classes: int = 10,
    channels: int = 3,
    *,
    widths: Sequence[int] = (18, 36, 72, 144),
    resolutions: Sequence[int] = (1, 2, 3, 4, 4),
    depth: int = 1,
    kernels: Sequence[int] = (3, 5, 7),
    expansion: int = 4,
    stride: int = 2,
    tokens: int = 0,
    side: int = 4,
) -> ParallelCNN:
    """Return a network of resolutions side by side whose channels can be searched one by one.

    Args:
        classes: outputs.
        channels: channels of the images.
        widths: channels of each resolution, the finest first; each is half as large as the last.
        resolutions: how many each stage has: as many as the one before, or one more.
        depth: blocks of each resolution in a stage, after the exchange.
        kernels: of the branches of every block.
        expansion: how many times wider the blocks are inside, all branches of kernels together.
        stride: of the stem.
        tokens: of every block's light transformer (HR-NAS has 64); 0 for none.
        side: of the tokens, and how many heads look at them (HR-NAS has 8).

    Raises:
        InputError: the numbers of resolutions do not rise so, there are too few widths, or the
            blocks would hold what none can have.

    Example:
        >>> parallel_cnn(widths=(6, 9), resolutions=(1, 2))(torch.zeros(2, 3, 24, 24)).shape
        torch.Size([2, 10])
    """
    rises = [new - old for old, new in zip((1, *resolutions), resolutions, strict=False)]
    if not resolutions or any(rise not in (0, 1) for rise in rises):
        raise InputError(
            f"parallel_cnn(resolutions={tuple(resolutions)}): give one number a stage; each is "
            "that before (1 before the first) or one more"
        )
    if max(resolutions) > len(widths):
        raise InputError(
            f"parallel_cnn has {max(resolutions)} resolutions and {len(widths)} widths; give each "
            "resolution a width"
        )
    sizes = (classes, channels, depth, expansion, stride, side, *widths)
    check_blocks("parallel_cnn", sizes, widths, kernels, expansion=expansion, tokens=tokens)
    return ParallelCNN(
        classes,
        channels,
        widths=widths,
        resolutions=resolutions,
        depth=depth,
        stride=stride,
        kernels=kernels,
        expansion=expansion,
        tokens=tokens,
        side=side,
    )
