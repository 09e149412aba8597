"""`Family`: one set of weights and the networks that read them.

A member is an ordinary module. Its tensors are *bound* to the shared ones: each is the shared
tensor itself, a view of it, or a copy that is brought up to date when the shared weights have
changed; gradients flow back into the shared gradients as the member's backward pass runs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from manynet.bindings.axes import Axis
from manynet.bindings.derive import derived
from manynet.bindings.leaf import Derived, Leaf, Touched, bind
from manynet.bindings.operation import evaluate, full_precision
from manynet.bindings.protocol import Computed, Part
from manynet.bindings.stored import note
from manynet.errors import InputError
from manynet.family._build import (
    copy_replaced_buffers,
    elastic_axes,
    give_up,
    own_value,
    read_by_rows,
    set_attribute,
    tensors_inside,
    twins,
    uncollected,
)
from manynet.family._cache import MemberCache, limit_of
from manynet.family._config_sizes import ConfigSizes
from manynet.family._gaps import Gaps
from manynet.family._guard import Guard
from manynet.family.blueprint import Blueprint, Report
from manynet.family.member import Member
from manynet.family.skeleton import Skeleton
from manynet.family.swap import tied_again
from manynet.space import Arch, Space, Value

__all__ = ["Family"]


class HasArch(Protocol):
    """Anything that says which arch it is of, as the records of a front do."""

    @property
    def arch(self) -> Arch:
        """The arch."""
        ...


class Family:
    """One set of weights, many networks.

    Make one with `manynet.elastic`, or from parts of your own with this constructor.

    Args:
        shared: the largest network; it holds the shared weights, and the family owns it.
        space: the archs. The sizes of axes and the depths are looked up in an arch by name. By
            default there is one, the largest network.
        blueprint: how members read the shared weights; by default as they are.
        extra: shared tensors that the largest network has no place for: parameters, and buffers
            such as masks and indices. In turn, a tensor of the largest network that a binding
            replaces and that nothing reads is given up; only its shape is kept.
        example_inputs: inputs with which the network can be run; kept for costs and exports.
        source: how to build the network again, for example `"torchvision:resnet18"`.

    Example:
        >>> import torch, manynet
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> family.at(family.space.smallest)[0]
        Linear(in_features=4, out_features=8, bias=True)
    """

    def __init__(
        self,
        shared: nn.Module,
        space: Space | None = None,
        blueprint: Blueprint | None = None,
        *,
        extra: Mapping[str, Tensor] | None = None,
        example_inputs: tuple[Any, ...] = (),
        source: str | None = None,
    ) -> None:
        self.shared = shared
        self.space = space = Space(()) if space is None else space
        self.blueprint = blueprint = Blueprint({}) if blueprint is None else blueprint
        self.extra = dict(extra or {})
        self.example_inputs = example_inputs
        self.source = source
        self.members: dict[str, Arch] = {}
        """Archs that have a name of their own; they are saved with the family."""
        self.cache_bytes: int | None = None
        """How much the copied weights of members kept for reuse may take. None: a tenth of the
        shared weights (at least 16 MiB) while training, twice them (at least 1 GiB) otherwise."""
        self.cuts: dict[str, tuple[int, ...]] = {}
        """Which positions of the axes are left that `manynet.elastic.cut` has cut for good."""
        self._given_up = give_up(shared, blueprint.bindings)
        self._gaps = Gaps(shared, blueprint.depths)
        self._inside = tensors_inside(shared, blueprint.depths)
        self._touched = Touched()
        self._plan()
        self._guard = Guard(dict(self.named_parameters()), self._touched)
        self._tensors: dict[str, Tensor] = {}
        self._cache = MemberCache()
        self.clear()
        self._watch()

    def _plan(self) -> None:
        """Work out from space and blueprint what members are built with."""
        self._skeleton = Skeleton(self.shared)
        vars(self).pop("_config_sizes", None)
        self._axes = elastic_axes(self.blueprint, self.space)
        self._derived, self._bindings = derived(self.blueprint.bindings)
        self._twins = twins(self._bindings)
        self._by_rows = read_by_rows(self.shared)

    # -- members -----------------------------------------------------------------------------

    def at(self, arch: Mapping[str, Value] | HasArch) -> nn.Module:
        """Return the member of `arch`: an ordinary module bound to the shared weights.

        Call it anew in every step: a member seen before costs a look-up. Its mode, training or
        evaluation, is the family's. The gradients of its backward pass arrive in the gradients of
        the shared weights, so the optimizer takes `family.parameters()`.

        Args:
            arch: an arch of the space, or a record of a front. Choices that it leaves out are
                taken from the largest.

        Raises:
            InputError: `arch` names an unknown choice or value.
        """
        try:
            member = self._cache[arch]  # type: ignore[index]  # the hot path: an arch seen before
        except (KeyError, TypeError):
            canonical = self._arch(arch)
            if isinstance(arch, Arch) and arch == canonical:
                canonical = arch  # a key is found fastest by itself
            member = self._member_of(canonical)
        if member.module.training is not self.shared.training:
            member = self._set_mode(member, arch)
        excess = self._cache.excess
        if excess is not None and excess is not member:
            self._cache.make_room(member, self._limit)
        member.recent = True
        fresh = member.fresh
        if fresh is not None and (
            fresh.generation != self._touched.generation or fresh.version != fresh.first._version
        ):
            fresh.refresh()
        return member.module

    def _member_of(self, arch: Arch) -> Member:
        member = self._cache.get(arch)
        if member is None:
            with torch.inference_mode(False), uncollected():
                member = self._bind(arch)
            self._cache.put(arch, member, self._limit)
        return member

    def _bind(self, arch: Arch) -> Member:
        sizes, dropped = self._sizes(arch), self._dropped(arch)
        absent = self._absent(dropped)
        between = {
            name: Derived(binding.at(arch, sizes), self._tensors, self._touched)
            for name, binding in self._derived.items()
        }

        # A new member had better read large matrices in place where copies are about to fill the
        # cache. Never in training: a gradient is copied in a slow order where rows lie apart.
        crowded = not self.shared.training and self._cache.bytes >= self._limit // 2
        in_place = self._by_rows if crowded else ()

        def leaf_of(name: str) -> Leaf:
            reading, by_rows = self._bindings[name].at(arch, sizes), name in in_place
            return bind(reading, self._tensors, self._touched, between, by_rows=by_rows)

        leaves = {
            name: leaf_of(name)
            for name in self._bindings
            if name not in absent and name not in self._twins
        }
        tensors = {**self._tensors, **{name: leaf.tensor for name, leaf in leaves.items()}}
        for name, first in self._twins.items():
            if name not in absent:
                if first not in tensors or first in absent:
                    leaves[first] = leaf_of(first)
                    tensors[first] = leaves[first].tensor
                tensors[name] = tensors[first]
        for name, leaf in leaves.items():
            if leaf.pull is not None:  # the member's own
                note(leaf.tensor, self.blueprint.bindings[name], arch, sizes)
        module, parts = self._build(dropped, sizes, tensors)
        found = [*(value.leaf for value in between.values()), *leaves.values()]
        return Member(module, parts, found, self._touched)

    def extract(self, arch: Mapping[str, Value] | HasArch) -> nn.Module:
        """Return the member of `arch` with weights of its own: a plain module, bound to nothing.

        Where a module holds a config of `transformers`, its numbers are the member's: those that
        size what is equally long in all layers. A number that the layers do not agree on, or that
        the code reads while it runs, stays that of the largest.

        Raises:
            InputError: `arch` names an unknown choice or value.
        """
        arch = self._arch(arch)
        sizes, dropped = self._sizes(arch), self._dropped(arch)
        absent = self._absent(dropped)
        tensors: dict[str, Tensor] = {}
        whole = full_precision(self.device)
        with torch.no_grad(), torch.inference_mode(False), whole:
            known = {**self._tensors, **self._values(arch, sizes)}
            for name in self._skeleton.names.values():
                if name not in absent:
                    binding = self._bindings.get(name)
                    first = self._twins.get(name)
                    if first in tensors:
                        tensors[name] = tensors[first]
                        continue
                    like = self._tensors.get(name, self._skeleton.tensors[name])
                    tensors[name] = own_value(like, binding, arch, sizes, known)
                    note(tensors[name], binding, arch, sizes, known)
            module, parts = self._build(dropped, sizes, tensors)
            member = self._cache.get(arch)
            if member is not None:
                copy_replaced_buffers(member, module)
        if arch != self.space.largest:
            self._config_sizes.write(parts)
        return tied_again(module, [parts[p] for p in self.blueprint.freed if p in parts])

    @functools.cached_property
    def _config_sizes(self) -> ConfigSizes:
        return ConfigSizes(self.shared, self.example_inputs)

    def parts(self, arch: Mapping[str, Value] | HasArch) -> dict[str, Part]:
        """Return which part of a shared tensor each tensor of the member of `arch` is.

        The names are the member's own, as in its `state_dict`; one that has several has one here.

        Raises:
            InputError: `arch` names an unknown choice or value, or a tensor of the member is
                computed from shared ones and so is no part of them.
        """
        arch = self._arch(arch)
        sizes, dropped = self._sizes(arch), self._dropped(arch)
        absent = self._absent(dropped)
        read: dict[int, Part] = {}
        marks: dict[str, Tensor] = {}
        for name in self._skeleton.names.values():
            if name in absent:
                continue
            binding = self.blueprint.bindings.get(name)
            whole = Part(name, (slice(None),) * self._skeleton.tensors[name].dim())
            reading = whole if binding is None else binding.at(arch, sizes)
            if isinstance(reading, Computed):
                raise InputError(
                    f"{name} is computed from {', '.join(reading.sources)} and is no part of a "
                    "shared tensor; such weights cannot be put back"
                )
            marks[name] = torch.empty(0)
            read[id(marks[name])] = reading
        module, _ = self._build(dropped, sizes, marks)
        own = [*module.named_parameters(), *module.named_buffers()]
        return {name: read[id(tensor)] for name, tensor in own}

    def origins(self, arch: Mapping[str, Value] | HasArch) -> dict[str, str]:
        """Return the path in the whole network of each module of the member, by its path there.

        They differ where a list closes the gap that a left-out block leaves.

        Raises:
            InputError: `arch` names an unknown choice or value.
        """
        member = self._member_of(self._arch(arch))
        whole = {id(part): path for path, part in member.parts.items()}
        return {
            path: whole.get(id(part), path)
            for path, part in member.module.named_modules(remove_duplicate=False)
        }

    def _values(self, arch: Arch, sizes: Mapping[Axis, int]) -> dict[str, Tensor]:
        """Return what several tensors of the member read through, by name."""
        if not self._derived:
            return {}
        shared = {name: tensor.detach() for name, tensor in self._tensors.items()}
        found = {n: binding.at(arch, sizes) for n, binding in self._derived.items()}
        return {name: evaluate(reading, shared) for name, reading in found.items()}

    def _arch(self, arch: Mapping[str, Value] | HasArch) -> Arch:
        values = arch if isinstance(arch, Mapping) else getattr(arch, "arch", None)
        if not isinstance(values, Mapping):
            raise InputError(
                f"{arch!r} is no arch; give one of the space, such as family.space.smallest, "
                "values of its choices by their names, or a record of a front"
            )
        return self.space.arch(values)

    def _dropped(self, arch: Arch) -> list[str]:
        return [path for depth in self.blueprint.depths for path in depth.dropped(arch)]

    def _absent(self, dropped: Iterable[str]) -> set[str]:
        """Return the tensors that a member without the `dropped` blocks does not have."""
        return {name for path in dropped for name in self._inside[path]}

    def _build(
        self, dropped: Sequence[str], sizes: Mapping[Axis, int], tensors: Mapping[str, Tensor]
    ) -> tuple[nn.Module, dict[str, nn.Module]]:
        training = self.shared.training
        module, parts = self._skeleton.build(
            tensors, dropped=dropped, closed=self._gaps.containers, training=training
        )
        for follow in self.blueprint.follows:
            part = parts.get(follow.path)
            if part is not None:
                set_attribute(part, follow, follow.value(sizes))
        if dropped:
            self._gaps.close(parts, dropped)
        return module, parts

    def _sizes(self, arch: Arch) -> dict[Axis, int]:
        return {axis: int(arch[axis.name]) for axis in self._axes}

    def _set_mode(self, member: Member, arch: Mapping[str, Value] | HasArch) -> Member:
        """Return the member in the family's mode; one that reads rows in place is built anew."""
        training = self.shared.training
        if training and member.in_place:
            found = self._arch(arch)
            self._cache.drop(found)
            return self._member_of(found)
        member.module.train(training)
        if training:  # statistics that someone gave the member for evaluation are put aside
            for module, name, tensor in member.buffers:
                module._buffers[name] = tensor
        return member

    @property
    def _limit(self) -> int:
        if self.cache_bytes is not None:
            return self.cache_bytes
        return limit_of(self._bytes, self.shared.training and torch.is_grad_enabled())

    # -- the shared weights ------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the shared weights are."""
        return next(iter(self._tensors.values()), torch.empty(0)).device

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield every shared parameter once, with its name."""
        for name, tensor in [*self.shared.named_parameters(), *self.extra.items()]:
            if isinstance(tensor, nn.Parameter) and name not in self._given_up:
                yield name, tensor

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield every shared parameter once: what the optimizer takes."""
        for _, parameter in self.named_parameters():
            yield parameter

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield the modules of the largest network, with their paths."""
        yield from self.shared.named_modules()

    def state_dict(self) -> dict[str, Tensor]:
        """Return every shared tensor once, by name; the tensors are not copied."""
        return dict(self._tensors)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy `state` into the shared tensors, in place.

        Raises:
            InputError: a name or a shape differs; nothing has been copied then.
        """
        own = self._tensors
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise InputError(
                f"the state does not fit this family: it lacks {_some(missing)} "
                f"and has {_some(unknown)} too many; was it saved by another family?"
            )
        for name, tensor in own.items():
            if tensor.shape != state[name].shape:
                raise InputError(
                    f"the state does not fit this family: {name} has shape "
                    f"{tuple(state[name].shape)}, the family's has {tuple(tensor.shape)}"
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of the shared weights."""
        self._touched.drop()
        for parameter in self.parameters():
            if set_to_none or parameter.grad is None:
                parameter.grad = None
            else:
                parameter.grad.zero_()

    def guard(self, optimizer: torch.optim.Optimizer) -> None:
        """Let `optimizer` move only what a member has touched since its last step.

        Without it, weight decay and momentum also move entries that no member of the step had.
        """
        self._guard.attach(optimizer)

    def to(self, device: torch.device | str) -> Family:
        """Move the shared weights to `device`, in place; members are built anew there."""
        self.shared._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))
        for tensor in self.extra.values():
            tensor.data = tensor.data.to(device)
        self.clear()
        return self

    def train(self, mode: bool = True) -> Family:
        """Put the family, and every member that `at` returns from now on, in training mode."""
        self.shared.train(mode)
        return self

    def eval(self) -> Family:
        """Put the family, and every member that `at` returns from now on, in evaluation mode."""
        return self.train(False)

    @property
    def training(self) -> bool:
        """Whether the family is in training mode."""
        return self.shared.training

    def clear(self) -> None:
        """Forget the members built so far.

        Needed after replacing shared tensors by hand, after changing some of them in place where
        members are compiled, and after writing a few of their entries through `Tensor.data` or
        NumPy, which PyTorch does not count: steps of optimizers are seen in any case, and a write
        by hand in place under `torch.no_grad()`.
        """
        self._cache.clear()
        self._touched.clear()
        own = [*self.shared.named_parameters(), *self.shared.named_buffers()]
        self._tensors = {
            **{name: tensor for name, tensor in own if name not in self._given_up},
            **self.extra,
        }
        self._bytes = sum(tensor.nbytes for tensor in self._tensors.values())

    def cut_to(self, space: Space, blueprint: Blueprint, kept: Mapping[str, Sequence[int]]) -> None:
        """Take note that the shared tensors have lost positions; `manynet.elastic.cut` calls it.

        Args:
            space: what is left of the choices.
            blueprint: the bindings, with the axes as they are now.
            kept: the positions that are left of each axis, among those that it had before.
        """
        for name, positions in kept.items():
            before = self.cuts.get(name)
            self.cuts[name] = tuple(n if before is None else before[n] for n in positions)
        self.space, self.blueprint = space, blueprint
        parts = dict(self.shared.named_modules())
        for follow in blueprint.follows:
            if follow.path in parts:
                set_attribute(parts[follow.path], follow, follow.value({}))
        self.clear()
        self._plan()
        self.members = {name: arch for name, arch in self.members.items() if arch in space}

    def _watch(self) -> None:
        """Note when a gradient reaches a shared parameter itself, and so all of it."""
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                whole = Part(name, (slice(None),) * parameter.dim())
                parameter.register_hook(_NoteWhole(self._touched, whole))

    # -- words and files ---------------------------------------------------------------------

    def report(self) -> Report:
        """Return what became elastic, what did not, and why; `print` it."""
        return self.blueprint.report

    def save(self, path: Path | str) -> None:
        """Write `family.safetensors` and `family.json` into the folder `path`.

        Raises:
            StorageError: the folder cannot be written; files of an earlier save stay whole.
        """
        from manynet.family.file import save

        save(self, Path(path))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy of the family be one of its own, which builds its members anew."""
        given = {
            "shared": self.shared,
            "space": self.space,
            "blueprint": self.blueprint,
            "extra": self.extra,
            "example_inputs": self.example_inputs,
            "source": self.source,
        }
        kept = {"members": self.members, "cache_bytes": self.cache_bytes}
        return _again, (given,), kept

    def __repr__(self) -> str:
        """Return one line: the network's class, its size and its choices."""
        count = sum(parameter.numel() for parameter in self.parameters())
        return (
            f"Family({type(self.shared).__name__}, {count:,} shared parameters, "
            f"{len(self.space.choices)} choices, {self.space.count:,} members)"
        )


def _again(given: Mapping[str, Any]) -> Family:
    return Family(**given)


class _NoteWhole:
    def __init__(self, touched: Touched, whole: Part) -> None:
        self.touched, self.whole = touched, whole

    def __call__(self, grad: Tensor) -> None:
        self.touched.add(self.whole)


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
