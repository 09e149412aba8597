"""`Superpose`: all slices of a weight at once, each with a share, as one mask on the largest.

Every choice has one share for each of its values. A slice, padded with zeros to the largest shape,
counts as much as the shares of its sizes multiplied, and the sum over all of them is the weight
times a mask. The mask is a product over choices, so it costs nothing to have many combinations: a
position of a dimension counts as much as the sizes that reach it. Only a choice that cuts a weight
twice, such as the width of both sides of a square matrix, is summed value by value.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manynet.bindings.axes import Axis, Concat, Dim, DimTable
from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.errors import InputError
from manynet.space import Arch

__all__ = ["Superpose", "superposed"]

Values = Mapping[str, tuple[int, ...]]
"""The sizes that each choice has, by its name."""


@dataclass(frozen=True)
class Superpose(Operation, kind="superpose"):
    """The sum of all slices of a weight, each padded with zeros and times its share.

    With a share of one for a single size of each choice, this is that member's weight.

    Args:
        weight: the whole weight.
        dims: what each of its dimensions is made of; the axes that are cut bear the choices' names.
        choices: names of the choices that cut it.
        values: the sizes of each.
        shares: `(values,)` for each choice: how much each size counts.

    Reference: Sukthanker et al. 2023, arXiv 2312.10440 (TangleNAS), weight superposition and its
    combination over several choices. We write the sum as a mask, which is the same number.
    """

    weight: Binding
    dims: tuple[Dim, ...]
    choices: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    shares: tuple[Binding, ...]

    def value(self, arch: Arch, weight: Tensor, shares: tuple[Tensor, ...]) -> Tensor:
        """Return the superposition."""
        values = dict(zip(self.choices, self.values, strict=True))
        return superposed(
            weight, self.dims, values=values, shares=dict(zip(self.choices, shares, strict=True))
        )

    def to_json(self, table: DimTable) -> dict[str, object]:
        """Return the binding as JSON values."""
        return {**super().to_json(table), "dims": [table.encode(dim) for dim in self.dims]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], table: DimTable) -> Binding:
        """Return the binding that `to_json` wrote."""
        rest = super().from_json({**data, "dims": []}, table)
        assert isinstance(rest, Superpose)
        dims = tuple(table.decode(dim) for dim in data["dims"])
        return cls(rest.weight, dims, rest.choices, rest.values, rest.shares)


def superposed(
    weight: Tensor, dims: Sequence[Dim], *, values: Values, shares: Mapping[str, Tensor]
) -> Tensor:
    """Return the sum of the padded slices of `weight`, each times its shares.

    Args:
        weight: the largest.
        dims: what each of its dimensions is made of.
        values: the sizes of each choice; an axis with the name of one is cut to them.
        shares: how much each size counts, by the choice's name; shape `(values,)`.

    Raises:
        InputError: a choice has other than one share a value.

    Example:
        >>> import torch
        >>> row = (Axis("width", 4, None),)
        >>> superposed(torch.ones(4), (row,), values={"width": (2, 4)},
        ...            shares={"width": torch.tensor([0.3, 0.7])})
        tensor([1.0000, 1.0000, 0.7000, 0.7000])
    """
    for name, share in shares.items():
        if share.shape != (len(values[name]),):
            raise InputError(
                f"the choice {name!r} has {len(values[name])} values and shares of shape "
                f"{tuple(share.shape)}; give one share a value"
            )
    for together in _components(dims, shares):
        mask = _mask([dims[dim] for dim in together], values, shares).to(weight.dtype)
        shape = [weight.shape[n] if n in together else 1 for n in range(weight.dim())]
        weight = weight * mask.view(shape)
    return weight


def _degrees(dim: Dim, names: Iterable[str]) -> Counter[str]:
    """Count how often each choice is a factor of the mask of `dim`; parts end to end are sums."""
    found: Counter[str] = Counter()
    for factor in dim:
        if isinstance(factor, Concat):
            own: Counter[str] = Counter()
            for part in factor.parts:
                own |= _degrees(part, names)
            found += own
        elif factor.frozen is None and factor.name in names:
            found[factor.name] += 1
    return found


def _components(dims: Sequence[Dim], names: Iterable[str]) -> list[list[int]]:
    """Return the dimensions that are cut, together where one choice cuts several of them."""
    groups: list[tuple[set[str], list[int]]] = []
    for number, dim in enumerate(dims):
        own = set(_degrees(dim, names))
        if not own:
            continue
        met = [group for group in groups if group[0] & own]
        groups = [group for group in groups if not group[0] & own]
        merged = own.union(*(group[0] for group in met))
        groups.append((merged, sorted([number, *(n for group in met for n in group[1])])))
    return [numbers for _, numbers in groups]


def _mask(dims: Sequence[Dim], values: Values, shares: Mapping[str, Tensor]) -> Tensor:
    """Return the mask of dimensions that hang together."""
    degrees: Counter[str] = sum((_degrees(dim, shares) for dim in dims), Counter())
    once = {name: shares[name] for name, degree in degrees.items() if degree == 1}
    often = [name for name, degree in degrees.items() if degree > 1]
    if not often:
        return _outer([_positions(dim, values, once) for dim in dims])
    total: Tensor | None = None
    for places in itertools.product(*(range(len(values[name])) for name in often)):
        hot, factor = dict(once), shares[often[0]].new_ones(())
        for name, place in zip(often, places, strict=True):
            hot[name] = _one_hot(place, len(values[name]), factor.dtype, factor.device)
            factor = factor * shares[name][place]
        term = factor * _outer([_positions(dim, values, hot) for dim in dims])
        total = term if total is None else total + term
    assert total is not None
    return total


def _positions(dim: Dim, values: Values, shares: Mapping[str, Tensor]) -> Tensor:
    """Return how much each position of a dimension counts."""
    like = next(iter(shares.values()))
    parts: list[Tensor] = []
    for factor in dim:
        if isinstance(factor, Concat):
            parts.append(torch.cat([_positions(part, values, shares) for part in factor.parts]))
        elif factor.name in shares and factor.frozen is None:
            reach = _reach(factor, values[factor.name], like.dtype, like.device)
            parts.append(shares[factor.name] @ reach)
        else:
            parts.append(like.new_ones(factor.size))
    return _outer(parts).flatten() if parts else like.new_ones(1)


def _outer(parts: Sequence[Tensor]) -> Tensor:
    return functools.reduce(lambda left, right: left.unsqueeze(-1) * right, parts)


@functools.lru_cache(maxsize=4096)
def _reach(axis: Axis, values: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return which positions a member of each size keeps; shape `(values, axis.size)`."""
    with torch.inference_mode(False):
        reach = torch.zeros(len(values), axis.size, dtype=dtype)
        for row, size in zip(reach, values, strict=True):
            row[axis.kept(size)] = 1
        return reach.to(device)


@functools.lru_cache(maxsize=4096)
def _one_hot(place: int, count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return (torch.arange(count) == place).to(device, dtype)
