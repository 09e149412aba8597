"""A small decoder of text, with a matrix of its own for each projection.

Letters of shapes: `B` batch, `T` tokens, `V` vocabulary, `D` width, `H` heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.errors import InputError

__all__ = ["SmallGPT", "small_gpt"]


class Attention(nn.Module):
    """Causal attention of several heads; four linear maps without biases.

    Args:
        width: numbers a token.
        heads: which share them out.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return what each token gathers of those before it, `(B, T, D)` as `x`."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D / H)
            for part in (self.query, self.key, self.value)
        )
        gathered = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(gathered.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a feed-forward net, each behind a norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, `(B, T, D)`, with what the block adds."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed(self.norm2(x))  # type: ignore[no-any-return]


class SmallGPT(nn.Module):
    """A transformer that guesses each next token; see `small_gpt`.

    Shapes: tokens `(B, T)` to logits `(B, T, V)`.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        for table in (self.embedding, self.positions):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of each next token."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.embedding(tokens) + self.positions(places)
        return self.head(self.norm(self.blocks(x)))  # type: ignore[no-any-return]


def small_gpt(
    tokens: int = 65, *, width: int = 60, depth: int = 6, heads: int = 4, length: int = 64
) -> SmallGPT:
    """Return a small decoder of text, untrained, for characters or a small vocabulary.

    Args:
        tokens: how many there are.
        width: numbers a token.
        depth: blocks.
        heads: of each attention; they divide the width.
        length: the most tokens of a sequence.

    Raises:
        InputError: a size is below 1, or the heads do not divide the width.

    Example:
        >>> small_gpt(10, width=8, depth=2, heads=2)(torch.zeros(1, 5, dtype=torch.long)).shape
        torch.Size([1, 5, 10])
    """
    if min(tokens, width, depth, heads, length) < 1 or width % heads:
        raise InputError(
            f"small_gpt got {tokens} tokens, width {width}, depth {depth}, {heads} heads and "
            f"length {length}; give sizes of at least 1, and heads that divide the width"
        )
    return SmallGPT(tokens, width, depth, heads, length)
