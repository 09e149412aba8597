"""`cut` gives up positions of axes for good; `compact` finds those that nothing reads."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from manynet._inputs import call, device_of, evaluating, moved, positional, tensors_in
from manynet.bindings.axes import Axis, Dim, axes_of
from manynet.bindings.operation import walk
from manynet.bindings.slice import Slice
from manynet.elastic._reorder import Order, reordered
from manynet.elastic.convert import elastic
from manynet.errors import InputError, TraceError
from manynet.family import Family
from manynet.space import Choice, Space

__all__ = ["Cutting", "axes_in", "compact", "cut", "cut_state", "dims_of"]

Cutting = Callable[[str, Tensor], Tensor]
"""From a shared tensor's name, and a tensor of the shape that it had, to what is left of that."""


def dims_of(family: Family) -> dict[str, tuple[Dim, ...]]:
    """Return what the dimensions of the shared tensors are made of, for those that members cut."""
    found: dict[str, tuple[Dim, ...]] = {}
    for binding in family.blueprint.bindings.values():
        for part in walk(binding):
            if isinstance(part, Slice) and isinstance(part.source, str):
                elastic_ones = any(a.frozen is None for dim in part.dims for a in axes_of(dim))
                if elastic_ones or part.source not in found:
                    found[part.source] = part.dims
    return found


def axes_in(family: Family) -> dict[str, Axis]:
    """Return the axes that members cut, by name; those that share a name with others are not in."""
    dims = [dim for own in dims_of(family).values() for dim in own]
    axes = {axis: axis.name for dim in dims for axis in axes_of(dim) if axis.frozen is None}
    names = list(axes.values())
    return {name: axis for axis, name in axes.items() if names.count(name) == 1}


def cut(family: Family, keep: Mapping[str, Sequence[int]]) -> Cutting:
    """Keep only these positions of a family's axes, in place; the other weights are gone.

    The shared parameters stay the same objects with less in them, so an optimizer keeps them; hand
    its state and other averages to `cut_state`. Masks, statistics and what else hangs on an axis is
    cut alike. A choice loses the values above what is left, and gets that as its largest.

    Args:
        family: any that `elastic` has made, whatever else its weights are bound with.
        keep: the positions that stay, by the name of the axis; none is twice in it. An axis may
            lose all its positions where the network takes that, as `AtomicBlock` does.

    Returns:
        a function that cuts tensors which accompany shared ones, by these names.

    Raises:
        InputError: there is no such axis or position; nothing has been changed then.

    Example:
        >>> import manynet as mn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> family = mn.elastic(model, torch.zeros(1, 4), width=(0.5, 1.0))
        >>> _ = cut(family, {"0.width": (0, 2, 5, 6, 7)})
        >>> family.space.choices[0], family.shared[2]
        (Choice('0.width', (4, 5)), Linear(in_features=5, out_features=2, bias=True))
    """
    axes, dims = axes_in(family), dims_of(family)
    orders: dict[Axis, Order] = {}
    for name, positions in keep.items():
        axis = axes.get(name)
        order = np.array(sorted(set(positions)), dtype=np.int64)
        if axis is None:
            raise InputError(f"no axis {name!r} can be cut; there are {', '.join(list(axes)[:4])}")
        if len(order) < len(positions) or (
            len(order) and not 0 <= order[0] <= order[-1] < axis.size
        ):
            raise InputError(
                f"keep={{{name!r}: …}} must be different positions from 0 to {axis.size - 1}"
            )
        orders[axis] = order
    _check_known(family, dims, orders)

    def cutting(name: str, tensor: Tensor) -> Tensor:
        value = reordered(tensor, dims[name], orders) if name in dims else None
        return tensor if value is None else value

    with torch.no_grad():
        for name, tensor in family.state_dict().items():
            left = cutting(name, tensor)
            if left is not tensor:
                tensor.grad = None
                tensor.data = left
    kept = {a.name: tuple(int(n) for n in order) for a, order in orders.items()}
    new = {axis: dataclasses.replace(axis, size=len(order)) for axis, order in orders.items()}
    sizes = {axis.name: axis.size for axis in new.values()}
    choices = [_narrowed(choice, sizes) for choice in family.space.choices]
    family.cut_to(
        Space(tuple(choices), family.space.constraints), _renewed(family.blueprint, new), kept
    )
    return cutting


