"""The optimizer of a family's shared weights, and what of them decays."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from manynet.errors import InputError, did_you_mean
from manynet.family import Family

__all__ = ["MakeOptimizer", "ParameterGroup", "make_optimizer", "parameter_groups", "sparing"]

ParameterGroup = dict[str, object]

MakeOptimizer = Callable[[Sequence[ParameterGroup]], Optimizer]
"""A user's own: from parameter groups to an optimizer that sets its own learning rate."""

LEARNING_RATES = {"sgd": 0.1, "adamw": 1e-3}
DECAYS = {"sgd": 1e-4, "adamw": 0.05}


def parameter_groups(family: Family, weight_decay: float) -> list[ParameterGroup]:
    """Return the shared parameters in two groups: matrices and kernels decay, the rest do not.

    Norms, biases, layer scales and class tokens are vectors, however many dimensions they have;
    decay would only shrink what they scale.
    """
    decaying: list[nn.Parameter] = []
    other: list[nn.Parameter] = []
    for parameter in family.parameters():
        if parameter.requires_grad:
            (other if _is_vector(parameter) else decaying).append(parameter)
    groups: list[ParameterGroup] = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": other, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_vector(parameter: nn.Parameter) -> bool:
    if parameter.ndim == 2:
        return False
    return parameter.ndim < 2 or parameter.numel() == max(parameter.shape)


def sparing(
    family: Family,
    patterns: Sequence[str],
    make: MakeOptimizer = AdamW,
    *,
    learning_rate: float | None = None,
) -> MakeOptimizer:
    """Return an optimizer for `train` that lets what the patterns name not decay, whatever it is.

    Args:
        family: which is to be trained.
        patterns: of the names of shared parameters, such as `"*.coefficients"`.
        make: makes the optimizer of the parameter groups.
        learning_rate: of what is spared; the others have that of `make`, and `train` is given none.

    Raises:
        InputError: a pattern matches nothing.

    Example:
        >>> import manynet, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Linear(16, 2))
        >>> family = manynet.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> made = sparing(family, ["1.*"])(parameter_groups(family, 0.1))
        >>> [(len(group["params"]), group["weight_decay"]) for group in made.param_groups]
        [(1, 0.1), (3, 0.0)]
    """
    spared = set()
    for pattern in patterns:
        found = {id(p) for n, p in family.named_parameters() if fnmatch.fnmatchcase(n, pattern)}
        if not found:
            raise InputError(f"no shared parameter matches {pattern!r}; see named_parameters()")
        spared |= found

    def made(groups: Sequence[ParameterGroup]) -> Optimizer:
        kept, rest = [], []
        for group in groups:
            params = [p for p in cast("list[nn.Parameter]", group["params"]) if id(p) not in spared]
            rest += [p for p in cast("list[nn.Parameter]", group["params"]) if id(p) in spared]
            kept.append({**group, "params": params})
        free = next((group for group in kept if group["weight_decay"] == 0.0), None)
        if learning_rate is not None:
            kept.append({"params": rest, "weight_decay": 0.0, "lr": learning_rate})
        elif free is None:
            kept.append({"params": rest, "weight_decay": 0.0})
        else:
            free["params"] = [*cast("list[nn.Parameter]", free["params"]), *rest]
        return make([group for group in kept if group["params"]])

    return made


def make_optimizer(
    family: Family,
    optimizer: str | MakeOptimizer,
    learning_rate: float | None,
    weight_decay: float | None,
) -> Optimizer:
    """Return the optimizer, guarded so that it moves only what a step has touched.

    Args:
        family: whose shared weights it moves.
        optimizer: `"sgd"` (Nesterov momentum 0.9), `"adamw"`, or a function from parameter groups
            to an optimizer.
        learning_rate: by default 0.1 for SGD, 0.001 for AdamW, and what the function has set.
        weight_decay: by default 1e-4 for SGD, 0.05 for AdamW, 0 for a function's.

    Raises:
        InputError: an unknown name, a number below zero, or nothing to train.
    """
    for name, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay)):
        if value is not None and not value >= 0:
            raise InputError(f"{name} is {value}; it must be 0 or more")
    named = optimizer if isinstance(optimizer, str) else ""
    decay = DECAYS.get(named, 0.0) if weight_decay is None else weight_decay
    groups = parameter_groups(family, decay)
    if not groups:
        raise InputError("the family has no parameter that requires a gradient; unfreeze some")
    made = _made(optimizer, groups, learning_rate)
    family.guard(made)
    return made


def _made(
    optimizer: str | MakeOptimizer, groups: list[ParameterGroup], learning_rate: float | None
) -> Optimizer:
    if callable(optimizer):
        made = optimizer(groups)
        if not isinstance(made, torch.optim.Optimizer):
            raise InputError(
                f"optimizer returned {type(made).__name__}; it should return a torch optimizer"
            )
        if learning_rate is not None:
            for group in made.param_groups:
                group["lr"] = learning_rate
        return made
    rate = LEARNING_RATES.get(optimizer) if learning_rate is None else learning_rate
    if optimizer == "sgd":
        return SGD(groups, lr=rate or 0.0, momentum=0.9, nesterov=True)
    if optimizer == "adamw":
        return AdamW(groups, lr=rate or 0.0)
    raise InputError(f"optimizer {optimizer!r} is unknown{did_you_mean(optimizer, LEARNING_RATES)}")
