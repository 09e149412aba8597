"""What the whole numbers in a `transformers` config size, found by doubling one after the other."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from manynet.errors import InputError

__all__ = [
    "WHOLE",
    "Kept",
    "Key",
    "Numbers",
    "changed",
    "numbers_of",
    "on_meta",
    "renumbered",
    "shapes_of",
    "sizes_at",
    "sizes_of",
]

Key = tuple[str | int, ...]
"""A dimension (tensor, position), or a number of a module (its kind, path, name)."""
Kept = Mapping[str, tuple[int, ...]]
"""The places of the layers that are left, for each list that has lost some."""
WHOLE, FACTOR = "whole number", "factor"
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
            sure.add(equation) if key[0] != WHOLE or equation[1] else hints.append(equation)
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

    def gives(self, values: Mapping[str, int], sizes: Mapping[Key, float]) -> bool:
        """Whether these numbers give these sizes, as far as any number sizes them."""
        shares = {name: value / self.config[name] for name, value in values.items()}
        for key, law in self.laws.items():
            live = key in sizes and (key[0] != WHOLE or sizes[key] != self.sizes[key])
            if live:
                made = math.prod(shares.get(name, 1.0) ** power for name, power in law.items())
                if not math.isclose(made * self.sizes[key], sizes[key], rel_tol=1e-6):
                    return False
        return True

    def describe(self, config: Any, sizes: Mapping[Key, float]) -> bool:
        """Whether numbers of this config give these sizes, and its class takes them."""
        values = self.solve(sizes)
        still = (k for k in self.sizes.keys() - self.laws.keys() if k[0] not in (WHOLE, FACTOR))
        return (
            self.gives(values, sizes)
            and all(self.sizes[k] == sizes.get(k) for k in still)
            and changed(config, values, {}) is not None
        )

    def apart(self) -> tuple[Numbers, ...]:
        """Return the numbers in groups that share no size: each may be solved by itself."""
        groups = {name: {name} for name in self.config if name != self.depth}
        for law in self.laws.values():
            joint = set[str]().union(*(groups.get(name, ()) for name in law))
            groups.update(dict.fromkeys(joint, joint))
        return tuple(self._part(names) for names in {id(g): g for g in groups.values()}.values())

    def _part(self, names: set[str]) -> Numbers:
        laws = {key: law for key, law in self.laws.items() if names & law.keys()}
        return Numbers(
            {name: value for name, value in self.config.items() if name in names},
            {key: self.sizes[key] for key in laws},
            laws,
            None,
            self.tensors,
            self.unsaid & names,
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
    return sizes_at({renumbered(path, kept): part for path, part in member.named_modules()})


def sizes_at(parts: Mapping[str, nn.Module]) -> dict[Key, float]:
    """Return the sizes of modules by their paths; tensors go without adapters."""
    sizes: dict[Key, float] = {}
    for path, module in parts.items():
        prefix = f"{path}." if path else ""
        for own, tensor in _saved(module):
            name = f"{prefix}{own}".replace(".base_layer.", ".")
            if ".lora_" not in name:
                sizes |= {(name, dim): float(size) for dim, size in enumerate(tensor.shape)}
        for own, value in vars(module).items():
            if type(value) is int:
                sizes[WHOLE, path, own] = float(value)
            elif type(value) is float:
                sizes[FACTOR, path, own] = value
    return sizes


def _saved(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own tensors, as far as its state holds them."""
    for name, tensor in (*module._parameters.items(), *module._buffers.items()):
        if tensor is not None and name not in module._non_persistent_buffers_set:
            yield name, tensor


def _unsaid(cls: Any, config: Any, name: str, sizes: Mapping[Key, float]) -> list[int]:
    """Return what the class chooses for a number that the config does not say, if it is one."""
    trial = 8 * int(max(size for key, size in sizes.items() if key[0] not in (WHOLE, FACTOR)))
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
    """Return a name as it is once the lists of layers have no gaps."""
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
