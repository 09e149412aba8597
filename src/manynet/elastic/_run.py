"""One watched forward pass of a network's copy: what its tensors, integers and modules did."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._pytree import tree_map_only

import manynet.elastic._rules_compute
import manynet.elastic._rules_shape
import manynet.elastic._rules_values  # noqa: F401  (importing them registers the rules)
from manynet.elastic._axes import Node, flatten, freeze, leaves
from manynet.elastic._experts import Experts, propose
from manynet.elastic._heads import heads_of
from manynet.elastic._lists import WatchedList, counts_of, watch_lists
from manynet.elastic._origins import Attribute, Count, Origins, SourcedInt
from manynet.elastic._provenance import Provenance
from manynet.elastic._record import Record
from manynet.elastic._residual import Call, Frame, main_tensor
from manynet.elastic._rules import Propagation
from manynet.elastic.adapters import Site, adapter_of, integers
from manynet.errors import TraceError
from manynet.family.attributes import owner

__all__ = ["Run", "describe_failure", "watch"]


@dataclasses.dataclass(slots=True)
class Run:
    """What one watched forward pass found.

    Args:
        model: the copy that ran.
        device: where it ran.
        record: the axes of its tensors.
        origins: the axes of its integers.
        calls: how often each module was called, in order of the first call.
        residual: the calls with a residual addition.
        extras: what residual calls returned beside their main result, by identity.
        needed: the modules whose extra results were given to another module.
        lists: how the code goes through each `ModuleList`.
        experts: the layers of experts, whose number may be an axis.
        outputs: the result, each tensor replaced by its shape.
        untrained: why the copy does not run in training mode; None where it does, or was not tried.
    """

    model: nn.Module
    device: torch.device
    record: Record
    origins: Origins
    calls: dict[str, int]
    residual: list[Call]
    extras: dict[int, str] = dataclasses.field(default_factory=dict)
    needed: set[str] = dataclasses.field(default_factory=set)
    lists: dict[str, WatchedList] = dataclasses.field(default_factory=dict)
    experts: tuple[Experts, ...] = ()
    outputs: object = None
    untrained: str | None = None


def watch(
    model: nn.Module,
    inputs: object,
    device: torch.device,
    caches: Iterable[tuple[str, str]] = (),
) -> Run:
    """Run a copy of `model` once and return what was found; `model` is not touched.

    Args:
        model: any module.
        inputs: a tuple of positional arguments, or a mapping of keyword arguments.
        device: `meta` to run on shapes alone, else the model's device, to run on its weights.
        caches: paths and attributes of dictionaries that the copy gets empty.

    Raises:
        TraceError: the model cannot be copied or raises; the cause is the original error.
    """
    twin = _copy(model, device, caches)
    record = Record(own={id(t) for t in (*twin.parameters(), *twin.buffers())})
    run = Run(twin, device, record, Origins(record), {}, [])
    run.lists = watch_lists(twin)
    _source_counts(run, model)
    _source_integers(run)
    for path, module in twin.named_modules():
        _watch_module(run, path, module)
    given = tree_map_only(torch.Tensor, lambda tensor: _to(tensor, device), inputs)
    for tensor in _tensors(given):
        record.fix(tensor, "an input")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        result = _forward(run, given)
        run.outputs = tree_map_only(torch.Tensor, lambda tensor: tuple(tensor.shape), result)
        _forward_in_training(run, given)
    _freeze_unread(run)
    run.experts = propose(twin, record, run.origins)
    for path, module in twin.named_modules():
        _adapt(run, path, module)
        for name, dim in heads_of(module, record).items():
            if Attribute(path, name) not in run.origins.attributes:
                run.origins.attributes[Attribute(path, name)] = dim
    return run


def _freeze_unread(run: Run) -> None:
    """Freeze what a slice left over and nothing else holds: longer inputs would read it.

    A table of positions is the case in point: these inputs reach its first rows, but the rows
    behind them are no choice of their own.
    """
    held: Counter[Node] = Counter()
    cut: set[Node] = set()
    for tensor in {id(t): t for t in (*run.model.parameters(), *run.model.buffers())}.values():
        for dim in run.record.dims(tensor):
            held.update(leaves(dim))
            for node in flatten(dim):
                if node.parts is not None:
                    cut.update(leaves((node,)))
    for node in cut:
        if held[node] == 1:
            freeze((node,), "not read with these inputs")


def _to(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    moved = tensor.detach().to(device)
    return moved.clone() if moved.data_ptr() == tensor.data_ptr() else moved


def _tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield the tensors in an argument or a result, whatever structure it has."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (tuple, list, set)):
        for item in value:
            yield from _tensors(item)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _tensors(getattr(value, field.name))


def _copy(model: nn.Module, device: torch.device, caches: Iterable[tuple[str, str]]) -> nn.Module:
    """Return a copy in eval mode: on the meta device, or with the model's own weights."""
    memo: dict[int, Any] = {id(vars(model.get_submodule(path))[name]): {} for path, name in caches}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in memo:
                memo[id(parameter)] = _copy_parameter(name, parameter, device)
        for tensors in (module._buffers, vars(module)):
            for value in tensors.values():
                if isinstance(value, torch.Tensor) and id(value) not in memo:
                    memo[id(value)] = _copy_buffer(value, device)
    try:
        return copy.deepcopy(model, memo).eval()
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} cannot be copied ({describe_failure(error)}); the trace runs "
            "a copy, so give what cannot be copied a __deepcopy__ of its own"
        ) from error


