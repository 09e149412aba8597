"""One training step of a family: each member forward and backward, one after the other."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from manynet._inputs import call
from manynet.data import Batch
from manynet.errors import InputError
from manynet.family import Family
from manynet.space import Arch
from manynet.train._hardware import Hardware
from manynet.train.objectives import Objective
from manynet.train.penalties import Penalty

__all__ = ["Dropout", "accumulate", "call", "detached"]

Dropout = Literal["all", "largest"]
"""Whose dropout and stochastic depth act: every member's, or the largest's alone."""


def accumulate(
    family: Family,
    batch: Batch,
    archs: Sequence[Arch],
    objective: Objective,
    *,
    hardware: Hardware | None = None,
    scale: Callable[[Tensor], Tensor] | None = None,
    dropout: Dropout = "all",
    penalty: Penalty | None = None,
) -> Tensor:
    """Add the gradients of several members to the shared ones, and return their losses.

    Each member's graph is freed before the next one begins, so a step needs the memory of its
    largest member. If the largest arch is among `archs`, it comes first and teaches the others.
    Zeroing before and stepping after are the caller's.

    Args:
        family: whose members learn.
        batch: inputs and targets, on the family's device.
        archs: the members.
        objective: the loss of each.
        hardware: whose precision to compute in; float32 where it is left out.
        scale: multiplies each loss before its backward pass, as a gradient scaler does.
        dropout: `"largest"` spares the other members dropout and stochastic depth: they have too
            few weights to overfit (BigNAS, arXiv 2003.11142, section 3.2).
        penalty: a loss of the shared weights themselves, added once however many members there are.

    Returns:
        the losses in the order of `archs`, the largest first; shape `(members,)`, no graph.

    Example:
        >>> import manynet, torch
        >>> from manynet.train import Task, accumulate
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> batch = (torch.randn(8, 4), torch.zeros(8, dtype=torch.long))
        >>> archs = [family.space.largest, family.space.smallest]
        >>> accumulate(family, batch, archs, Task()).shape
        torch.Size([2])
    """
    if not archs:
        raise InputError("the sampler drew no arch; a step needs at least one")
    hardware = hardware or Hardware(family.device)
    teacher: object | None = None
    chained = bool(getattr(objective, "chained", False))
    losses = []
    if penalty is not None:
        own = penalty(family)
        _check_loss(own)
        (own if scale is None else scale(own)).backward()
    for arch in largest_first(archs, family.space.largest):
        teaches = teacher is None and arch == family.space.largest
        member = family.at(arch)
        spared = dropout == "largest" and arch != family.space.largest
        with hardware.autocast(), _without_dropout(member, spared):
            outputs = call(member, batch[0])
            loss = _judged(objective, outputs, batch, teacher, teaches)
        _check_loss(loss)
        (loss if scale is None else scale(loss)).backward()
        losses.append(loss.detach())
        if teaches or chained:
            teacher = detached(outputs)
        del outputs, loss
    return torch.stack(losses)


@contextlib.contextmanager
def _without_dropout(member: nn.Module, spared: bool) -> Iterator[None]:
    """Let no unit and no block be dropped meanwhile; PyTorch's and other libraries' alike."""
    found = [m for m in member.modules() if spared and m.training and _drops(m)]
    for module in found:
        module.training = False
    try:
        yield
    finally:
        for module in found:
            module.training = True


def _drops(module: nn.Module) -> bool:
    name = type(module).__name__.lower()
    return not module._modules and ("drop" in name or "stochasticdepth" in name)


def largest_first(archs: Sequence[Arch], largest: Arch) -> list[Arch]:
    """Return the archs with the largest at the front, the others in their order."""
    return sorted(archs, key=lambda arch: arch != largest)


def detached(outputs: object) -> object:
    """Return `outputs` without its graph, in the same tuples, lists and mappings."""
    if isinstance(outputs, Tensor):
        return outputs.detach()
    if isinstance(outputs, Mapping):
        plain = copy.copy(outputs)
        for key, value in outputs.items():
            plain[key] = detached(value)  # type: ignore[index] # every mapping of outputs is a dict
        return plain
    if isinstance(outputs, tuple | list):
        parts = [detached(value) for value in outputs]
        make = getattr(type(outputs), "_make", type(outputs))  # a named tuple has `_make`
        made: object = make(parts)
        return made
    return outputs


def _judged(
    objective: Objective, outputs: object, batch: Batch, teacher: object | None, teaches: bool
) -> Tensor:
    try:
        return objective(outputs, batch, teacher, teaches)
    except IndexError as error:
        raise InputError(
            f"the labels do not fit what the network returns ({error}); does it have an output "
            "for each class?"
        ) from error


def _check_loss(loss: object) -> None:
    if not isinstance(loss, Tensor) or loss.ndim:
        found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise InputError(f"the objective returned {found}; it should return a tensor of one number")
