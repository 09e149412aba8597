"""A small family whose members are built anew: costs need no shared weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manynet.space import Arch, Choice, Space


class ToyNet(nn.Module):
    """Two stages; the second one may be left out, and has an elastic kernel inside."""

    def __init__(self, arch: Mapping[str, Any]) -> None:
        super().__init__()
        first, second, kernel = arch["stem.width"], arch["block.width"], arch["block.kernel"]
        self.stem = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(first)
        blocks = [
            nn.Sequential(
                nn.Conv2d(first, second, kernel, padding=kernel // 2),
                nn.ReLU(),
                nn.Conv2d(second, first, 1),
            )
            for _ in range(arch["depth"])
        ]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(first, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


class ToyFamily:
    """What a cost sees of a family; counts how often a member was asked for."""

    def __init__(self, net: type[nn.Module] = ToyNet) -> None:
        active = {"depth": (1, 2)}
        self.space = Space(
            (
                Choice("stem.width", (4, 8, 12, 16)),
                Choice("block.width", (4, 8, 16, 32), active),
                Choice("block.kernel", (1, 3, 5), active),
                Choice("depth", (0, 1, 2)),
            )
        )
        self.net = net
        self.example_inputs = (torch.randn(3, 3, 10, 10),)
        self.asked = 0

    def at(self, arch: Arch) -> nn.Module:
        self.asked += 1
        return self.net(arch).eval()
