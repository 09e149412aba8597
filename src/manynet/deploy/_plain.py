"""The plain `transformers` model that computes what a member computes, where its config can say so.

A config has one number for all layers: one `hidden_size`, one `intermediate_size`. Which number
sizes which dimension is found by building the model, without weights, with one number doubled
after the other; the numbers of a member then follow from its shapes.
"""

from __future__ import annotations

import copy
import functools
import itertools
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from manynet.errors import InputError
from manynet.family import Family, Note
from manynet.models.lora import has_adapters, merge_adapters
from manynet.space import Allow, Choice, Space, Value

__all__ = ["describable", "plain_model"]

Shapes = Mapping[str, tuple[int, ...]]
_Key = tuple[str | int, ...]
"""A dimension (tensor, position), or a number of a module (its kind, path, name)."""
_WHOLE, _FACTOR = "whole number", "factor"
_COMBINATIONS = 4096
"""Values of widths beyond which combinations are not looked through."""
_NEVER = ("vocab_size", "max_position_embeddings", "n_positions", "num_labels", "type_vocab_size")


def plain_model(member: nn.Module) -> nn.Module:
    """Return a model of the member's class, made from a config alone, with the member's weights.

    Its layers are numbered without gaps, and tied weights are tied.

    Args:
        member: a network with a `config`, as those of `transformers` have.

    Raises:
        InputError: no config of this class describes the member; the message says where they
            differ.
    """
    config, kept = _described(member)
    if has_adapters(member):
        member = merge_adapters(copy.deepcopy(member))
    state = {_renumbered(name, kept): tensor for name, tensor in member.state_dict().items()}
    model = type(member)(config)
    model.to(next(member.parameters()).dtype)
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    cast("Any", model).tie_weights()
    if getattr(member, "generation_config", None) is not None:
        model.generation_config = copy.deepcopy(member.generation_config)
    return model.eval()


def describable(family: Family) -> Family:
    """Return the family of those members that a plain config describes; the weights are shared.

    A choice that no config has a number for stays whole, and so says the report. Combinations
    that no config has (heads that do not divide the width) are left out of the space.

    Args:
        family: of a model with a `config`, made with `uniform=True`.

    Raises:
        InputError: not even the largest member can be described.
    """
    _described(family.at(family.space.largest))
    depths = {depth.choice for depth in family.blueprint.depths}
    widths = [choice for choice in family.space.choices if choice.name not in depths]
    rows = _rows(family, widths)
    kept = {
        choice.name: tuple(value for value in choice.values if any(row[i] == value for row in rows))
        for i, choice in enumerate(widths)
    }
    choices = [replace(c, values=kept.get(c.name, c.values)) for c in family.space.choices]
    joint = [] if len(rows) == math.prod(map(len, kept.values())) else [Allow(tuple(kept), rows)]
    lost = [name for name, values in kept.items() if len(values) == 1]
    report = family.blueprint.report
    note = "whole: the config of its class has no number for it"
    report = replace(
        report,
        elastic=tuple(line for line in report.elastic if line.name not in lost),
        fixed=(*report.fixed, *(Note(name, note) for name in lost)),
    )
    return Family(
        family.shared,
        Space(tuple(choices), (*family.space.constraints, *joint)),
        replace(family.blueprint, report=report),
        extra=family.extra,
        example_inputs=family.example_inputs,
        source=family.source,
    )


def _rows(family: Family, widths: Sequence[Choice]) -> tuple[tuple[Value, ...], ...]:
    """Return which values of the widths may stand together.

    Each value multiplies sizes by a share of its own, so the shapes of a combination follow from
    those of the members in which one choice alone is lowered; no other member is built.
    """
    largest = family.space.largest
    model: Any = family.shared
    numbers = _numbers(_class(model), model.config.to_json_string(use_diff=False))
    count = math.prod(len(choice.values) for choice in widths)
    if count > _COMBINATIONS:
        raise InputError(
            f"there are {count:,} combinations of {len(widths)} widths, too many to look each up "
            "in the config; make the family with uniform=True and fewer shares"
        )
    shares: list[dict[Value, dict[_Key, float]]] = []
    for choice in widths:
        lowered = {v: _sizes(family.at({**largest, choice.name: v})) for v in choice.values}
        whole = lowered[largest[choice.name]]
        shares.append({v: _ratios(whole, sizes) for v, sizes in lowered.items()})
    whole = _sizes(family.at(largest))
    rows = []
    for row in itertools.product(*(choice.values for choice in widths)):
        sizes = dict(whole)
        for share, value in zip(shares, row, strict=True):
            for key, ratio in share[value].items():
                sizes[key] = sizes[key] * ratio
        if numbers.describe(model.config, sizes):
            rows.append(row)
    return tuple(rows)


def _ratios(whole: Mapping[_Key, float], sizes: Mapping[_Key, float]) -> dict[_Key, float]:
    return {
        key: size / whole[key]
        for key, size in sizes.items()
        if whole.get(key) not in (size, 0, None)
    }


def _class(model: nn.Module) -> Any:
    return type(model)


