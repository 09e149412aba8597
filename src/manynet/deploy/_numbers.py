"""What the whole numbers in a `transformers` config size, found by doubling one after the other."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from manynet.errors import InputError

__all__ = [
    "Kept",
    "Key",
    "Numbers",
    "changed",
    "numbers_of",
    "on_meta",
    "renumbered",
    "shapes_of",
    "sizes_of",
]

Key = tuple[str | int, ...]
"""A dimension (tensor, position), or a number of a module (its kind, path, name)."""
Kept = Mapping[str, tuple[int, ...]]
"""The places of the layers that are left, for each list that has lost some."""
_WHOLE, _FACTOR = "whole number", "factor"
_NEVER = ("vocab_size", "max_position_embeddings", "n_positions", "num_labels", "type_vocab_size")


@dataclass(frozen=True)
class Numbers:
    """How the sizes in a model follow from the whole numbers in its config.

    Args:
        config: these numbers.
        sizes: every length of a dimension, whole number and factor in the whole model.
        laws: for each of them the power of every number in it; none where it never changes.
        depth: the number that counts layers, if there is one.
        tensors: the names of the model's tensors.
        unsaid: the numbers that the config leaves to its class.
    """

    config: Mapping[str, int]
    sizes: Mapping[Key, float]
    laws: Mapping[Key, Mapping[str, float]]
    depth: str | None
    tensors: frozenset[str]
    unsaid: frozenset[str] = frozenset()

    def solve(self, sizes: Mapping[Key, float], layers: int | None = None) -> dict[str, int]:
        """Return the numbers of a member that are not the whole model's.

        A size is a product of powers of numbers, so its logarithm is a sum: a linear system. What
        the tensors and the factors leave open, the modules' whole numbers say: those that have
        changed for sure, while one that has not may be one that nothing reads, and counts only
        where it contradicts nothing.

        Args:
            sizes: of the member, as `_sizes` returns them.
            layers: how many it has kept, where it has lost some.
        """
        names = [name for name in self.config if name != self.depth]
        sure, hints = (
            set[tuple[tuple[float, ...], float]](),
            list[tuple[tuple[float, ...], float]](),
        )
        for key, law in self.laws.items():
            if key not in sizes:
                continue
            row = tuple(law.get(name, 0.0) for name in names)
            equation = row, round(math.log(sizes[key] / self.sizes[key]), 9) if sizes[key] else 0.0
            sure.add(equation) if key[0] != _WHOLE or equation[1] else hints.append(equation)
        system = list(sure)
        for hint in dict.fromkeys(hints):
            if hint not in sure and _fits([*system, hint]):
                system.append(hint)
        found = _solution(system) if system else np.zeros(len(names))
        values = {
            name: max(1, round(self.config[name] * math.exp(share)))
            for name, share in zip(names, found, strict=True)
        }
        if self.depth is not None and layers is not None:
            values[self.depth] = layers
        changed = {name for name, value in values.items() if value != self.config[name]}
        return {n: v for n, v in values.items() if n in changed or (changed and n in self.unsaid)}

    def describe(self, config: Any, sizes: Mapping[Key, float]) -> bool:
        """Whether numbers of this config give these sizes, and its class takes them."""
        values = self.solve(sizes)
        shares = {name: value / self.config[name] for name, value in values.items()}
        for key, law in self.laws.items():
            live = key in sizes and (key[0] != _WHOLE or sizes[key] != self.sizes[key])
            if live:
                made = math.prod(shares.get(name, 1.0) ** power for name, power in law.items())
                if not math.isclose(made * self.sizes[key], sizes[key], rel_tol=1e-6):
                    return False
        still = (k for k in self.sizes.keys() - self.laws.keys() if k[0] not in (_WHOLE, _FACTOR))
        return all(self.sizes[k] == sizes.get(k) for k in still) and (
            changed(config, values, {}) is not None
        )


def _solution(system: Sequence[tuple[tuple[float, ...], float]]) -> npt.NDArray[np.float64]:
    matrix = np.array([row for row, _ in system])
    found: npt.NDArray[np.float64] = np.linalg.lstsq(
        matrix, np.array([share for _, share in system]), rcond=None
    )[0]
    return found


def _fits(system: Sequence[tuple[tuple[float, ...], float]]) -> bool:
    """Whether a linear system has a solution."""
    found = _solution(system)
    return all(abs(np.dot(row, found) - share) < 1e-6 for row, share in system)


@functools.lru_cache(maxsize=8)
def numbers_of(cls: Any, text: str) -> Numbers:
    """Find out which number of a config sizes what; a model is built for each, without weights."""
    config = cls.config_class.from_dict(json.loads(text))
    model = on_meta(cls, config)
    if model is None:
        raise InputError(f"{cls.__name__} cannot be built from its own config")
    sizes = sizes_of(model)
    numbers = {
        name: value
        for name, value in config.to_dict().items()
        if type(value) is int and value > 0 and name not in _NEVER and not name.endswith("_id")
    }
    unsaid = {
        name: size
        for name, value in config.to_dict().items()
        if value is None and not name.endswith("_id")
        for size in _unsaid(cls, config, name, sizes)
    }
    config, numbers = changed(config, unsaid, {}), numbers | unsaid
    laws: dict[Key, dict[str, float]] = {}
    depth = None
    for name in numbers:
        doubled = changed(config, {name: 2 * numbers[name]}, {})
        other = None if doubled is None else on_meta(cls, doubled)
        found = {} if other is None else sizes_of(other)
        if len(found) > len(sizes):
            depth = depth or name
            continue
        for key, after in found.items():
            before = sizes.get(key, 0.0)
            if before * after > 0 and before != after:
                laws.setdefault(key, {})[name] = math.log2(after / before)
    return Numbers(numbers, sizes, laws, depth, frozenset(shapes_of(model, {})), frozenset(unsaid))


def sizes_of(member: nn.Module, kept: Kept = MappingProxyType({})) -> dict[Key, float]:
    """Return each length of a tensor's dimension, and each whole number and factor of a module."""
    sizes: dict[Key, float] = {}
    for name, shape in shapes_of(member, kept).items():
        sizes |= {(name, dim): float(size) for dim, size in enumerate(shape)}
    for path, module in member.named_modules():
        where = renumbered(path, kept)
        for name, value in vars(module).items():
            if type(value) is int:
                sizes[_WHOLE, where, name] = float(value)
            elif type(value) is float:
                sizes[_FACTOR, where, name] = value
    return sizes


