"""Low-rank adapters from pools of shards, as a method of `peft`: `get_peft_model` takes its config.

All layers of a projection (all query matrices, say) put their two thin matrices together from two
pools. Which pieces a layer reads is drawn once and saved with the adapter. Layers differ in the
pieces they draw, for `A` and for `B` apart, and a part of the pools can be theirs alone; so every
layer gets a higher rank than its share of the trained numbers would give.

Importing this module registers the method with `peft` under the name `SHARD_LORA`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import peft
import torch
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from manynet.bindings.shard import draw_index
from manynet.errors import InputError
from manynet.models._shard_layer import Adapter, Pools, ShardLinear, sizes_of

__all__ = ["ShardLoraConfig", "ShardLoraModel", "as_lora"]

METHOD = "SHARD_LORA"


@dataclass
class ShardLoraConfig(peft.PeftConfig):
    """The config of adapters from pools of shards.

    Args:
        r: rank of each layer's adapter.
        budget: as many numbers are trained as plain adapters of this rank have.
        private: ranks of each layer that no other layer reads; at most `budget`.
        pieces: shards that a vector is glued from; must divide the sizes of all layers.
        alpha: the adapter's output is multiplied by `alpha / r`.
        dropout: of the adapter's inputs.
        dissociate: draw the shards of `B` apart from those of `A`.
        layers: how many layers the pools are sized for; by default those of the projection that are
            adapted.
        seed: of the draw.
        target_modules: as in `peft.LoraConfig`.
        exclude_modules: as in `peft.LoraConfig`.
        modules_to_save: as in `peft.LoraConfig`.

    Raises:
        InputError: numbers that do not fit together.

    Reference: Wang et al., "MoS", ICLR 2025, arXiv 2410.00938.
    """

    r: int = 8
    budget: int = 2
    private: int = 1
    pieces: int = 4
    alpha: float = 16.0
    dropout: float = 0.0
    dissociate: bool = True
    layers: int | None = None
    seed: int = 0
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    bias: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = METHOD
        for name in ("target_modules", "exclude_modules"):
            if isinstance(value := getattr(self, name), list):
                setattr(self, name, set(value))
        if min(self.r, self.budget, self.pieces) < 1 or not 0 <= self.private <= self.budget:
            raise InputError(
                f"r={self.r}, budget={self.budget}, private={self.private}, pieces={self.pieces}: "
                "all but private are at least 1, and private is from 0 to budget"
            )
        if self.private > self.r or (self.private == self.budget and self.r != self.budget):
            raise InputError(
                f"r={self.r} with private={self.private} of budget={self.budget}: without a public "
                "part the rank is the budget; lower private, or set r to the budget"
            )


@dataclass(frozen=True)
class _Place:
    """Where an adapted layer stands among those of its projection."""

    projection: str
    sizes: tuple[int, int]
    number: int = 0
    count: int = 0


class ShardLoraModel(BaseTuner):
    """Puts the adapters into a model; `peft.get_peft_model` calls it."""

    prefix = "shard_"
    tuner_layer_cls = ShardLinear
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 # peft declares it so

    def _create_and_replace(  # noqa: PLR0917 # peft's signature
        self,
        peft_config: peft.PeftConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        config = cast("ShardLoraConfig", peft_config)
        plan = self.__dict__.setdefault("_plans", {}).setdefault(adapter_name, {})
        if not plan:
            plan |= _planned(self.model, config, self._chosen(config))
        place, index = plan[current_key]
        pools = _pools_of(self.model, place)
        if adapter_name not in pools[0]:
            _add_pools(pools, adapter_name, config, place, target)
        scaling = config.alpha / config.r
        adapter = Adapter(config.r, scaling, config.dropout, index)
        if isinstance(target, ShardLinear):
            target.update_layer(adapter_name, adapter)
            return
        layer = ShardLinear(target, place.projection, pools)
        layer.update_layer(adapter_name, adapter)
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _chosen(self, config: ShardLoraConfig) -> list[str]:
        """Return the paths of the layers that the config names."""
        inside = tuple(
            f"{name}." for name, m in self.model.named_modules() if isinstance(m, ShardLinear)
        )
        return [
            name
            for name, _ in self.model.named_modules()
            if name
            and not name.startswith(inside)
            and self._check_target_module_exists(config, name) is True
        ]

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: peft.PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Return an adapter's tensors, each pool once."""
        found = super()._get_adapter_state_dict(
            model=model,
            config=config,
            adapter_name=adapter_name,
            state_dict=state_dict,
            unwanted_adapter_names=unwanted_adapter_names,
        )
        same = dict(_pool_aliases(model))
        return {
            name: tensor for name, tensor in found.items() if name.rpartition(".")[0] not in same
        }

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls,
        model: nn.Module,
        config: peft.PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Return the tensors of a file by the names that the model has for them."""
        found = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        for alias, first in _pool_aliases(model):
            if f"{first}.{adapter_name}" in found:
                found[f"{alias}.{adapter_name}"] = found[f"{first}.{adapter_name}"]
        return found


# `register_peft_method` wants a member of `PeftType`, which is closed. Its members are strings, and
# the mappings are all that `peft` looks a method up in, so a string of our own is found as well.
cast("dict[str, Any]", PEFT_TYPE_TO_CONFIG_MAPPING)[METHOD] = ShardLoraConfig
cast("dict[str, Any]", PEFT_TYPE_TO_TUNER_MAPPING)[METHOD] = ShardLoraModel
cast("dict[str, Any]", PEFT_TYPE_TO_PREFIX_MAPPING)[METHOD] = ShardLoraModel.prefix


def _pool_aliases(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield every further name of a pool's dictionary in the state, with its first one."""
    first: dict[int, str] = {}
    for path, module in model.named_modules():
        if isinstance(module, ShardLinear):
            for role in ("shard_A", "shard_B"):
                name = f"{path}.{role}" if path else role
                known = first.setdefault(id(getattr(module, role)), name)
                if known != name:
                    yield name, known


