"""`fit_dictionary` and `fit_low_rank`: a trained network, stored in fewer numbers, not trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from manynet.bindings import Binding, LowRank, Mix, Tie
from manynet.bindings.site import Group, Site
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.apply import bind
from manynet.family.blueprint import Note, Report
from manynet.fit._allocate import allocate
from manynet.fit._factor import PCA, root_of, whitened_low_rank
from manynet.fit._plan import Options, Shape, Stack, even_shape
from manynet.fit._sites import embedding_parameters, projections
from manynet.fit._watch import drift, input_grams, runs

__all__ = ["fit_dictionary", "fit_low_rank"]

Where = str | Sequence[str]


def fit_dictionary(
    model: nn.Module,
    data: Any,
    *,
    share: float,
    where: Where = "*",
    groups: int | Sequence[Sequence[int]] | None = None,
    atoms: int | None = None,
    example_inputs: tuple[Any, ...] = (),
) -> Family:
    """Return a trained network as a family of a given size, whose layers share atoms.

    Within each group of similar layers, the matrices of one place become mixtures of a few shared
    atoms (principal components of whole matrices), and each gets a low-rank residual that heeds
    what goes into it. How many atoms and how much rank each group and each matrix gets follows
    from the error on the calibration data: greedily, by what a stored number takes away. A group
    may also be left as it is. Nothing is trained, and the family can be trained.

    Args:
        model: the network; it stays as it is.
        data: calibration data: tensors, a data set or batches; targets are not looked at.
        share: how many bytes the network may take but for its embedding tables (and linear maps
            back to their entries), as a share of what it takes now.
        where: patterns of the weights to fit, such as `"*attn*"`; by default all linear weights of
            the repeated blocks. The others are kept.
        groups: runs of similar layers, by their number (by default one for eight layers) or as
            lists of block numbers; they are cut where the logit lens drifts most.
        atoms: so many in every group, and none is left as it is; by default what is best.
        example_inputs: to count MACs with, for the report.

    Returns:
        a family of one member; its report tells atoms, ranks and error of each group.

    Raises:
        InputError: the share is out of reach with these weights, or an argument does not fit.

    Reference: Zhussip et al. 2026, arXiv 2508.04581. The cut, the number of atoms and the
    allocation are ours where the paper's could not be confirmed.

    Example:
        >>> from manynet.models import small_gpt
        >>> model = small_gpt(20, width=16, depth=4)
        >>> tokens = torch.randint(20, (4, 16), generator=torch.Generator().manual_seed(0))
        >>> family = fit_dictionary(model, tokens, share=0.8)
        >>> x = family.at({})(tokens)
    """
    places = projections(model, where)
    layers = max(len(names) for names in places.values())
    parts = _parts(model, data, groups, layers)
    stacks = _stacks(model, _in_runs(places, parts), input_grams(model, data, _flat(places)))
    budget = _budget(model, stacks, share)
    if atoms is None:
        options = [Options(stack, range(stack.layers)) for stack in stacks]
    else:
        options = [Options(s, [min(atoms, s.layers)], dense=False) for s in stacks]
    return _fitted(model, _chosen(options, budget), example_inputs)


def fit_low_rank(
    model: nn.Module,
    data: Any = None,
    *,
    share: float,
    where: Where = "*",
    even: bool = False,
    example_inputs: tuple[Any, ...] = (),
) -> Family:
    """Return a trained network as a family of a given size, whose matrices are of low rank.

    Args:
        model: the network; it stays as it is.
        data: calibration data, whose inputs each truncation heeds; None for a plain singular value
            decomposition.
        share: how many bytes the network may take but for its embedding tables, as a share of what
            it takes now.
        where: patterns of the weights to fit; by default all linear weights of the blocks.
        even: whether all matrices keep the same share of their numbers; by default ranks follow
            the error, and a matrix may be left as it is.
        example_inputs: to count MACs with, for the report.

    Raises:
        InputError: the share is out of reach with these weights.

    Reference: Wang et al. 2024, arXiv 2403.07378 (SVD-LLM).

    Example:
        >>> from manynet.models import small_gpt
        >>> family = fit_low_rank(small_gpt(20, width=16, depth=4), share=0.8)
    """
    places = projections(model, where)
    names = _flat(places)
    grams = None if data is None else input_grams(model, data, names)
    stacks = _stacks(model, [(name,) for name in names], grams)
    budget = _budget(model, stacks, share)
    if even:
        part = budget / sum(stack.dense for stack in stacks)
        chosen = [(stack, even_shape(stack, part)) for stack in stacks]
    else:
        chosen = _chosen([Options(stack, [0]) for stack in stacks], budget)
    return _fitted(model, chosen, example_inputs)


def _flat(places: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for names in places.values() for name in names]


def _parts(
    model: nn.Module, data: Any, groups: int | Sequence[Sequence[int]] | None, layers: int
) -> list[Sequence[int]]:
    """Return the block numbers of each group of layers."""
    if groups is None:
        groups = max(1, round(layers / 8))
    if isinstance(groups, int):
        if groups == 1:
            return [range(layers)]
        return list(runs(drift(model, data), groups))
    counted = sorted(number for group in groups for number in group)
    if counted != list(range(layers)):
        raise InputError(f"groups name the blocks {counted}; they should name 0 to {layers - 1}")
    return list(groups)


def _in_runs(
    places: Mapping[str, Sequence[str]], parts: Sequence[Sequence[int]]
) -> list[tuple[str, ...]]:
    """Return the names of each group; a place that some blocks lack is one group."""
    found: list[tuple[str, ...]] = []
    layers = sum(len(part) for part in parts)
    for names in places.values():
        if len(names) == layers:
            found += [tuple(names[number] for number in part) for part in parts]
        else:
            found.append(tuple(names))
    return found


def _stacks(
    model: nn.Module, groups: Sequence[Sequence[str]], grams: Mapping[str, Tensor] | None
) -> list[Stack]:
    values = {name: p.detach() for name, p in model.named_parameters()}
    known: dict[int, Tensor] = {}  # layers with the same inputs share one root

    def root(name: str) -> Tensor:
        size = values[name].shape[1]
        key = size if grams is None else id(grams[name])
        if key not in known:
            unit = torch.eye(size, dtype=torch.float64, device=values[name].device)
            known[key] = unit if grams is None else root_of(grams[name])
        return known[key]

    return [
        Stack(names, torch.stack([values[n] for n in names]), [root(n) for n in names])
        for names in groups
    ]


def _budget(model: nn.Module, stacks: Sequence[Stack], share: float) -> int:
    """Return how many numbers the fitted weights may be."""
    if not 0 < share <= 1:
        raise InputError(f"share={share}; it is above 0 and at most 1")
    tables = embedding_parameters(model)
    sizes = {n: p.nbytes for n, p in model.named_parameters() if n not in tables}
    fitted = {name for stack in stacks for name in stack.names}
    other = sum(size for name, size in sizes.items() if name not in fitted)
    width = dict(model.named_parameters())[stacks[0].names[0]].element_size()
    budget = (share * sum(sizes.values()) - other) / width
    if budget < 0:
        raise InputError(
            f"share={share} of {sum(sizes.values()):,} bytes is less than the {other:,} that are "
            "not fitted; raise it, or let `where` name more weights"
        )
    return math.floor(budget)


def _chosen(options: Sequence[Options], budget: int) -> list[tuple[Stack, Shape]]:
    points = allocate([one.curve for one in options], budget)
    return [(one.stack, one.shape(point)) for one, point in zip(options, points, strict=True)]


def _fitted(
    model: nn.Module, chosen: Sequence[tuple[Stack, Shape]], example_inputs: tuple[Any, ...]
) -> Family:
    bound = {stack.names[0]: (stack, s) for stack, s in chosen if s.atoms is not None}
    if not bound:
        raise InputError("every matrix may be kept at this share, so there is nothing to fit")
    groups = [list(stack.names) for stack, _ in bound.values()]
    family = bind(model, groups, _recipe(bound), example_inputs=example_inputs)
    notes = [Note(stack.names[0], _words(stack, shape)) for stack, shape in chosen]
    old = family.blueprint
    report = Report(old.report.elastic, old.report.fixed, (*old.report.warnings, *notes))
    family.blueprint = replace(old, report=report)
    return family


def _words(stack: Stack, shape: Shape) -> str:
    start = f"and {stack.layers - 1} like it: " if stack.layers > 1 else ""
    if shape.atoms is None:
        return f"{start}kept"
    ranks = (
        f"ranks {min(shape.ranks)} to {max(shape.ranks)}"
        if stack.layers > 1
        else f"rank {shape.ranks[0]}"
    )
    return f"{start}{shape.atoms} atoms, {ranks}, error {shape.error / stack.layers:.2%}"


def _recipe(bound: Mapping[str, tuple[Stack, Shape]]) -> Callable[[Group], list[Binding]]:
    def apply(group: Group) -> list[Binding]:
        stack, shape = bound[group.sites[0].name]
        mixes = _mixes(group, stack, shape.atoms or 0)
        deltas = stack.left(shape.atoms or 0)
        found = []
        for number, site in enumerate(group.sites):
            rank = shape.ranks[number]
            low = _residual(site, deltas[number], rank, stack.roots[number])
            found.append(site.reads(_sum(mixes[number], low)))
        return found

    return apply


def _mixes(group: Group, stack: Stack, atoms: int) -> list[Binding | None]:
    if not atoms:
        return [None] * stack.layers
    found = (stack.pca or PCA(stack.weights)).atoms(atoms)
    like, size = group.sites[0].tensor, math.sqrt(stack.outputs * stack.inputs)
    shared = group.parameter("atoms", (found.atoms * size).to(like))
    own = (found.coefficients / size).to(like)
    return [
        Mix((shared,), site.parameter("coefficients", row))
        for site, row in zip(group.sites, own, strict=True)
    ]


def _sum(mix: Binding | None, low: Binding | None) -> Binding:
    if mix is None or low is None:
        found = mix or low
        assert found is not None  # without atoms there is a rank
        return found
    return Tie(mix, shift=low)


def _residual(site: Site, delta: Tensor, rank: int, root: Tensor) -> Binding | None:
    if not rank:
        return None
    left, right = (factor.to(site.tensor) for factor in whitened_low_rank(delta, rank, root))
    return LowRank(site.parameter("left", left), site.parameter("right", right))
