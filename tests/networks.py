"""Small networks that the tests turn into families, one for each way in which channels hang on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Modules by name, and a function that calls them."""

    def __init__(self, forward: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.call = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, *inputs: Any) -> Any:
        return self.call(self, *inputs)


class Residual(nn.Module):
    """A convolution, two residual blocks, one with a projection, and a classifier."""

    class Block(nn.Module):
        def __init__(self, width: int, kernel: int = 3) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(width, 2 * width, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(2 * width)
            self.conv2 = nn.Conv2d(
                2 * width, 2 * width, kernel, padding=kernel // 2, groups=2 * width, bias=False
            )
            self.bn2 = nn.BatchNorm2d(2 * width)
            self.conv3 = nn.Conv2d(2 * width, width, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.bn1(self.conv1(x)))
            return x + self.conv3(torch.relu(self.bn2(self.conv2(y))))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(self.Block(8, 5), self.Block(8, 3))
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.tail = nn.ModuleList([self.Block(16, 5)])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.blocks(self.stem(x)))
        for block in self.tail:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Dense(nn.Module):
    """Concatenated features, as in DenseNet, into a flattened classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.c = nn.Conv2d(10, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.a(x))
        y = torch.cat([a, torch.relu(self.b(a))], 1)
        return self.head(self.pool(torch.relu(self.c(self.norm(y)))).flatten(1))


class Attention(nn.Module):
    """One attention layer with a fused projection, and a gated layer after it."""

    def __init__(self, heads: int = 4, width: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.embed = nn.Linear(10, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width, 2 * 24)
        self.down = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, t, c = x.shape
        qkv = self.qkv(self.norm(x)).reshape(b, t, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, c))
        up, gate = self.gate(x).chunk(2, -1)
        return self.down(up * torch.sigmoid(gate)).mean(1)


class Tied(nn.Module):
    """Two layers that use one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 12)
        self.b = nn.Linear(12, 12, bias=False)
        self.c = nn.Linear(12, 12)
        self.c.weight = self.b.weight
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x))
        return self.head(torch.relu(self.c(torch.relu(self.b(x)))) + x)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5)
    )


IMAGE, ROWS, TOKENS = (2, 3, 8, 8), (4, 6), (2, 7, 10)

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, ROWS),
    "residual": (Residual, IMAGE),
    "dense": (Dense, IMAGE),
    "attention": (Attention, TOKENS),
    "tied": (Tied, ROWS),
}
"""By name: how to build it, and the shape of its input."""


def make(name: str, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """Return a network whose norms are not trivial, in evaluation mode, and an input."""
    build, shape = NETWORKS[name]
    torch.manual_seed(seed)
    model = build()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.rand_like(parameter))
    return model.eval(), torch.randn(shape)