def _copy_parameter(name: str, parameter: nn.Parameter, device: torch.device) -> nn.Parameter:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise TraceError(
            f"the lazy parameter {name!r} has no shape yet; call the model once on an example "
            "before it is made elastic"
        )
    value = parameter.detach()
    if device.type == "meta":
        value = torch.empty_like(value, device=device)
    return nn.Parameter(value, requires_grad=parameter.requires_grad)


def _copy_buffer(buffer: torch.Tensor, device: torch.device) -> torch.Tensor:
    value = buffer.detach()
    return torch.empty_like(value, device=device) if device.type == "meta" else value.clone()


def _source_integers(run: Run) -> None:
    """Replace the sizes among the copy's attributes by integers that remember their attribute."""
    for path, module in run.model.named_modules():
        for name, value in integers(module).items():
            if isinstance(value, int):
                sourced: object = SourcedInt(value, Attribute(path, name), run.origins)
            else:
                sourced = type(value)(
                    SourcedInt(item, Attribute(path, name, index), run.origins)
                    for index, item in enumerate(value)
                )
            module.__dict__[name] = sourced


def _source_counts(run: Run, model: nn.Module) -> None:
    """Replace the numbers of blocks that the copy holds, in its configs too."""
    for container in run.lists:
        for path, name in counts_of(model, container):
            values, key = owner(run.model.get_submodule(path), name)
            if type(values[key]) is int and values[key] > 1:
                values[key] = SourcedInt(values[key], Count(path, name), run.origins)


def _watch_module(run: Run, path: str, module: nn.Module) -> None:
    frames, calls, record = run.record.frames, run.calls, run.record

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[path] = calls.get(path, 0) + 1
        given = [item for item in (*args, *kwargs.values()) if isinstance(item, torch.Tensor)]
        run.needed.update(run.extras[key] for item in given if (key := id(item)) in run.extras)
        sources = tuple(tensor for tensor in given if tensor.is_floating_point())
        plain = len(args) == 1 and len(given) == 1 and not kwargs
        frames.append(Frame(path, record.stream.count, sources, plain))

    def leave(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> None:
        frame = frames.pop()
        while frame.path != path:  # calls that an exception ended, caught by the user's code
            frame = frames.pop()
        main = main_tensor(result)
        if main is not None and isinstance(module, ParametrizationList):
            record.computed[id(module)] = main
        source = None if main is None else record.stream.residual(frame, main)
        if source is None or main is None:
            return
        plain = frame.plain and isinstance(result, torch.Tensor)
        run.residual.append(Call(path, record.dims(source), record.dims(main), plain))
        known = {id(tensor) for tensor in _tensors((args, kwargs))} | {id(main)}
        run.extras.update({id(t): path for t in _tensors(result) if id(t) not in known})

    module.register_forward_pre_hook(enter, with_kwargs=True)
    module.register_forward_hook(leave, with_kwargs=True)


def _forward(run: Run, inputs: Any) -> Any:
    call: Callable[[], Any]
    if isinstance(inputs, Mapping):
        call = lambda: run.model(**inputs)  # noqa: E731
    else:
        call = lambda: run.model(*inputs)  # noqa: E731
    run.origins.active = True
    try:
        propagation = Propagation(run.record, meta=run.device.type == "meta")
        with torch.no_grad(), _unpacked(), propagation, Provenance(run.origins, run.device):
            result = call()
    except Exception as error:
        where = run.record.path
        module = run.model.get_submodule(where)
        place = f"in {where!r} ({type(module).__name__})" if where else "in its own forward"
        raise TraceError(
            f"{type(run.model).__name__} failed {place} on the example inputs: "
            f"{describe_failure(error)}"
        ) from error
    finally:
        run.origins.active = False
    for tensor in _tensors(result):
        run.record.freeze(tensor, "an output")
    return result


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """Keep PyTorch's transformers off the kernels that take a padded batch for a packed one.

    They compute the same, but a packed sequence has no axes to follow.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def describe_failure(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _forward_in_training(run: Run, inputs: Any) -> None:
    """Run again in training mode where some parameter was not met: auxiliary heads, for example.

    Layers without children stay in eval mode, since a batch of one is too small for a norm. The
    copy may fail there all the same; what it did not meet then stays whole.
    """
    if all(run.record.knows(parameter) for parameter in run.model.parameters()):
        return
    calls, residual = dict(run.calls), list(run.residual)
    for module in run.model.modules():
        module.training = bool(module._modules)
    try:
        _forward(run, inputs)
    except TraceError as error:
        run.record.frames.clear()
        run.untrained = str(error)
    run.calls.clear()
    run.calls.update(calls)
    run.residual[:] = residual
    for name, parameter in run.model.named_parameters():
        if not run.record.knows(parameter):
            run.record.fix(parameter, f"{name} takes no part in the forward pass")


def _adapt(run: Run, path: str, module: nn.Module) -> None:
    """Bind the attributes that the module's adapter answers for."""
    found = adapter_of(module)
    if found is None:
        return
    for name, dim in found.function(module, Site(module, run.record)).items():
        if dim is not None:
            run.origins.follow(Attribute(path, name), dim)
