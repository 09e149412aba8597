"""The plain `transformers` model that computes what a member computes, where its config can say so.

A config has one number for all layers: one `hidden_size`, one `intermediate_size`. Which number
sizes which dimension is found by building the model, without weights, with one number doubled
after the other; the numbers of a member then follow from its shapes.
"""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from manynet.errors import InputError
from manynet.family import Family, Note
from manynet.family.numbers import (
    WHOLE,
    Kept,
    Key,
    changed,
    numbers_of,
    on_meta,
    renumbered,
    shapes_of,
    sizes_of,
)
from manynet.models.lora import has_adapters, merge_adapters
from manynet.space import Allow, Choice, Space, Value

__all__ = ["describable", "plain_model"]

_COMBINATIONS = 4096
"""Values of widths beyond which combinations are not looked through."""


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
    state = {renumbered(name, kept): tensor for name, tensor in member.state_dict().items()}
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
    numbers = numbers_of(_class(model), model.config.to_json_string(use_diff=False))
    count = math.prod(len(choice.values) for choice in widths)
    if count > _COMBINATIONS:
        raise InputError(
            f"there are {count:,} combinations of {len(widths)} widths, too many to look each up "
            "in the config; make the family with uniform=True and fewer shares"
        )
    shares: list[dict[Value, dict[Key, float]]] = []
    for choice in widths:
        lowered = {v: sizes_of(family.at({**largest, choice.name: v})) for v in choice.values}
        whole = lowered[largest[choice.name]]
        shares.append({v: _ratios(whole, sizes) for v, sizes in lowered.items()})
    whole = sizes_of(family.at(largest))
    rows = []
    for row in itertools.product(*(choice.values for choice in widths)):
        sizes = dict(whole)
        for share, value in zip(shares, row, strict=True):
            for key, ratio in share[value].items():
                sizes[key] = sizes[key] * ratio
        if numbers.describe(model.config, sizes):
            rows.append(row)
    return tuple(rows)


def _ratios(whole: Mapping[Key, float], sizes: Mapping[Key, float]) -> dict[Key, float]:
    return {
        key: size / whole[key]
        for key, size in sizes.items()
        if whole.get(key) not in (size, 0, None)
    }


def _class(model: nn.Module) -> Any:
    return type(model)


def _described(member: nn.Module) -> tuple[Any, Kept]:
    """Return the member's config, and which layers of each list it has kept."""
    config: Any = getattr(member, "config", None)
    if config is None or not callable(getattr(config, "to_diff_dict", None)):
        raise InputError(
            f"{type(member).__name__} has no config of transformers, so it cannot be written as a "
            "plain model of that library; use format='safetensors'"
        )
    if _says_all(config, member):
        return copy.deepcopy(config), {}
    found = numbers_of(_class(member), config.to_json_string(use_diff=False))
    kept = _kept(member, found.tensors)
    shapes = shapes_of(member, kept)
    layers = len(next(iter(kept.values()))) if kept else None
    values = found.solve(sizes_of(member, kept), layers)
    made = changed(config, values, kept)
    model = None if made is None else on_meta(type(member), made)
    said = {} if model is None else shapes_of(model, {})
    wrong = sorted(n for n in said.keys() | shapes.keys() if said.get(n) != shapes.get(n))
    if model is None or wrong:
        numbers = ", ".join(f"{name}={value}" for name, value in values.items())
        numbers = numbers or "its own numbers"
        why = (
            "the class refuses it"
            if model is None
            else f"{wrong[0]} has shape {shapes.get(wrong[0])}, and would have {said.get(wrong[0])}"
        )
        raise InputError(
            f"no config of {type(member).__name__} describes this member (with {numbers}, "
            f"{why}); make the family with uniform=True and `describable`, or write "
            "format='safetensors'"
        )
    return made, kept


def _says_all(config: Any, member: nn.Module) -> bool:
    """Return whether a model made from a member's own config has its shapes and factors."""
    own = on_meta(type(member), config)
    if own is None:
        return False
    made, found = (
        {key: size for key, size in sizes_of(model).items() if key[0] != WHOLE}  # some unread
        for model in (own, member)
    )
    return made == found


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
