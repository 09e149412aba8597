"""The blocks that a member runs one after another, found by watching one forward pass.

A block is a unit of depth (what an arch can leave out, and its siblings), or what remains around
the units: other modules of the containers that hold them. Modules without children that hand
their result on to each other are one block, as runtimes fuse them.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import Inputs, evaluating
from manynet.cost._cost import FamilyLike
from manynet.errors import InputError
from manynet.space import Arch, Choice, Space, Value

__all__ = ["BlockCall", "calls_of", "lowered", "origins_of", "units_of"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class BlockCall:
    """One call of a block in a forward pass, which can be made again alone.

    Args:
        paths: its modules, as the whole network calls them.
        module: what to call; several modules are a `Sequential`.
        args: the call's arguments.
        named: its arguments by name.
        label: the classes of its modules, in words.
        signature: equal for blocks that compute alike: classes, shapes and plain attributes.
    """

    paths: tuple[str, ...]
    module: nn.Module
    args: tuple[Any, ...]
    named: Mapping[str, Any]
    label: str
    signature: str


def origins_of(family: FamilyLike, arch: Arch) -> dict[str, str]:
    """Return the path in the whole network of each module of a member, by its path there."""
    known = getattr(family, "origins", None)
    if known is not None:
        found: dict[str, str] = known(arch)
        return found
    return {path: path for path, _ in family.at(arch).named_modules(remove_duplicate=False)}


def lowered(space: Space, choice: Choice, value: Value | None = None) -> Arch | None:
    """Return the largest arch with one choice at a value, or as low as the constraints let it."""
    for low in choice.values[:-1] if value is None else (value,):
        arch = Arch({**space.largest, choice.name: low})
        if arch in space:
            return arch
    return None


def units_of(family: FamilyLike) -> frozenset[str]:
    """Return the paths of the units of depth, in the whole network."""
    space = family.space
    whole = dict(family.at(space.largest).named_modules(remove_duplicate=False))
    gone: set[str] = set()
    for choice in space.choices:
        arch = lowered(space, choice)
        if arch is not None:
            here = dict(family.at(arch).named_modules(remove_duplicate=False))
            there = {new: type(here[old]) for old, new in origins_of(family, arch).items()}
            gone |= {path for path, part in whole.items() if there.get(path) is not type(part)}
    tops = {path for path in gone if not any(path.startswith(f"{other}.") for other in gone)}
    return frozenset(path for path in whole if path and _is_unit(path, whole, tops))


def _is_unit(path: str, whole: Mapping[str, nn.Module], tops: set[str]) -> bool:
    """Whether an arch can leave a module out, or it is of a class and place like one that can."""
    kind = type(whole[path])
    parent = path.rpartition(".")[0]
    for top in tops:
        if path == top:
            return True
        beside = top.rpartition(".")[0] == parent
        if kind is type(whole[top]) and (beside or not kind.__module__.startswith("torch.nn.")):
            return True
    return False


def calls_of(
    member: nn.Module, origins: Mapping[str, str], inputs: Inputs, units: frozenset[str]
) -> list[BlockCall]:
    """Run a member once, and return the calls of its blocks in order.

    Args:
        member: what to run, in its own mode's stead in eval mode.
        origins: see `origins_of`.
        inputs: its arguments.
        units: see `units_of`.

    Raises:
        InputError: the network cannot run on these inputs.
    """
    opened = _opened(member, origins, units)
    calls: list[tuple[str, nn.Module, tuple[Any, ...], dict[str, Any], object]] = []
    handles = []
    for path, module in member.named_modules():
        if path not in opened and path.rpartition(".")[0] in opened:

            def note(m: nn.Module, args: Any, named: Any, out: object, path: str = path) -> None:
                calls.append((origins[path], m, args, named, out))

            handles.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        with evaluating(member), torch.inference_mode():
            member(*inputs)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{type(member).__name__} cannot run on the example inputs: {reason}; give others"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return [_block(chain) for chain in _chains(calls)]


def _opened(member: nn.Module, origins: Mapping[str, str], units: frozenset[str]) -> set[str]:
    """Return the paths of the modules that are no blocks but hold blocks."""
    modules = dict(member.named_modules())
    inside = [path for path in modules if origins[path] in units]
    if units:
        return {""} | {up for path in inside for up in _above(path)}
    opened = {""}
    for path, module in modules.items():
        holds = any(next(child.children(), None) is not None for child in module.children())
        if path and path.rpartition(".")[0] in opened and isinstance(module, _CONTAINERS) and holds:
            opened.add(path)
    return opened


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


Recorded = tuple[str, nn.Module, tuple[Any, ...], dict[str, Any], object]


def _chains(calls: list[Recorded]) -> Iterator[list[Recorded]]:
    """Put calls of modules without children together where one takes just what the last gave."""
    chain: list[Recorded] = []
    for call in calls:
        _, module, args, named, _ = call
        follows = (
            bool(chain)
            and not named
            and len(args) == 1
            and args[0] is chain[-1][4]
            and isinstance(args[0], Tensor)
            and next(module.children(), None) is None
            and next(chain[-1][1].children(), None) is None
        )
        if chain and not follows:
            yield chain
            chain = []
        chain.append(call)
    if chain:
        yield chain


def _block(chain: list[Recorded]) -> BlockCall:
    _, module, args, named, _ = chain[0]
    if len(chain) > 1:
        module = nn.Sequential(*(part for _, part, *_ in chain)).train(module.training)
    label = " + ".join(type(part).__name__ for _, part, *_ in chain)
    paths = tuple(path for path, *_ in chain)
    return BlockCall(paths, module, args, named, label, _signature(module, args, named))


def _signature(module: nn.Module, args: object, named: object) -> str:
    lines = [repr(_plain(args)), repr(_plain(named))]
    for path, part in module.named_modules():
        tensors = {**part._parameters, **part._buffers}
        shapes = {name: _plain(tensor) for name, tensor in tensors.items()}
        lines.append(f"{path} {type(part).__qualname__} {shapes} {_attributes(part)}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _attributes(part: nn.Module) -> dict[str, object]:
    """Return the attributes that say what a module computes, as far as they are plain values."""
    return {
        name: value
        for name, value in sorted(part.__dict__.items())
        if not name.startswith("_") and name != "training" and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)


def _plain(value: Any) -> object:
    """Return what matters of an argument: shapes and types of tensors, values of the rest."""
    if isinstance(value, Tensor):
        return tuple(value.shape), str(value.dtype)
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if _is_plain(value) else type(value).__name__


def alone(call: BlockCall) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return a module and the arguments by position with which it makes the call again."""
    if not call.named:
        return call.module, call.args
    return _Named(copy.copy(call.module), dict(call.named)), call.args


class _Named(nn.Module):
    """Calls a module with its arguments by name filled in."""

    def __init__(self, module: nn.Module, named: dict[str, Any]) -> None:
        super().__init__()
        self.module, self.named = module, named

    def forward(self, *args: Any) -> Any:
        """Call the module."""
        return self.module(*args, **self.named)
