"""`FreeMultiheadAttention`: PyTorch's attention, whose heads need not make up the width.

`nn.MultiheadAttention` computes the size of a head as width // heads. Its weights hold more than
that: queries, keys and values of `H` heads of size `E`, read from a width `D`, and a projection
back. This module reads `H` and `E` from attributes of their own.

Letters: `B` batch, `L` queries, `S` keys, `D` width, `H` heads, `E` size of a head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manynet.elastic.adapters import Follows, Site, adapter
from manynet.elastic.freeing import frees, recast

__all__ = ["FreeMultiheadAttention"]


class FreeMultiheadAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with a number of heads and a head size apart from its width.

    It takes the same arguments, computes the same and has the same parameters under the same
    names; `in_proj_weight` has shape `(3 * H * E, D)`, `out_proj.weight` has shape `(D, H * E)`.
    Where `H * E` is `D`, each loads the other's `state_dict`, and `tied` returns the original.
    PyTorch's fused kernels for evaluation, which take them for equal, are for the original alone.

    Example:
        >>> free = FreeMultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(1, 3, 8)
        >>> free(x, x, x)[0].shape
        torch.Size([1, 3, 8])
        >>> type(free.tied()).__name__
        'MultiheadAttention'
    """

    def __init__(self, embed_dim: int, num_heads: int, *args: Any, **options: Any) -> None:
        super().__init__(embed_dim, num_heads, *args, **options)
        self._qkv_same_embed_dim = False  # keeps the layers around it off the fused kernels

    @classmethod
    def of(cls, module: nn.MultiheadAttention) -> FreeMultiheadAttention:
        """Return the free form of PyTorch's own module, with the same parameters."""
        free = recast(module, cls)
        free._qkv_same_embed_dim = False
        return free

    def tied(self) -> nn.MultiheadAttention | None:
        """Return PyTorch's own module with the same parameters; None where its sizes do not fit."""
        inner = self.num_heads * self.head_dim
        out, columns = self.out_proj.weight.shape[0], _width_of_queries(self)
        if not inner == out == columns == self.embed_dim:
            return None
        tied = recast(self, nn.MultiheadAttention)
        tied._qkv_same_embed_dim = _maybe(self.in_proj_weight) is not None
        return tied

    def forward(  # noqa: PLR0917  (PyTorch's own arguments)
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend as `nn.MultiheadAttention.forward` does, with the same arguments.

        Shapes:
            query: `(B, L, D)` with `batch_first`, else `(L, B, D)`; without a batch `(L, D)`.
            key, value: the same with `S` for `L`, and `kdim` and `vdim` for `D`.
            returns: the output, shaped as the query, and the weights, `(B, L, S)`, or
                `(B, H, L, S)` where they are not averaged; None without `need_weights`.
        """
        if query.is_nested:
            return self._forward_packed(query, key, value, need_weights, average_attn_weights)
        if is_causal and attn_mask is None:
            raise RuntimeError("is_causal is a hint about attn_mask, which must be given too")
        batched = query.dim() == 3
        q, k, v = map(self._by_head, self._project(query, key, value))  # (B, H, L or S, E)
        k, v, added = self._extend(k, v)
        hinted = is_causal and key_padding_mask is None and not (need_weights or added)
        mask = None if hinted else _joined(q, attn_mask, key_padding_mask, batched, added)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)  # (B, H, L, S)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout)
            heads = weights @ v
        else:
            heads = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=hinted)
        output = self.out_proj(self._laid_out(heads.transpose(1, 2).flatten(-2), batched))
        if weights is not None:
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return output, weights

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Return queries, keys and values, each (…, H * E)."""
        joint, bias = _maybe(self.in_proj_weight), _maybe(self.in_proj_bias)
        if joint is not None and query is key and key is value:
            rows: Tensor = F.linear(query, joint, bias).unflatten(-1, (3, -1))
            return rows.unbind(-2)
        weights = (
            (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
            if joint is None
            else joint.unflatten(0, (3, -1)).unbind(0)
        )
        biases = (None, None, None) if bias is None else bias.unflatten(0, (3, -1)).unbind(0)
        return tuple(map(F.linear, (query, key, value), weights, biases))

    def _by_head(self, x: Tensor) -> Tensor:
        x = x.unflatten(-1, (self.num_heads, self.head_dim))
        if x.dim() == 3:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.transpose(1, 2)

    def _laid_out(self, x: Tensor, batched: bool) -> Tensor:
        """Return (B, L, H * E) as the query came in."""
        if not batched:
            return x.squeeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Return keys and values with a learned one and a zero behind them, and how many."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            for_each = (k.shape[0], -1, -1, -1)
            last_k, last_v = (
                x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2).expand(for_each)
                for x in (self.bias_k, self.bias_v)
            )
            k, v, added = torch.cat([k, last_k], 2), torch.cat([v, last_v], 2), added + 1
        if self.add_zero_attn:
            k, v, added = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1)), added + 1
        return k, v, added

    def _forward_packed(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool, average: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Attend over sequences of unequal length, as `nn.TransformerEncoder` packs padded ones."""
        if not (query is key and key is value and self.batch_first):
            raise RuntimeError(
                "nested tensors are for attention of a batch over itself, with batch_first=True"
            )
        lengths = [len(sequence) for sequence in query.unbind()]
        x = query.to_padded_tensor(0.0)
        ends = torch.tensor(lengths, device=x.device)
        padding = torch.arange(x.shape[1], device=x.device) >= ends[:, None]
        output, weights = self(x, x, x, padding, need_weights, None, average)
        packed = [row[:length] for row, length in zip(output, lengths, strict=True)]
        return torch.nested.as_nested_tensor(packed), weights


def _joined(
    q: Tensor, attention: Tensor | None, padding: Tensor | None, batched: bool, added: int
) -> Tensor | None:
    """Return the sum of two masks, for (B, H, L, S), with nothing masked of the keys added."""
    masks = []
    if attention is not None:
        mask = _as_scores(attention, q.dtype)
        masks.append(mask if mask.dim() == 2 else mask.unflatten(0, (-1, q.shape[1])))
    if padding is not None:
        mask = _as_scores(padding, q.dtype)
        masks.append((mask if batched else mask.unsqueeze(0))[:, None, None])
    if not masks:
        return None
    joined = masks[0] if len(masks) == 1 else masks[0] + masks[1]
    return F.pad(joined, (0, added)) if added else joined


def _as_scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what a mask adds to scores: a boolean one minus infinity, where it is set."""
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, float("-inf"))


