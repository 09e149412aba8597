"""`bind`: apply a binding to a model or a family, in one call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from torch import Tensor, nn

from manynet._inputs import Example, positional
from manynet.bindings import recipes
from manynet.bindings.protocol import Binding
from manynet.bindings.site import Group, Site
from manynet.errors import InputError
from manynet.family._family import Family
from manynet.family._saved import saved_report
from manynet.family._where import Sites, Where, groups_of, split
from manynet.family.skeleton import Skeleton
from manynet.space import Choice, Space

__all__ = ["bind"]


def bind(
    target: nn.Module | Family,
    where: Where,
    with_: recipes.Recipe,
    *,
    together: bool = False,
    example_inputs: Example = (),
) -> Family:
    """Return a family in which the weights that `where` names are bound with `with_`.

    Args:
        target: a model, which stays as it is, or a family, whose bindings the new ones read
            through; the new family owns its weights from then on.
        where: which weights: those of all modules of a type, or of a tuple of types; those whose
            names match a pattern, such as `"blocks.*.attn.qkv.weight"`, or one of several; or
            groups of patterns, each of which is bound on its own. A pattern that fits no parameter
            may name buffers, such as `"*.running_mean"`. Layers that share one tensor, under
            names of their own or by an earlier `tied()`, go on sharing it: naming one names all.
        with_: a recipe of `manynet.bindings.recipes`, or any function that takes a `Group` and
            returns one binding for each of its sites. Sites of different shapes make groups of
            their own.
        together: whether sites of different shapes stay in one group, as a weight and its bias do
            that one router mixes.
        example_inputs: inputs to count MACs with, in any form that `manynet.elastic` takes; a
            family's own where it has some.

    Returns:
        The family; its report says what was bound and what that saves.

    Raises:
        InputError: a part of `where` names nothing, one tensor is in two groups, the recipe gives
            other than one binding a site, a binding gives another shape than its site has, or the
            model does not run on `example_inputs`.

    Example:
        >>> import torch
        >>> from manynet.bindings.recipes import quantized
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = bind(model, torch.nn.Linear, quantized((2, 4, 8)))
        >>> family.space.count
        9
    """
    family = target if isinstance(target, Family) else _plain(target)
    _check_recipe(with_)
    largest = family.extract(family.space.largest)
    given = isinstance(example_inputs, Tensor) or len(example_inputs) > 0
    inputs = positional(largest, example_inputs) if given else family.example_inputs
    sites = Sites.of(largest)
    asked = groups_of(largest, sites, where)
    groups = asked if together else [part for names in asked for part in split(names, sites.values)]
    bindings, extra = dict(family.blueprint.bindings), dict(family.extra)
    choices, constraints = list(family.space.choices), list(family.space.constraints)
    for names in groups:
        group = Group(taken=extra)
        group.sites = [
            Site(n, sites.values[n], bindings.get(n), group, n not in sites.trained) for n in names
        ]
        bound = dict(zip(names, _bindings_of(with_, group), strict=True))
        bindings |= bound
        bindings |= {n: bound[sites.first[n]] for n in _sharing(family, sites, names)}
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
        replace(before, bindings=bindings),
        extra={n: t for n, t in extra.items() if n in read or n in family.extra},
        example_inputs=inputs,
        source=family.source,
    )
    report = saved_report(largest, new, groups, inputs)
    new.blueprint = replace(before, bindings=bindings, report=report)
    return new.train(family.training)


def _plain(model: nn.Module) -> Family:
    """Return the family whose only member is a copy of `model`."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"bind takes a model (a torch.nn.Module) or a family; found {type(model).__name__}"
        )
    own = [*model.named_parameters(), *model.named_buffers()]
    tensors: dict[str, Tensor] = {
        name: nn.Parameter(t.detach().clone(), requires_grad=t.requires_grad)
        if isinstance(t, nn.Parameter)
        else t.detach().clone()
        for name, t in own
    }
    shared, _ = Skeleton(model).build(tensors)
    return Family(shared)


def _sharing(family: Family, sites: Sites, names: Sequence[str]) -> list[str]:
    """Return other tensors of the family that members read as one of `names`, as tied layers do."""
    own = [n for n, _ in [*family.shared.named_parameters(), *family.shared.named_buffers()]]
    asked = set(names)
    return [n for n in own if n not in asked and sites.first.get(n) in asked]


def _check_recipe(recipe: object) -> None:
    name = getattr(recipe, "__name__", type(recipe).__name__)
    if not callable(recipe):
        raise InputError(
            f"with_ is {recipe!r}; give a recipe, such as manynet.bindings.recipes.quantized(4)"
        )
    if not _takes_one(recipe) or any(recipe is getattr(recipes, n) for n in recipes.__all__):
        raise InputError(
            f"with_ is {name}, which makes recipes and is none; did you mean {name}(…)?"
        )


def _takes_one(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # there is no signature to read
        return True
    return True


def _bindings_of(recipe: recipes.Recipe, group: Group) -> list[Binding]:
    found = recipe(group)
    name = getattr(recipe, "__name__", "the recipe")
    if not isinstance(found, Iterable):
        raise InputError(
            f"{name} gave {type(found).__name__} for a group of sites, and should give one binding "
            f"for each; did you mean {name}(…)?"
        )
    bound = list(found)
    if len(bound) != len(group.sites):
        raise InputError(
            f"the recipe gave {len(bound)} bindings for {len(group.sites)} sites; give one a site"
        )
    for one, site in zip(bound, group.sites, strict=True):
        if not (hasattr(one, "at") and hasattr(one, "to_json")):
            raise InputError(
                f"the recipe gave {type(one).__name__} for {site.name!r}, which is no binding; "
                "see docs/how-to/binding.md"
            )
    return bound


def _is_new(choice: Choice, choices: Sequence[Choice]) -> bool:
    known = next((one for one in choices if one.name == choice.name), None)
    if known is not None and known.values != choice.values:
        raise InputError(
            f"the choice {choice.name!r} has the values {known.values} already, and this recipe "
            f"wants {choice.values}; give both the same values, or another name"
        )
    return known is None