def _unsaid(cls: Any, config: Any, name: str, sizes: Mapping[Key, float]) -> list[int]:
    """Return what the class chooses for a number that the config does not say, if it is one."""
    trial = 8 * int(max(size for key, size in sizes.items() if key[0] not in (_WHOLE, _FACTOR)))
    made = changed(config, {name: trial}, {})
    model = None if made is None else on_meta(cls, made)
    found = {} if model is None else sizes_of(model)
    if found.keys() != sizes.keys():
        return []
    chosen = {int(sizes[key]) for key, size in found.items() if size == trial}
    return list(chosen) if len(chosen) == 1 else []


def changed(config: Any, values: Mapping[str, int], kept: Kept) -> Any:
    """Return a config with other numbers; None where its class refuses them.

    Lists with an entry for each layer lose those of the lost layers.
    """
    document = json.loads(config.to_json_string(use_diff=False))
    places = next(iter(kept.values()), None)
    if places is not None:
        count = getattr(config, "num_hidden_layers", None)
        document |= {
            name: [value[place] for place in places]
            for name, value in document.items()
            if isinstance(value, list) and len(value) == count
        }
    try:
        made = type(config).from_dict(document | dict(values))
    except Exception:  # a config may refuse numbers in any way it likes
        return None
    made._attn_implementation = config._attn_implementation
    return made


def on_meta(cls: type[nn.Module], config: Any) -> nn.Module | None:
    """Return a model without weights; None where the class refuses the config."""
    try:
        with torch.device("meta"):
            return cls(config)
    except Exception:  # a class may refuse numbers in any way it likes
        return None


def renumbered(name: str, kept: Kept) -> str:
    for path, places in kept.items():
        if name.startswith(f"{path}."):
            number, dot, rest = name[len(path) + 1 :].partition(".")
            place = places.index(int(number)) if int(number) in places else f"lost {number}"
            return f"{path}.{place}{dot}{rest}"
    return name


def shapes_of(model: nn.Module, kept: Kept) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors, as they are without adapters."""
    return {
        renumbered(name.replace(".base_layer.", "."), kept): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