def _width_of_queries(module: nn.MultiheadAttention) -> int:
    joint = _maybe(module.in_proj_weight)
    return (module.q_proj_weight if joint is None else joint).shape[1]


def _maybe(parameter: Tensor | None) -> Tensor | None:
    """Return a parameter that may be missing, whatever its declaration says."""
    return parameter


frees(nn.MultiheadAttention)(FreeMultiheadAttention.of)


@adapter(FreeMultiheadAttention, attributes=("embed_dim", "kdim", "vdim", "num_heads", "head_dim"))
def _free_attention(module: FreeMultiheadAttention, site: Site) -> Follows:
    heads, each = site.new(int(module.num_heads)), site.new(int(module.head_dim))
    inner = (*heads, *each)
    site.tie(site.record.dims(module.out_proj.weight)[1], inner)
    for name in ("in_proj_weight", "in_proj_bias"):
        site.tie(site.dim(name, 0), (*site.new(3, "query, key, value"), *inner))
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        site.tie(site.dim(name, 0), inner)
    for name in ("bias_k", "bias_v"):
        site.tie(site.dim(name, 2), inner)
    joint = site.dim("in_proj_weight", 1)
    return {
        "embed_dim": site.record.dims(module.out_proj.weight)[0],
        "kdim": site.dim("k_proj_weight", 1) if joint is None else joint,
        "vdim": site.dim("v_proj_weight", 1) if joint is None else joint,
        "num_heads": heads,
        "head_dim": each,
    }
