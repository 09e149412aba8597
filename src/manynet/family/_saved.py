"""What binding a family has saved: the lines that `bind` adds to its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from manynet._inputs import Inputs, evaluating, shapes
from manynet.bindings.operation import Operation
from manynet.bindings.protocol import Binding
from manynet.bindings.route import Route
from manynet.bindings.slice import Slice
from manynet.errors import InputError
from manynet.family._family import Family
from manynet.family.blueprint import Note, Report

__all__ = ["saved_report"]


def saved_report(
    before: nn.Module, family: Family, groups: Sequence[Sequence[str]], inputs: Inputs
) -> Report:
    """Return the family's report with what was bound, and what it saves.

    Args:
        before: the largest member as it was.
        family: the family as it is now.
        groups: names of the tensors that were bound together.
        inputs: to count MACs with; none where empty.

    Raises:
        InputError: a binding gives another shape than its tensor had, or the member does not run on
            the inputs.
    """
    old = family.blueprint.report
    after = family.extract(family.space.largest)
    _check_shapes(before, after, family.blueprint.bindings)
    lines = [
        Note(
            names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} like it",
            _words(family.blueprint.bindings[names[-1]], names[-1]),
        )
        for names in groups
    ]
    was, now = _tensors(before), family.state_dict().values()
    counts = [
        (
            "trained parameters",
            sum(p.numel() for p in before.parameters()),
            sum(p.numel() for p in family.parameters()),
        ),
        ("bytes of the family", _bytes(before.state_dict(keep_vars=True).values()), _bytes(now)),
        ("bytes of the largest member", _bytes(was), _member_bytes(family, after)),
    ]
    if inputs:
        counts.append(("MACs of the largest member", _macs(before, inputs), _macs(after, inputs)))
    saved = [Note(name, f"{was:,} -> {now:,}") for name, was, now in counts]
    return Report((*old.elastic, *lines), old.fixed, (*old.warnings, *saved))


def _check_shapes(before: nn.Module, after: nn.Module, bindings: Mapping[str, Binding]) -> None:
    """Refuse bindings of another shape; where options are given by hand, their sizes may differ."""
    found = {n: t.shape for n, t in [*after.named_parameters(), *after.named_buffers()]}
    for name, tensor in [*before.named_parameters(), *before.named_buffers()]:
        shape = found.get(name, tensor.shape)
        if shape != tensor.shape and not isinstance(bindings.get(name), Route):
            raise InputError(
                f"{name!r} has the shape {tuple(tensor.shape)}, and its binding gives "
                f"{tuple(shape)}; a recipe's binding gives what the site's tensor is in shape"
            )


def _words(binding: Binding, name: str) -> str:
    """Return what a tensor is read through: the outermost operation, or whose weight it reads."""
    if not isinstance(binding, Slice):
        return type(binding).__name__.lower()
    if not isinstance(binding.source, str):
        return _words(binding.source, name)
    return "slice" if binding.source == name else f"tied to {binding.source}"


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum({id(t): t.nbytes for t in tensors}.values())


def _member_bytes(family: Family, member: nn.Module) -> int:
    """Return what the member takes on disk, packed integers counted as such."""
    total = 0.0
    for name, tensor in [*member.named_parameters(), *member.named_buffers()]:
        binding = family.blueprint.bindings.get(name)
        if isinstance(binding, Operation):
            total += binding.stored_bits(family.space.largest, tensor) / 8
        else:
            total += tensor.nbytes
    return round(total)


@torch.no_grad()
def _macs(model: nn.Module, inputs: Inputs) -> int:
    with FlopCounterMode(display=False) as counter, evaluating(model):
        try:
            model(*inputs)
        except Exception as error:
            raise InputError(
                f"{type(model).__name__} does not run on the example inputs "
                f"({shapes(inputs)}): {error}; give those of one forward pass"
            ) from error
    return int(counter.get_total_flops()) // 2
