"""`ShardLinear`: a linear layer whose low-rank adapter is put together from pools.

Letters of shapes: `B` batch, `N` inputs, `M` outputs, `R` rank, `L` pieces of a vector, `P` rows of
a pool.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import BaseTunerLayer, check_adapters_to_merge
from torch import Tensor, nn
from torch.nn import functional

from manynet.bindings.shard import assemble
from manynet.errors import InputError

__all__ = ["Adapter", "Pools", "ShardLinear", "sizes_of"]

Pools = tuple[nn.ParameterDict, nn.ParameterDict]
"""The pools of one projection by the adapter's name, of `(P, N / L)` and of `(P, M / L)`. All its
layers hold the same two dictionaries, so that whatever moves a pool moves it for all of them."""


@dataclass(frozen=True)
class Adapter:
    """What one layer has of one adapter beside the pools: which rows it reads, and how.

    Args:
        rank: `R`, of this layer's product of matrices.
        scaling: of that product.
        dropout: chance to drop an input.
        index: rows of the two pools, 64-bit integers of shape `(R * L,)` each.
    """

    rank: int
    scaling: float
    dropout: float
    index: tuple[Tensor, Tensor]


def sizes_of(layer: nn.Module) -> tuple[int, int] | None:
    """Return the inputs and outputs of a linear layer or of GPT-2's `Conv1D`; None of others."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    if type(layer).__name__ == "Conv1D":
        inputs, outputs = layer.weight.shape  # type: ignore[misc]
        return int(inputs), int(outputs)
    return None


class ShardLinear(nn.Module, BaseTunerLayer):
    """A linear layer and its adapters, `y = W x + scaling * B A dropout(x)`.

    Row j of `A`, and column j of `B`, are `L` rows of a pool, one after another. Outside of
    training both matrices are kept until a pool or an index changes.

    Args:
        base_layer: a linear layer, or an adapted one.
        projection: what its layers have in common: they read the same pools.
        pools: of the projection.

    Shapes:
        Input `(B, ..., N)`, output `(B, ..., M)`.
    """

    adapter_layer_names = ("shard_A", "shard_B")
    other_param_names = (
        *("shard_index_A", "shard_index_B", "shard_dropout"),
        *("shard_rank", "shard_scaling"),
    )

    def __init__(self, base_layer: nn.Module, projection: str, pools: Pools) -> None:
        super().__init__()
        self.projection = projection
        self.base_layer = base_layer
        self.shard_A, self.shard_B = pools
        self.shard_index_A = BufferDict(persistent=True)
        self.shard_index_B = BufferDict(persistent=True)
        self.shard_dropout = nn.ModuleDict()
        self.shard_rank: dict[str, int] = {}
        self.shard_scaling: dict[str, float] = {}
        self.merged_adapters: list[str] = []
        self._disable_adapters = False
        self._kept: dict[str, tuple[object, Tensor, Tensor]] = {}
        base = self.get_base_layer()
        sizes = sizes_of(base)
        if sizes is None:
            raise InputError(
                f"{type(base).__name__} takes no adapter of shards; name linear layers"
            )
        self.in_features, self.out_features = sizes

    def update_layer(self, name: str, adapter: Adapter) -> None:
        """Add an adapter, whose pools exist already."""
        self.shard_rank[name] = adapter.rank
        self.shard_scaling[name] = adapter.scaling
        drop = nn.Dropout(adapter.dropout) if adapter.dropout else nn.Identity()
        self.shard_dropout[name] = drop
        device = self.get_base_weight().device
        self.shard_index_A[name] = adapter.index[0].to(device)
        self.shard_index_B[name] = adapter.index[1].to(device)
        self.set_adapter(self.active_adapters)

    def matrices(self, name: str) -> tuple[Tensor, Tensor]:
        """Return `A` and the transposed `B` of an adapter.

        Shapes: `(R, N)` and `(R, M)`.
        """
        sources = (
            *(self.shard_A[name], self.shard_B[name]),
            *(self.shard_index_A[name], self.shard_index_B[name]),
        )
        busy = self.training or torch.is_grad_enabled() or torch.compiler.is_compiling()
        if busy or any(tensor.is_inference() for tensor in sources):
            return self._assembled(name)
        state = tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in sources)
        if name not in self._kept or self._kept[name][0] != state:
            self._kept[name] = (state, *self._assembled(name))
        return self._kept[name][1:]

    def _assembled(self, name: str) -> tuple[Tensor, Tensor]:
        rank = self.shard_rank[name]
        return (
            assemble(self.shard_A[name], self.shard_index_A[name], (rank, self.in_features)),
            assemble(self.shard_B[name], self.shard_index_B[name], (rank, self.out_features)),
        )

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output with those of the active adapters."""
        if self.merged and self.disable_adapters:
            self.unmerge()
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters or self.merged:
            return result
        for name in self.active_adapters:
            if name in self.shard_rank:
                first, second = self.matrices(name)
                inner = self.shard_dropout[name](self._cast_input_dtype(x, first.dtype))
                low = functional.linear(inner, first) * self.shard_scaling[name]
                result = result + (low @ second.to(low.dtype)).to(result.dtype)
        return result

    @torch.no_grad()
    def get_delta_weight(self, name: str) -> Tensor:
        """Return what an adapter adds to the weight, in the weight's own layout."""
        first, second = self.matrices(name)
        if isinstance(self.get_base_layer(), nn.Linear):
            return self.shard_scaling[name] * (second.T @ first)
        return self.shard_scaling[name] * (first.T @ second)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the weight; the active ones by default.

        Raises:
            ValueError: with `safe_merge`, an adapter holds numbers that are not finite.
        """
        for name in check_adapters_to_merge(self, adapter_names):
            if name in self.shard_rank:
                old = self.get_base_weight()
                new = old + self.get_delta_weight(name).to(old.dtype)
                if safe_merge and not torch.isfinite(new).all():
                    raise ValueError(f"the adapter {name!r} is not finite; it was not merged")
                self.set_base_weight(new)
                self.merged_adapters.append(name)

    def unmerge(self) -> None:
        """Take the merged adapters out of the weight again."""
        while self.merged_adapters:
            name = self.merged_adapters.pop()
            old = self.get_base_weight()
            self.set_base_weight(old - self.get_delta_weight(name).to(old.dtype))

    def supports_lora_conversion(self, adapter_name: str = "default") -> bool:
        """Return True: it is a low-rank adapter, see `manynet.models.shard_lora.as_lora`."""
        return True

    def __repr__(self) -> str:
        """Return the module's usual text, with a word on what it is."""
        return "shards." + super().__repr__()