def _planned(
    model: nn.Module, config: ShardLoraConfig, paths: list[str]
) -> dict[str, tuple[_Place, tuple[Tensor, Tensor]]]:
    """Return each layer's place among those of its projection, and which shards it reads."""
    generator = torch.Generator().manual_seed(config.seed)
    counts: dict[str, int] = {}
    places: dict[str, _Place] = {}
    for path in paths:
        module: Any = model.get_submodule(path)
        base = module.get_base_layer() if isinstance(module, ShardLinear) else module
        sizes = sizes_of(base)
        if sizes is None:
            raise InputError(f"{path} is a {type(base).__name__}; shards adapt linear layers only")
        odd = [size for size in sizes if size % config.pieces]
        if odd:
            raise InputError(
                f"{path} has {sizes[0]} inputs and {sizes[1]} outputs: {config.pieces} pieces do "
                f"not divide {odd[0]}; try pieces={math.gcd(config.pieces, *sizes)}"
            )
        kind = f"{re.sub(r'[0-9]+', '*', path)} {sizes[0]}x{sizes[1]}"
        places[path] = _Place(kind, sizes, counts.get(kind, 0))
        counts[kind] = places[path].number + 1
    made = {}
    for path, place in places.items():
        count = max(config.layers or 0, counts[place.projection])
        whole = _Place(place.projection, place.sizes, place.number, count)
        made[path] = (whole, _drawn(config, whole, generator))
    return made


def _drawn(
    config: ShardLoraConfig, place: _Place, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the rows of the two pools that a layer reads."""
    public = (config.budget - config.private) * place.count * config.pieces
    drawn = (config.r - config.private) * config.pieces
    if drawn > public:
        raise InputError(
            f"rank {config.r} of {place.projection} needs {drawn} public shards, and there are "
            f"{public}; the most is r={public // config.pieces + config.private}"
        )
    size = config.private * config.pieces
    private = range(public + place.number * size, public + (place.number + 1) * size)
    first = draw_index(generator, drawn, public=public, private=private)
    if not config.dissociate:
        return first, first.clone()
    return first, draw_index(generator, drawn, public=public, private=private)


def _pools_of(model: nn.Module, place: _Place) -> Pools:
    """Return the pools of a projection: those of its layers so far, or new ones."""
    for module in model.modules():
        if isinstance(module, ShardLinear) and module.projection == place.projection:
            return module.shard_A, module.shard_B
    return nn.ParameterDict(), nn.ParameterDict()


def _add_pools(
    pools: Pools, name: str, config: ShardLoraConfig, place: _Place, target: nn.Module
) -> None:
    """Add the pools of an adapter: `A` as a whole linear layer's would be, `B` at zero."""
    inputs, outputs = place.sizes
    weight: Any = (
        target.get_base_layer().weight if isinstance(target, ShardLinear) else target.weight
    )
    dtype = weight.dtype if weight.is_floating_point() else torch.float32
    like: dict[str, Any] = {"device": weight.device, "dtype": dtype}
    rows, bound = config.budget * place.count * config.pieces, inputs**-0.5
    pools[0][name] = nn.Parameter(
        torch.empty(rows, inputs // config.pieces, **like).uniform_(-bound, bound)
    )
    pools[1][name] = nn.Parameter(torch.zeros(rows, outputs // config.pieces, **like))


def as_lora(model: peft.PeftModel, *, adapter: str = "default") -> peft.PeftModel:
    """Return the model with a plain low-rank adapter that computes the same; it is taken apart.

    What plain `peft` saves of it, other tools read. It holds as many numbers as the rank says,
    which is more than the shards had.

    Args:
        model: what `peft.get_peft_model` made with a `ShardLoraConfig`.
        adapter: which of its adapters.

    Raises:
        InputError: the model has no adapter of shards of that name.
    """
    config = model.peft_config.get(adapter)
    if not isinstance(config, ShardLoraConfig):
        raise InputError(
            f"there is no adapter of shards {adapter!r}; known: {[*model.peft_config]}"
        )
    tensors: dict[str, Tensor] = {}
    layers = [
        (n, m) for n, m in model.get_base_model().named_modules() if isinstance(m, ShardLinear)
    ]
    with torch.no_grad():
        for path, layer in layers:
            if adapter in layer.shard_rank:
                first, second = layer.matrices(adapter)
                tensors[f"base_model.model.{path}.lora_A.weight"] = first.clone()
                tensors[f"base_model.model.{path}.lora_B.weight"] = second.T.contiguous()
    plain = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=config.dropout,
        target_modules=[path for path, layer in layers if adapter in layer.shard_rank],
        fan_in_fan_out=not isinstance(layers[0][1].get_base_layer(), nn.Linear),
        task_type=config.task_type,
    )
    made = peft.get_peft_model(model.unload(), plain)
    peft.set_peft_model_state_dict(made, tensors)
    return made
