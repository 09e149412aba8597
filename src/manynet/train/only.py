"""`only`: train some of a family's parameters, and nothing else meanwhile."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from manynet.errors import InputError
from manynet.family import Family

__all__ = ["only"]


@contextmanager
def only(family: Family, names: Collection[str]) -> Iterator[None]:
    """Let gradients reach these shared parameters alone; afterwards those they reached before.

    Args:
        family: whose parameters they are.
        names: as `family.named_parameters()` gives them. None of them: nothing trains.

    Raises:
        InputError: the family has no such parameter.

    Example:
        >>> import manynet as mn, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = mn.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> with only(family, ["1.bias"]):
        ...     [name for name, p in family.named_parameters() if p.requires_grad]
        ['1.bias']
    """
    known = dict(family.named_parameters())
    unknown = sorted(set(names) - known.keys())
    if unknown:
        raise InputError(
            f"the family has no parameter {unknown[0]!r}; some of its own are "
            f"{', '.join(list(known)[:4])}"
        )
    before = {name: parameter.requires_grad for name, parameter in known.items()}
    try:
        for name, parameter in known.items():
            parameter.requires_grad_(name in names)
        family.clear()  # members know from the start which gradients to send on
        yield
    finally:
        for name, parameter in known.items():
            parameter.requires_grad_(before[name])
            if not before[name]:
                parameter.grad = None
        family.clear()
