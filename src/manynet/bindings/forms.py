"""`quantized`: rounded weights, whose bits, granularity and symmetry may be choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim
from manynet.bindings.operation import ByArch
from manynet.bindings.protocol import Binding
from manynet.bindings.quantize import Quantize, groups_of
from manynet.bindings.rounding import best_levels
from manynet.bindings.route import Route, Row
from manynet.bindings.site import Group, Site
from manynet.bindings.slice import Slice
from manynet.errors import InputError
from manynet.space import Choice, Value

__all__ = ["by_value", "level_tables", "quantized"]

Per = str | int
V = TypeVar("V", bound=Value)


def quantized(
    bits: int | Sequence[int] = 8,
    *,
    per: Per | Sequence[Per] = "channel",
    symmetric: bool | Sequence[bool] = True,
    learned: bool = False,
) -> Callable[[Group], Sequence[Binding]]:
    """Round each weight; several values of a setting become a choice for each site.

    The choices are called `NAME.bits`, `NAME.per` and `NAME.symmetric`.

    Args:
        bits: from 2 to 8; 16 and more leave the weight as it is.
        per: `"tensor"`, `"channel"`, or the size of a group of entries, of which each has a scale.
        symmetric: whether zero lies in the middle of the levels.
        learned: learn a step for each form (and an offset, where the form is not symmetric), in
            tables beside the weight. They start where rounding loses least; see `best_levels`.
            Without, the scale follows from the largest entry.

    Example:
        >>> import manynet
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> family = manynet.bind(model, nn.Linear, quantized((2, 4, 8), learned=True))
        >>> family.space.count, [name for name in family.extra if name.startswith("0.")]
        (9, ['0.weight.step.channel.symmetric'])
    """
    widths, pers, forms = _values(bits), _values(per), _values(symmetric)
    if not (widths and pers and forms):
        raise InputError(f"quantized(bits={bits}, per={per}, symmetric={symmetric}): one is empty")
    wrong = [width for width in widths if not _is_width(width)]
    if wrong:
        raise InputError(
            f"quantized: bits is {wrong[0]!r}; give whole numbers from 2 to 8, or 16 and more to "
            "leave a weight as it is"
        )
    widths = tuple(sorted(widths))

    def apply(group: Group) -> list[Binding]:
        return [
            Quantize(
                site.weight,
                _setting(site, "bits", widths),
                _setting(site, "per", pers),
                _setting(site, "symmetric", forms),
                *(_tables(site, widths, pers, forms) if learned else ()),
            )
            for site in group.sites
        ]

    return apply


def _is_width(bits: object) -> bool:
    return isinstance(bits, int) and (2 <= bits <= 8 or bits >= 16)


def _values(setting: V | Sequence[V]) -> tuple[V, ...]:
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        return tuple(setting)
    return (cast("V", setting),)


def _setting(site: Site, role: str, values: tuple[V, ...]) -> V | ByArch:
    """Return the one value, or add the choice of several."""
    if len(values) == 1:
        return values[0]
    name = f"{site.name}.{role}"
    site.group.choice(Choice(name, values))
    return ByArch(name)


def _tables(
    site: Site,
    bits: tuple[int, ...],
    pers: tuple[Per, ...],
    symmetric: tuple[bool, ...],
) -> tuple[Binding, Binding | None]:
    """Add the tables of steps and offsets of one weight; return how its form reads them."""
    steps: dict[Per, Binding] = {}
    offsets: dict[Per, Binding] = {}
    for per in pers:
        rows = groups_of(site.tensor.detach().float(), per)
        dim: Dim = () if len(rows) == 1 else (Axis("", len(rows), "whole"),)
        if per == "channel":
            dim = site.dims[0]
        step, offset = level_tables(
            site.group,
            f"{site.name}.{{role}}.{per}",
            lambda bits, symmetric, rows=rows: best_levels(rows, bits, symmetric=symmetric),  # type: ignore[misc]
            bits,
            symmetric,
            dim=dim,
            like=site.tensor,
            choices=site.name,
        )
        steps[per] = step
        if offset is not None:
            offsets[per] = offset
    name = f"{site.name}.per"
    return by_value(name, steps), by_value(name, offsets) if offsets else None


def level_tables(
    group: Group,
    name: str,
    levels: Callable[[int, bool], tuple[Tensor, Tensor]],
    bits: Sequence[int],
    symmetric: Sequence[bool],
    *,
    dim: Dim,
    like: Tensor,
    choices: str,
) -> tuple[Binding, Binding | None]:
    """Add tables of steps and of offsets to a group, a row for each number of bits.

    Args:
        group: what they belong to.
        name: of the tables, with `{role}` where `step` or `offset` stands.
        levels: gives step and offset of one form, from its bits and its symmetry.
        bits: of the rows.
        symmetric: the forms, each with a table of its own.
        dim: what a row is made of.
        like: says type and device.
        choices: the choices are `CHOICES.bits` and `CHOICES.symmetric`.

    Returns:
        How steps and offsets are read; None where no form has an offset.
    """
    steps: dict[bool, Binding] = {}
    offset: Binding | None = None
    for form in symmetric:
        found = [levels(min(own, 8), form) for own in bits]  # 16 bits and more use none
        word = "symmetric" if form else "asymmetric"
        stacked = [torch.cat([pair[n] for pair in found]).to(like) for n in (0, 1)]
        by = (f"{choices}.bits", bits)
        tables = [
            _table(group, f"{name}.{word}".format(role=role), values, dim, by)
            for role, values in zip(("step", "offset"), stacked, strict=True)
            if role == "step" or not form
        ]
        steps[form], offset = tables[0], offset if form else tables[1]
    return by_value(f"{choices}.symmetric", steps), offset


def _table(
    group: Group, name: str, values: Tensor, dim: Dim, by: tuple[str, Sequence[Value]]
) -> Binding:
    """Add a table to a group, as one vector, and return how the row of a choice is read."""
    choice, keys = by
    name = group.add(name, nn.Parameter(values.detach().clone()))
    table = Slice(name, ((Axis("", len(keys), "whole"), *dim),))
    return table if len(keys) == 1 else Row(table, choice, tuple(keys))


def by_value(choice: str, options: Mapping[V, Binding]) -> Binding:
    """Return the binding that reads one of `options`, by the value of a choice."""
    if len(options) == 1:
        return next(iter(options.values()))
    return Route(choice, tuple(options), tuple(options.values()))
