"""Finds out what in a network hangs together: one forward pass, watched, then put into words.

The network's copy runs once, on the meta device where it can, else on its own device with its own
weights. `Propagation` follows the axes through the tensor operations, `Provenance` the integers
through the Python code, and hooks follow the modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

import manynet.elastic._rules_vision  # noqa: F401  (importing it registers the rules)
from manynet.bindings.axes import Axis, Dim
from manynet.elastic._blocks import Block, blocks_of
from manynet.elastic._origins import Attribute
from manynet.elastic._resolve import Resolver
from manynet.elastic._run import Run, describe_failure, watch
from manynet.errors import TraceError
from manynet.family.member import caches_tensors

__all__ = ["Attribute", "Block", "Frozen", "Trace", "trace_model"]


Places = tuple[tuple[str, str], ...]
"""Paths of modules, and names of attributes there."""


class Frozen(NamedTuple):
    """A dimension of a parameter that no member cuts, and why.

    Attributes:
        tensor: the parameter's name.
        dim: which of its dimensions.
        reason: why it stays whole.
    """

    tensor: str
    dim: int
    reason: str


@dataclass(frozen=True, slots=True)
class Trace:
    """What hangs together in a network.

    Args:
        tensors: the dimensions of every parameter and buffer, under every name that it has.
        attributes: the integer attributes that follow an elastic axis: their value is the length
            of the dimension.
        blocks: the modules that can be left out, in the order of their calls.
        axes: the elastic axes that occur in a parameter, in the order of the parameters' first use.
        frozen: the dimensions of parameters that stay whole.
        unknown: the operations without a rule, each with the path of a module that called it.
        outputs: the result of the forward pass, each tensor replaced by its shape.
        calls: how often each module was called.
        fallback: why the model could not run on shapes alone, so that what it does may depend on
            the values of the example inputs; None where it could.
        untrained: why the model does not run in training mode on these inputs, where some of its
            parameters take part only there.
        caches: paths and attributes of dictionaries that a forward pass fills with tensors.
        unequal: lengths that an axis must not have: the code asks whether it is as long as
            something that no member cuts, and takes another way then; or a token goes to more
            experts than there would be.
        experts: the axes that count the experts of a layer: likely ones, which have to be tried.
    """

    tensors: Mapping[str, tuple[Dim, ...]]
    attributes: Mapping[Attribute, Dim]
    blocks: tuple[Block, ...]
    axes: tuple[Axis, ...]
    frozen: tuple[Frozen, ...]
    unknown: Mapping[str, str]
    outputs: object
    calls: Mapping[str, int]
    fallback: str | None
    untrained: str | None = None
    caches: Places = ()
    unequal: Mapping[Axis, frozenset[int]] = field(default_factory=dict)
    experts: tuple[Axis, ...] = ()


def trace_model(
    model: nn.Module, example_inputs: tuple[object, ...] | Mapping[str, object]
) -> Trace:
    """Find the axes of every tensor of a network by watching one forward pass of a copy.

    Args:
        model: any module; it is neither run nor changed.
        example_inputs: positional arguments of its forward, or a mapping of keyword arguments;
            tensors may stand anywhere inside.

    Raises:
        TraceError: the model cannot be copied, has lazy parameters, or raises on these inputs.

    Example:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> trace = trace_model(net, (torch.zeros(1, 4),))
        >>> [(axis.name, axis.size) for axis in trace.axes]
        [('0.width', 8)]
    """
    filled = _dictionaries(model)
    try:
        return _traced(model, example_inputs, filled, ())
    except TraceError:
        if not filled:
            raise
        return _traced(model, example_inputs, (), filled)  # what looked like caches is needed


def _dictionaries(model: nn.Module) -> Places:
    """Return where modules hold dictionaries of tensors."""
    return tuple(
        (path, name)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if caches_tensors(value) and name not in ("_parameters", "_buffers")
    )


def _traced(
    model: nn.Module,
    example_inputs: tuple[object, ...] | Mapping[str, object],
    emptied: Places,
    kept: Places,
) -> Trace:
    """Watch a pass that starts with some dictionaries `emptied`; those that it fills are caches."""
    fallback = None
    try:
        run = watch(model, example_inputs, torch.device("meta"), emptied)
    except TraceError as error:
        if error.__cause__ is None:
            raise
        fallback = describe_failure(error.__cause__)
        run = watch(model, example_inputs, _device_of(model), emptied)
    caches = tuple(place for place in _dictionaries(run.model) if place not in kept)
    return _resolve(model, run, fallback, caches)


def _device_of(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _resolve(model: nn.Module, run: Run, fallback: str | None, caches: Places) -> Trace:
    resolver = Resolver(run)
    tensors = {
        name: tuple(map(resolver.dim, run.record.dims(tensor)))
        for name, tensor in resolver.tensors.items()
    }
    return Trace(
        tensors=tensors,
        attributes=resolver.attributes(),
        blocks=blocks_of(model, run),
        axes=resolver.axes(),
        frozen=tuple(Frozen(*item) for item in resolver.frozen()),
        unknown=dict(run.record.unknown),
        outputs=run.outputs,
        calls=dict(run.calls),
        fallback=fallback,
        untrained=run.untrained,
        caches=caches,
        unequal=resolver.unequal(),
        experts=resolver.experts(),
    )
