"""`bind`: apply a binding to a model or a family, in one call."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manynet.bindings.operation import Operation
from manynet.bindings.recipes import Recipe
from manynet.bindings.site import Group, Site
from manynet.errors import InputError
from manynet.family._family import Family
from manynet.family.blueprint import Blueprint, Note, Report
from manynet.family.skeleton import Skeleton
from manynet.space import Choice, Space

__all__ = ["bind"]

Where: TypeAlias = "type[nn.Module] | str | Sequence[str] | Sequence[Sequence[str]]"


def bind(
    target: nn.Module | Family,
    where: Where,
    with_: Recipe,
    *,
    together: bool = False,
    example_inputs: tuple[Any, ...] = (),
) -> Family:
    """Return a family in which the weights that `where` names are bound with `with_`.

    Args:
        target: a model, which stays as it is, or a family, whose bindings the new ones read
            through; the new family owns its weights from then on.
        where: which weights: those of all modules of a type; those whose names match a pattern,
            such as `"blocks.*.attn.qkv.weight"`, or one of several; or groups of patterns, each of
            which is bound on its own. A pattern that fits no parameter may name buffers, such as
            `"*.running_mean"`.
        with_: a recipe of `manynet.bindings.recipes`, or any function that takes a `Group` and
            returns one binding for each of its sites. Sites of different shapes make groups of
            their own.
        together: whether sites of different shapes stay in one group, as a weight and its bias do
            that one router mixes.
        example_inputs: inputs to count MACs with; a family's own where it has some.

    Returns:
        The family; its report says what was bound and what that saves.

    Raises:
        InputError: nothing matches, or the recipe gives other than one binding a site.

    Example:
        >>> import torch
        >>> from manynet.bindings.recipes import quantized
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = bind(model, torch.nn.Linear, quantized((2, 4, 8)))
        >>> family.space.count
        9
    """
    family = target if isinstance(target, Family) else _plain(target)
    inputs = example_inputs or family.example_inputs
    largest = family.extract(family.space.largest)
    trained = dict(largest.named_parameters())
    values = {n: t.detach() for n, t in [*trained.items(), *largest.named_buffers()]}
    asked = _groups(largest, values, where)
    groups = asked if together else [part for names in asked for part in _split(names, values)]
    bindings, extra = dict(family.blueprint.bindings), dict(family.extra)
    choices, constraints = list(family.space.choices), list(family.space.constraints)
    for names in groups:
        group = Group()
        group.sites = [Site(n, values[n], bindings.get(n), group, n not in trained) for n in names]
        bound = list(with_(group))
        if len(bound) != len(names):
            raise InputError(
                f"the recipe gave {len(bound)} bindings for {len(names)} sites; give one a site"
            )
        bindings |= dict(zip(names, bound, strict=True))
        extra |= group.extra
        constraints += [rule for rule in group.constraints if rule not in constraints]
        choices += [choice for choice in group.choices if _is_new(choice, choices)]
    read = {name for binding in bindings.values() for name in binding.reads}
    known = {**dict(family.shared.named_parameters()), **dict(family.shared.named_buffers())}
    lacking = sorted(read - known.keys() - extra.keys())
    if lacking:
        raise InputError(f"the bindings read {lacking[0]!r}, which is no tensor of the family")
    before = family.blueprint
    new = Family(
        family.shared,
        Space(tuple(choices), tuple(constraints)),
        Blueprint(bindings, before.follows, before.depths, before.report),
        extra={n: t for n, t in extra.items() if n in read or n in family.extra},
        example_inputs=inputs,
        source=family.source,
    )
    new.blueprint = Blueprint(
        bindings, before.follows, before.depths, _report(largest, new, groups, inputs)
    )
    return new.train(family.training)


def _plain(model: nn.Module) -> Family:
    """Return the family whose only member is a copy of `model`."""
    own = [*model.named_parameters(), *model.named_buffers()]
    tensors: dict[str, Tensor] = {
        name: nn.Parameter(t.detach().clone(), requires_grad=t.requires_grad)
        if isinstance(t, nn.Parameter)
        else t.detach().clone()
        for name, t in own
    }
    shared, _ = Skeleton(model).build(tensors)
    return Family(shared)


def _is_new(choice: Choice, choices: Sequence[Choice]) -> bool:
    known = next((one for one in choices if one.name == choice.name), None)
    if known is not None and known.values != choice.values:
        raise InputError(
            f"the choice {choice.name!r} has the values {known.values} already, and this recipe "
            f"wants {choice.values}; give both the same values, or another name"
        )
    return known is None


def _groups(model: nn.Module, values: dict[str, Tensor], where: Where) -> list[list[str]]:
    if isinstance(where, type):
        owned = {
            id(module._parameters["weight"])
            for module in model.modules()
            if isinstance(module, where) and module._parameters.get("weight") is not None
        }
        found = [[name for name, p in model.named_parameters() if id(p) in owned]]
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        groups = [[p] if isinstance(p, str) else list(p) for p in patterns]
        if all(isinstance(p, str) for p in patterns):
            groups = [[p for group in groups for p in group]]
        own = {name for name, _ in model.named_parameters()}
        fits = [{n for p in group for n in _fitting(p, values, own)} for group in groups]
        found = [[name for name in values if name in names] for names in fits]
    for group, asked in zip(found, [where] if len(found) == 1 else where, strict=True):  # type: ignore[arg-type]
        if not group:
            raise InputError(
                f"no parameter matches {asked!r}; the names are, for example, "
                f"{', '.join(list(values)[:4])}"
            )
    return found


def _fitting(pattern: str, values: Mapping[str, Tensor], parameters: set[str]) -> list[str]:
    """Return the parameters that a pattern names, or else the buffers."""
    names = [name for name in values if fnmatch.fnmatchcase(name, pattern)]
    return [name for name in names if name in parameters] or names


def _split(names: Sequence[str], values: dict[str, Tensor]) -> Iterator[list[str]]:
    shapes: dict[tuple[int, ...], list[str]] = {}
    for name in names:
        shapes.setdefault(tuple(values[name].shape), []).append(name)
    yield from shapes.values()


def _report(
    before: nn.Module, family: Family, groups: Sequence[Sequence[str]], inputs: tuple[Any, ...]
) -> Report:
    old = family.blueprint.report
    after = family.extract(family.space.largest)
    lines = [
        Note(
            names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it",
            type(family.blueprint.bindings[names[0]]).__name__.lower(),
        )
        for names in groups
    ]
    counts = [
        (
            "trained parameters",
            sum(p.numel() for p in before.parameters()),
            sum(p.numel() for p in family.parameters()),
        ),
        (
            "bytes of the family",
            _bytes(before.state_dict().values()),
            _bytes(family.state_dict().values()),
        ),
        (
            "bytes of the largest member",
            _bytes([*before.parameters(), *before.buffers()]),
            _member_bytes(family, after),
        ),
    ]
    if inputs:
        counts.append(("MACs of the largest member", _macs(before, inputs), _macs(after, inputs)))
    saved = [Note(name, f"{was:,} -> {now:,}") for name, was, now in counts]
    return Report((*old.elastic, *lines), old.fixed, (*old.warnings, *saved))


def _bytes(tensors: Any) -> int:
    return sum({id(t): t.numel() * t.element_size() for t in tensors}.values())


def _member_bytes(family: Family, member: nn.Module) -> int:
    """Return what the member takes on disk, packed integers counted as such."""
    total = 0.0
    for name, tensor in [*member.named_parameters(), *member.named_buffers()]:
        binding = family.blueprint.bindings.get(name)
        if isinstance(binding, Operation):
            total += binding.stored_bits(family.space.largest, tensor) / 8
        else:
            total += tensor.nbytes
    return round(total)


@torch.no_grad()
def _macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    mode = model.training
    with FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    model.train(mode)
    return int(counter.get_total_flops()) // 2
