"""`hypernetwork`: a recipe that lets one small network generate all weights of a model."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manynet.bindings.derive import Block
from manynet.bindings.generate import Generate
from manynet.bindings.hyperfan import Fan, Target, hyperfan_init, target_of
from manynet.bindings.protocol import Binding
from manynet.bindings.recipes import Recipe
from manynet.bindings.route import Encode, Route
from manynet.bindings.site import Group, Site
from manynet.bindings.tie import Tie
from manynet.errors import InputError
from manynet.space import Choice

__all__ = ["Condition", "crossing", "hypernetwork"]

Condition = Choice | Sequence[Choice] | Literal["noise"] | None
"""What a generator is told: a learned code for each value of a choice (a task, a client), choices
of the space as numbers, random numbers, or one learned code."""

SMALLEST = 1e-5
"""The least variance of the vectors of chunks."""


def hypernetwork(
    output: Literal["whole", "chunks", "components"] = "whole",
    *,
    condition: Condition = None,
    code: int = 8,
    hidden: Sequence[int] = (100, 100),
    chunk: int = 1000,
    chunk_code: int = 8,
    spread: float = 1.0,
    fan: Fan = "in",
    gain: float = 2.0,
    seed: int = 0,
) -> Recipe:
    """Let one perceptron generate all weights of a group, of any shapes: `bind(together=True)`.

    It runs once a step for all of them. Where the family is elastic as well, it generates the
    weights of the largest member, of which the others are cut.

    Args:
        output: `"whole"` generates all numbers at once, from a head for each tensor with a start of
            its own; `"chunks"` runs once for each chunk of all numbers in turn, told a vector of
            the chunk; `"components"` runs once for each tensor.
        condition: what it is told beside.
        code: numbers of a learned or random code.
        hidden: widths of the hidden layers, with ReLU.
        chunk: numbers a chunk. One that spans many rows of weights is better than one row.
        chunk_code: numbers of the vector of a chunk or of a tensor.
        spread: standard deviation that codes start with.
        fan: what the generated layers keep at the start; for norms, what they have now.
        gain: 2 where the generated layers have ReLU, 1 where they are linear.
        seed: of all random numbers.

    Warns:
        RuntimeWarning: codes start too large for the chunks' vectors to bring the generated numbers
            to the size that they should have.

    Raises:
        InputError: a size is below 1, or the output is unknown.

    Reference: Chauhan et al. 2024, arXiv 2306.06955 (a review); von Oswald et al. 2020, arXiv
        1906.00695 (chunks); Chang et al. 2020, arXiv 2312.08399 (the start).
    """
    if output not in ("whole", "chunks", "components"):
        raise InputError(f"output={output!r} is unknown; use whole, chunks or components")
    if isinstance(condition, str) and condition != "noise":
        raise InputError(f"condition={condition!r} is unknown; use noise, or give a Choice")
    if min([code, chunk, chunk_code, *hidden]) < 1:
        raise InputError("the sizes of a hypernetwork are at least 1")
    plan = _Plan(output, condition, code, tuple(hidden), chunk, chunk_code, spread, fan, gain)

    def apply(group: Group) -> list[Binding]:
        return _bound(group, plan, torch.Generator().manual_seed(seed))

    return apply


@dataclass(frozen=True)
class _Plan:
    output: str
    condition: Condition
    code: int
    hidden: tuple[int, ...]
    chunk: int
    chunk_code: int
    spread: float
    fan: Fan
    gain: float


def _bound(group: Group, plan: _Plan, generator: torch.Generator) -> list[Binding]:
    shapes = {site.name: tuple(site.tensor.shape) for site in group.sites}
    targets = [target_of(site.name, shapes) for site in group.sites]
    wanted = [target.variance(plan.fan, plan.gain) for target in targets]
    sizes = [site.tensor.numel() for site in group.sites]
    length = {"whole": sum(sizes), "chunks": plan.chunk, "components": max(sizes)}[plan.output]
    starts = [*itertools.accumulate(sizes, initial=0)]
    if plan.output == "components":
        starts = [number * length for number in range(len(sizes) + 1)]
    count = -(-starts[-1] // length)
    chunked = plan.output != "whole"
    code, numbers = _code(group, plan, generator)
    inputs = numbers + (plan.chunk_code if chunked else 0)
    layers = [*_hidden(group, [inputs, *plan.hidden], generator)]
    last, square = plan.hidden[-1] if plan.hidden else inputs, plan.spread**2
    if chunked:
        each = _per_chunk(list(zip(starts, sizes, wanted, strict=False)), length, count)
        chunks = group.parameter("chunks", _vectors(each, plan, numbers, generator))
        weight = hyperfan_init(1, inputs=last, generator=generator, outputs=length)
        bias = torch.zeros(length)
    else:
        chunks = None
        heads = [
            hyperfan_init(v, inputs=last, square=square, generator=generator, outputs=size)
            for v, size in zip(wanted, sizes, strict=True)
        ]
        weight, bias = torch.cat(heads), _norms(group.sites, targets)
    like = group.sites[0].tensor
    layers += [group.parameter("head_weight", weight.to(like))]
    layers += [group.parameter("head_bias", bias.to(like))]
    generated = Generate(code, tuple(layers), (starts[-1],), chunks)
    return [
        _read(site, target, Block(generated, start, tuple(site.tensor.shape)), chunked)
        for site, target, start in zip(group.sites, targets, starts, strict=False)
    ]


def _read(site: Site, target: Target, block: Block, chunked: bool) -> Binding:
    """Return what a site reads; chunks, which have one start for all, leave norms as they are."""
    if not chunked or target.kind != "norm":
        return site.reads(block)
    return site.reads(Tie(block, shift=site.buffer("start", site.tensor)))


def _norms(sites: Sequence[Site], targets: Sequence[Target]) -> Tensor:
    """Return the biases of the heads: zero, and for norms what they have now."""
    parts = [
        site.tensor.flatten().float().cpu() * (target.kind == "norm")
        for site, target in zip(sites, targets, strict=True)
    ]
    return torch.cat(parts)


def _code(group: Group, plan: _Plan, generator: torch.Generator) -> tuple[Binding, int]:
    """Return what the generator is told, and how many numbers that is."""
    like, condition = group.sites[0].tensor, plan.condition

    def normal() -> Tensor:
        return (torch.randn(plan.code, generator=generator) * plan.spread).to(like)

    if condition is None:
        return group.parameter("code", normal()), plan.code
    if isinstance(condition, str):
        return _buffer(group, "noise", normal()), plan.code
    if isinstance(condition, Choice):
        group.choice(condition)
        codes = tuple(group.parameter(f"code.{value}", normal()) for value in condition.values)
        return Route(condition.name, condition.values, codes), plan.code
    choices = list(condition)
    kind = _buffer(group, "kind", torch.zeros(1).to(like))
    values = tuple(choice.values for choice in choices)
    encoded = Encode(tuple(choice.name for choice in choices), values, kind)
    plain = [all(isinstance(v, int | float) for v in choice.values) for choice in choices]
    count = sum(1 if one else len(c.values) for one, c in zip(plain, choices, strict=True))
    return encoded, count


def _buffer(group: Group, role: str, value: Tensor) -> Binding:
    return group.whole(group.add(f"{group.sites[0].name}.shared_{role}", value))


def _hidden(group: Group, widths: Sequence[int], generator: torch.Generator) -> list[Binding]:
    """Return the hidden layers, which keep the mean square of what comes in."""
    like, layers = group.sites[0].tensor, []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        weight = torch.randn(outputs, inputs, generator=generator) * math.sqrt(2 / inputs)
        layers.append(group.parameter(f"weight{number}", weight.to(like)))
        layers.append(group.parameter(f"bias{number}", torch.zeros(outputs).to(like)))
    return layers


def _per_chunk(parts: Sequence[tuple[int, int, float]], length: int, count: int) -> list[float]:
    """Return the mean of the wanted variances of each chunk's entries."""
    sums, entries = [0.0] * count, [0] * count
    for start, size, variance in parts:
        for number in range(start // length, -(-(start + size) // length)):
            inside = min(start + size, (number + 1) * length) - max(start, number * length)
            sums[number] += inside * variance
            entries[number] += inside
    return [total / inside for total, inside in zip(sums, entries, strict=True)]


def _vectors(
    wanted: Sequence[float], plan: _Plan, numbers: int, generator: torch.Generator
) -> Tensor:
    """Return a vector for each chunk, of the size that makes the generated numbers right."""
    code, vector = numbers * plan.spread**2, plan.chunk_code
    found = [((numbers + vector) * variance - code) / vector for variance in wanted]
    if any(value < SMALLEST for value, variance in zip(found, wanted, strict=True) if variance):
        warnings.warn(
            f"codes of variance {plan.spread**2:g} make the generated numbers larger than they "
            f"should be, a variance of at least {code / (numbers + vector):.2g} where "
            f"{min(v for v in wanted if v):.2g} is wanted; lower spread, or raise chunk_code",
            RuntimeWarning,
            stacklevel=4,
        )
    sizes = torch.tensor([max(SMALLEST, value) for value in found]).sqrt()
    return torch.randn(len(wanted), vector, generator=generator) * sizes[:, None]


def crossing(numbers: int, code: int) -> int:
    """Return from how many tasks on a whole generator is smaller than a network for each.

    Example:
        >>> crossing(13_258, 8)
        10
    """
    # the head alone has `code + 1` numbers a weight; every task adds a code
    return (code + 1) * numbers // (numbers - code) + 1
