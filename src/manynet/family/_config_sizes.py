"""What the configs of an extracted member say: the sizes that all its layers share.

A model of `transformers` carries a config with one number for all layers: one `intermediate_size`,
one `num_attention_heads`. A number follows the member where everything that it sizes agrees. Where
layers differ it cannot, and stays as it is; so does a number that the code reads while it runs,
since the member computes with it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from manynet.errors import InputError
from manynet.family.numbers import Numbers, changed, numbers_of, sizes_at

__all__ = ["ConfigSizes"]


class ConfigSizes:
    """The configs in a network, and which sizes of a member they can say.

    Args:
        shared: the largest network.
        inputs: with which it runs; without any, nothing is known of what its code reads, and no
            config changes.
    """

    def __init__(self, shared: nn.Module, inputs: tuple[Any, ...]) -> None:
        found = list(_models(shared)) if inputs else []
        read = _read_by(shared, inputs, [config for _, _, config in found]) if found else {}
        self._units = [
            _Unit(path, tuple(part for part in numbers.apart() if not part.config.keys() & names))
            for path, model, config in found
            if (numbers := _numbers_of(model, config))
            and (names := read.get(id(config))) is not None
        ]

    def write(self, parts: Mapping[str, nn.Module]) -> None:
        """Write a member's sizes into the configs that it holds.

        Args:
            parts: its modules by their path in the largest network.
        """
        for unit in self._units:
            if unit.path in parts:
                unit.write(parts)


@dataclass(frozen=True)
class _Unit:
    """A model in the network that is made from a config of its own.

    Args:
        path: where it is.
        groups: the numbers of its config, those apart that size nothing together.
    """

    path: str
    groups: tuple[Numbers, ...]

    def write(self, parts: Mapping[str, nn.Module]) -> None:
        prefix = f"{self.path}." if self.path else ""
        own = {p[len(prefix) :]: m for p, m in parts.items() if p.startswith(prefix)}
        own[""] = parts[self.path]
        sizes = sizes_at(own)
        values, whole = dict[str, int](), dict[str, int]()
        for group in self.groups:
            found = group.solve(sizes)
            if group.gives(found, sizes):
                values |= found
                whole |= group.config
        config: Any = parts[self.path].config
        if not values or changed(config, values, {}) is None:  # its class may not take them
            return
        for held in _configs(own, type(config)):
            for name, value in values.items():
                if getattr(held, name, None) in (None, whole[name]):
                    setattr(held, name, value)


def _models(shared: nn.Module) -> Iterator[tuple[str, nn.Module, Any]]:
    """Yield the outermost model of each config: its path, itself, and the config."""
    seen: set[int] = set()
    for path, module in shared.named_modules():
        kind = getattr(type(module), "config_class", None)
        config = getattr(module, "config", None)
        if kind is not None and type(config) is kind and id(config) not in seen:
            seen.add(id(config))
            yield path, module, config


def _configs(parts: Mapping[str, nn.Module], kind: type) -> list[Any]:
    """Return the configs of a class that modules hold, each once."""
    held = (vars(part).get("config") for part in parts.values())
    return list({id(config): config for config in held if type(config) is kind}.values())


def _numbers_of(model: nn.Module, config: Any) -> Numbers | None:
    try:
        return numbers_of(cast("Any", type(model)), config.to_json_string(use_diff=False))
    except InputError:  # it is made from more than a config
        return None


def _read_by(shared: nn.Module, inputs: tuple[Any, ...], configs: list[Any]) -> dict[int, set[str]]:
    """Return which attributes of each config the code reads in a forward pass.

    The pass is that of a copy without values; where it does not run so, nothing is known, and no
    config is in the result.
    """
    memo: dict[int, Any] = {
        id(tensor): _empty(tensor) for tensor in (*shared.parameters(), *shared.buffers())
    }
    try:
        twin = copy.deepcopy(shared, memo).eval()
        watched = [(id(config), memo[id(config)]) for config in configs]
        read = {key: _watch(config) for key, config in watched}
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            twin(*tree_map_only(Tensor, _empty, inputs))
    except Exception:  # a model may fail without values in any way it likes
        return {}
    return read


def _empty(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _watch(config: Any) -> set[str]:
    """Let a config note which of its attributes are read from now on."""
    read: set[str] = set()
    kind: Any = type(config)
    aliases: dict[str, str] = getattr(kind, "attribute_map", {})

    def get(self: Any, name: str) -> Any:
        read.update((name, aliases.get(name, name)))
        return kind.__getattribute__(self, name)

    config.__class__ = type(kind.__name__, (kind,), {"__getattribute__": get})
    return read
