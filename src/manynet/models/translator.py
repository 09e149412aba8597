"""A small encoder and decoder for translation, whose queries and keys have a width of their own.

Letters in shapes: `B` batch, `S` source tokens, `T` target tokens, `V` vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Translator"]


class Attention(nn.Module):
    """Attention whose inner width does not follow the network's, as in HAT."""

    def __init__(self, width: int, other: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, inner // heads
        self.q, self.k = nn.Linear(width, inner), nn.Linear(other, inner)
        self.v, self.out = nn.Linear(other, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in (self.q(x), self.k(other), self.v(other))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Feed(nn.Module):
    """The two linear layers that hold the experts."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(x)))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """Attention and feed-forward, each with its norm before it."""

    def __init__(self, width: int, inner: int, feed: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, width, inner, heads)
        self.norm2, self.feed = nn.LayerNorm(width), Feed(width, feed)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        inner = self.norm1(x)
        x = x + self.attn(inner, inner, mask)
        return x + self.feed(self.norm2(x))  # type: ignore[no-any-return]


class DecoderLayer(nn.Module):
    """The same, and attention to the encoder's outputs between."""

    def __init__(self, width: int, other: int, inner: int, feed: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, width, inner, heads)
        self.norm2, self.cross = nn.LayerNorm(width), Attention(width, other, inner, heads)
        self.norm3, self.feed = nn.LayerNorm(width), Feed(width, feed)

    def forward(self, x: Tensor, memory: Tensor, before: Tensor, mask: Tensor) -> Tensor:
        inner = self.norm1(x)
        x = x + self.attn(inner, inner, before)
        x = x + self.cross(self.norm2(x), memory, mask)
        return x + self.feed(self.norm3(x))  # type: ignore[no-any-return]


class Translator(nn.Module):
    """Reads a sentence and guesses the next piece of its translation.

    Args:
        vocabulary: pieces; number 0 pads.
        width: of both sides.
        feed: inner width of the feed-forward layers.
        layers: of the encoder, and of the decoder.
        heads: of every attention.
        positions: the longest sentence.

    Shapes: `(B, S)` and `(B, T)` to `(B, T, V)`.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        width: int = 96,
        feed: int = 384,
        layers: tuple[int, int] = (2, 3),
        heads: int = 4,
        positions: int = 64,
    ) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(vocabulary, width), nn.Embedding(vocabulary, width)
        self.source_place = nn.Embedding(positions, width)
        self.target_place = nn.Embedding(positions, width)
        self.encoder = nn.ModuleList(
            EncoderLayer(width, width, feed, heads) for _ in range(layers[0])
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(width, width, width, feed, heads) for _ in range(layers[1])
        )
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        """Return the logits of the next pieces."""
        mask = (source != 0)[:, None, None]
        steps = target.shape[1]
        before = torch.ones(steps, steps, dtype=torch.bool, device=target.device).tril()
        places = torch.arange(max(source.shape[1], steps), device=source.device)
        x = self.source(source) + self.source_place(places[: source.shape[1]])
        for layer in self.encoder:
            x = layer(x, mask)
        memory = self.norm(x)
        y = self.target(target) + self.target_place(places[:steps])
        for layer in self.decoder:
            y = layer(y, memory, before, mask)
        return self.head(self.last(y))  # type: ignore[no-any-return]