def _described(member: nn.Module) -> tuple[Any, Mapping[str, tuple[int, ...]]]:
    """Return the member's config, and which layers of each list it has kept."""
    config: Any = getattr(member, "config", None)
    if config is None or not callable(getattr(config, "to_diff_dict", None)):
        raise InputError(
            f"{type(member).__name__} has no config of transformers, so it cannot be written as a "
            "plain model of that library; use format='safetensors'"
        )
    found = _numbers(_class(member), config.to_json_string(use_diff=False))
    kept = _kept(member, found.tensors)
    shapes = _shapes(member, kept)
    layers = len(next(iter(kept.values()))) if kept else None
    values = found.solve(_sizes(member, kept), layers)
    made = _with(config, values, kept)
    model = None if made is None else _on_meta(type(member), made)
    own = {} if model is None else _shapes(model, {})
    wrong = sorted(name for name in own.keys() | shapes.keys() if own.get(name) != shapes.get(name))
    if model is None or wrong:
        said = ", ".join(f"{name}={value}" for name, value in values.items()) or "its own numbers"
        why = (
            "the class refuses it"
            if model is None
            else f"{wrong[0]} has shape {shapes.get(wrong[0])}, and would have {own.get(wrong[0])}"
        )
        raise InputError(
            f"no config of {type(member).__name__} describes this member (with {said}, {why}); "
            "make the family with uniform=True and `describable`, or write format='safetensors'"
        )
    return made, kept


@dataclass(frozen=True)
class _Numbers:
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
    sizes: Mapping[_Key, float]
    laws: Mapping[_Key, Mapping[str, float]]
    depth: str | None
    tensors: frozenset[str]
    unsaid: frozenset[str] = frozenset()

    def solve(self, sizes: Mapping[_Key, float], layers: int | None = None) -> dict[str, int]:
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

    def describe(self, config: Any, sizes: Mapping[_Key, float]) -> bool:
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
            _with(config, values, {}) is not None
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
def _numbers(cls: Any, text: str) -> _Numbers:
    """Find out which number of a config sizes what; a model is built for each, without weights."""
    config = cls.config_class.from_dict(json.loads(text))
    model = _on_meta(cls, config)
    if model is None:
        raise InputError(f"{cls.__name__} cannot be built from its own config")
    sizes = _sizes(model)
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
    config, numbers = _with(config, unsaid, {}), numbers | unsaid
    laws: dict[_Key, dict[str, float]] = {}
    depth = None
    for name in numbers:
        doubled = _with(config, {name: 2 * numbers[name]}, {})
        other = None if doubled is None else _on_meta(cls, doubled)
        found = {} if other is None else _sizes(other)
        if len(found) > len(sizes):
            depth = depth or name
            continue
        for key, after in found.items():
            before = sizes.get(key, 0.0)
            if before * after > 0 and before != after:
                laws.setdefault(key, {})[name] = math.log2(after / before)
    return _Numbers(numbers, sizes, laws, depth, frozenset(_shapes(model, {})), frozenset(unsaid))


def _sizes(
    member: nn.Module, kept: Mapping[str, tuple[int, ...]] = MappingProxyType({})
) -> dict[_Key, float]:
    """Return each length of a tensor's dimension, and each whole number and factor of a module."""
    sizes: dict[_Key, float] = {}
    for name, shape in _shapes(member, kept).items():
        sizes |= {(name, dim): float(size) for dim, size in enumerate(shape)}
    for path, module in member.named_modules():
        where = _renumbered(path, kept)
        for name, value in vars(module).items():
            if type(value) is int:
                sizes[_WHOLE, where, name] = float(value)
            elif type(value) is float:
                sizes[_FACTOR, where, name] = value
    return sizes


def _unsaid(cls: Any, config: Any, name: str, sizes: Mapping[_Key, float]) -> list[int]:
    """Return what the class chooses for a number that the config does not say, if it is one."""
    trial = 8 * int(max(size for key, size in sizes.items() if key[0] not in (_WHOLE, _FACTOR)))
    made = _with(config, {name: trial}, {})
    model = None if made is None else _on_meta(cls, made)
    found = {} if model is None else _sizes(model)
    if found.keys() != sizes.keys():
        return []
    chosen = {int(sizes[key]) for key, size in found.items() if size == trial}
    return list(chosen) if len(chosen) == 1 else []


def _with(config: Any, values: Mapping[str, int], kept: Mapping[str, tuple[int, ...]]) -> Any:
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


def _on_meta(cls: type[nn.Module], config: Any) -> nn.Module | None:
    """Return a model without weights; None where the class refuses the config."""
    try:
        with torch.device("meta"):
            return cls(config)
    except Exception:  # a class may refuse numbers in any way it likes
        return None


# -- the member --------------------------------------------------------------------------------


def _kept(member: nn.Module, tensors: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Return, for each list of layers that has lost some, the places of those that are left."""
    present = {name.rpartition(".")[0] for name in member.state_dict()}
    owners = {name.rpartition(".")[0] for name in tensors}
    kept = {}
    for path, module in member.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        places = tuple(
            place
            for place in range(_count(path, owners))
            if any(_inside(name, f"{path}.{place}") for name in present)
        )
        if len(places) < _count(path, owners):
            kept[path] = places
    return kept


def _count(path: str, owners: set[str]) -> int:
    pattern = re.compile(re.escape(path) + r"\.(\d+)(\.|$)")
    found = [int(match[1]) for name in owners if (match := pattern.match(name))]
    return max(found, default=-1) + 1


def _inside(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _renumbered(name: str, kept: Mapping[str, tuple[int, ...]]) -> str:
    for path, places in kept.items():
        if name.startswith(f"{path}."):
            number, dot, rest = name[len(path) + 1 :].partition(".")
            place = places.index(int(number)) if int(number) in places else f"lost {number}"
            return f"{path}.{place}{dot}{rest}"
    return name


def _shapes(model: nn.Module, kept: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors, as they are without adapters."""
    return {
        _renumbered(name.replace(".base_layer.", "."), kept): tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if ".lora_" not in name
    }
