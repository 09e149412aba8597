"""What building a member takes: values of its own, shapes given up, what blocks hold alone."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from manynet.bindings.axes import Axis, axes_of
from manynet.bindings.leaf import copied
from manynet.bindings.operation import evaluate, sources_of, walk
from manynet.bindings.protocol import Binding, Computed
from manynet.bindings.slice import Slice
from manynet.family.attributes import owner
from manynet.family.blueprint import Blueprint, Depth, Follow
from manynet.family.member import Member
from manynet.space import Arch, Space


def elastic_axes(blueprint: Blueprint, space: Space) -> tuple[Axis, ...]:
    """Return the axes that a choice of the space sizes."""
    names = {choice.name for choice in space.choices}
    axes: dict[Axis, None] = {}
    for binding in blueprint.bindings.values():
        for dim in [dim for b in walk(binding) if isinstance(b, Slice) for dim in b.dims]:
            axes.update(dict.fromkeys(axis for axis in axes_of(dim) if axis.name in names))
    for follow in blueprint.follows:
        axes.update(dict.fromkeys(axis for axis in axes_of(follow.dim) if axis.name in names))
    return tuple(axes)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause the garbage collector: thousands of objects that live on take it as long again."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def give_up(shared: nn.Module, bindings: Mapping[str, Binding]) -> set[str]:
    """Leave only the shape of the parameters that are bound to others and that nothing reads."""
    read = {name for binding in bindings.values() for name in binding.reads}
    names = {n for n, _ in shared.named_parameters() if n in bindings and n not in read}
    shapes = {
        id(parameter): nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad
        )
        for name, parameter in shared.named_parameters()
        if name in names
    }
    for module in shared.modules():
        for name, tensor in module._parameters.items():
            if id(tensor) in shapes:
                module._parameters[name] = shapes[id(tensor)]
    return names


def twins(bindings: Mapping[str, Binding]) -> dict[str, str]:
    """Return the tensors that are read as another one is, with the name of the first such."""
    first: dict[Binding, str] = {}
    return {
        name: first[binding]
        for name, binding in bindings.items()
        if first.setdefault(binding, name) != name
    }


def read_by_rows(shared: nn.Module) -> set[str]:
    """Return the parameters that only linear layers and embeddings have, as their weight."""
    plain = (nn.Linear.forward, nn.Embedding.forward)
    by_rows: set[int] = set()
    otherwise: set[int] = set()
    for module in shared.modules():
        for name, parameter in module._parameters.items():
            fits = name == "weight" and type(module).forward in plain
            (by_rows if fits else otherwise).add(id(parameter))
    names = {id(parameter): name for name, parameter in shared.named_parameters()}
    return {names[key] for key in by_rows - otherwise}


def tensors_inside(shared: nn.Module, depths: Iterable[Depth]) -> dict[str, set[str]]:
    """Return, for each block that can be left out, the tensors that nothing outside it uses."""
    blocks = [path for depth in depths for path in depth.blocks]
    users: dict[int, list[str]] = {}
    for name, tensor in [
        *shared.named_parameters(remove_duplicate=False),
        *shared.named_buffers(remove_duplicate=False),
    ]:
        users.setdefault(id(tensor), []).append(name)
    return {
        path: {
            names[0]
            for names in users.values()
            if all(name.startswith(path + ".") for name in names)
        }
        for path in blocks
    }


def own_value(
    like: Tensor,
    binding: Binding | None,
    arch: Arch,
    sizes: Mapping[Axis, int],
    shared: Mapping[str, Tensor],
) -> Tensor:
    """Return the member's value of a tensor, in storage of its own."""
    if binding is None:
        value = like.detach().clone()
    else:
        reading = binding.at(arch, sizes)
        value = evaluate(reading, {n: shared[n].detach() for n in sources_of(reading)})
        if isinstance(reading, Computed):
            value = value.clone(memory_format=torch.contiguous_format)
        else:
            value = copied(value) if reading.block is not None else value.contiguous()
    if isinstance(like, nn.Parameter):
        return nn.Parameter(value, requires_grad=like.requires_grad)
    return value


def copy_replaced_buffers(member: Member, module: nn.Module) -> None:
    """Give the extracted module the statistics that the member was given for itself."""
    replaced = any(part._buffers[name] is not tensor for part, name, tensor in member.buffers)
    if replaced:
        for mine, theirs in zip(module.buffers(), member.module.buffers(), strict=True):
            mine.copy_(theirs)


def set_attribute(module: nn.Module, follow: Follow, value: int) -> None:
    """Set what a module says of a size."""
    values, name = owner(module, follow.name)
    if follow.index is None:
        values[name] = value
        return
    old = values[name]
    new = [value if i == follow.index else item for i, item in enumerate(old)]
    values[name] = new if isinstance(old, list) else tuple(new)