def cut_state(
    cutting: Cutting, named: Iterable[tuple[str, nn.Parameter]], optimizer: Optimizer
) -> None:
    """Cut what an optimizer remembers of parameters, such as momentum, as the parameters were cut.

    Args:
        cutting: what `cut` has returned.
        named: the parameters, cut already, with their names.
        optimizer: its state is changed in place; what is left of it keeps its values bit for bit.
    """
    for name, parameter in named:
        state = optimizer.state.get(parameter, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() == parameter.dim() and value.dim():
                state[key] = cutting(name, value)


def _check_known(
    family: Family, dims: Mapping[str, tuple[Dim, ...]], orders: Mapping[Axis, Order]
) -> None:
    """Refuse tensors that are bound in a way in which a cut of their axes cannot be seen."""
    shared = family.state_dict()
    for name, binding in family.blueprint.bindings.items():
        own = {
            a
            for part in walk(binding)
            if isinstance(part, Slice)
            for d in part.dims
            for a in axes_of(d)
        }
        if name not in shared and own & orders.keys():
            raise InputError(
                f"{name} is computed from other tensors, so its axes cannot be cut for good; "
                "cut the family before binding it"
            )
    for name, own_dims in dims.items():
        if any(a in orders for d in own_dims for a in axes_of(d)) and name not in shared:
            raise InputError(f"{name} is no tensor of the family's own")


def _narrowed(choice: Choice, sizes: Mapping[str, int]) -> Choice:
    size = sizes.get(choice.name)
    if size is None:
        return choice
    values = tuple(value for value in choice.values if int(value) < size)
    return dataclasses.replace(choice, values=(*values, size))


def _renewed(value: Any, new: Mapping[Axis, Axis]) -> Any:
    """Return `value` with new axes in the place of old ones, at any depth."""
    if isinstance(value, Axis):
        return new.get(value, value)
    if isinstance(value, tuple):
        items = tuple(_renewed(item, new) for item in value)
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        changed = {key: _renewed(item, new) for key, item in value.items()}
        return changed if any(changed[k] is not value[k] for k in value) else value
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    fields = {
        field.name: _renewed(getattr(value, field.name), new)
        for field in dataclasses.fields(value)
        if field.init and not field.name.startswith("_")
    }
    same = all(getattr(value, name) is item for name, item in fields.items())
    return value if same else dataclasses.replace(value, **fields)


def compact(model: nn.Module, example_inputs: Any) -> nn.Module:
    """Return a copy of a sparse network without the channels that nothing reads any more.

    A channel whose every reader has zeros for it can go: outputs stay the same, up to rounding.
    That is how a mask of single weights comes to save time in runtimes that know no sparse weights.
    The copy is compared with the model before it is returned.

    Args:
        model: a network with zeros in its weights, from wherever; it stays as it is.
        example_inputs: what its forward takes.

    Raises:
        InputError: leaving the channels out changes the outputs, as where a norm over channels
            looks at all of them.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> _ = torch.nn.init.zeros_(net[2].weight[:, 3:].detach())
        >>> compact(net, torch.zeros(1, 4))[0]
        Linear(in_features=4, out_features=3, bias=True)
    """
    inputs = positional(model, example_inputs)
    try:
        options: dict[str, Any] = {"depth": False, "importance": None, "multiple_of": 1}
        family = elastic(model, inputs, width=(1e-9, 1.0), **options)
    except TraceError:  # no channel of it can be left out
        return copy.deepcopy(model)
    while keep := _read_positions(family):
        cut(family, keep)
    smaller = family.extract(family.space.largest).train(model.training)
    _check_same(model, smaller, inputs)
    return smaller


@torch.no_grad()
def _read_positions(family: Family) -> dict[str, list[int]]:
    """Return, for the axes of which something is not read, what is: one position at least."""
    read: dict[Axis, Tensor] = {}
    shared, axes = family.state_dict(), axes_in(family)
    for name, dims in dims_of(family).items():
        for place, dim in enumerate(dims[1:], 1):  # what a weight reads, not what it makes
            axis = dim[0] if len(dim) == 1 else None
            if isinstance(axis, Axis) and axes.get(axis.name) is axis:
                used = shared[name].movedim(place, 0).flatten(1).any(1)
                read[axis] = read[axis] | used if axis in read else used
            else:
                for inner in axes_of(dim):  # part of a product or a sum: stays
                    read[inner] = torch.ones(inner.size, dtype=torch.bool)
    found = {axis.name: used.nonzero().flatten().tolist() or [0] for axis, used in read.items()}
    return {n: left for n, left in found.items() if n in axes and len(left) < axes[n].size}


@torch.no_grad()
def _check_same(model: nn.Module, smaller: nn.Module, inputs: tuple[Any, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = tuple(
        torch.randn(x.shape, generator=generator).to(x)
        if isinstance(x, Tensor) and x.is_floating_point()
        else x
        for x in inputs
    )
    given = moved(drawn, device_of(model))
    with evaluating(model), evaluating(smaller):
        pairs = zip(tensors_in(call(model, given)), tensors_in(call(smaller, given)), strict=True)
        for before, after in pairs:
            if not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
                raise InputError(
                    f"{type(model).__name__} without the channels that no weight reads differs by "
                    f"{float((before - after).abs().max()):.2g}: a module looks at them in another "
                    "way, as a norm over channels does; keep it as it is"
                )
