"""Training a part of the shared weights and leaving the others as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from manynet.errors import InputError
from manynet.family import Family

__all__ = ["training_only"]


@contextmanager
def training_only(family: Family, chosen: Callable[[str, Tensor], bool]) -> Iterator[Family]:
    """Let only some shared parameters require a gradient, for a while; give the family back.

    Args:
        family: whose parameters.
        chosen: of a parameter's name and the parameter, whether it is trained. One that does not
            require a gradient is not trained in any case.

    Raises:
        InputError: nothing is chosen.

    Example:
        >>> import torch, manynet
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> family = manynet.elastic(net, torch.zeros(1, 4))
        >>> with training_only(family, lambda name, tensor: "bias" in name):
        ...     print(family.shared[0].weight.requires_grad)
        False
    """
    free = {name: p for name, p in family.named_parameters() if p.requires_grad}
    frozen = [parameter for name, parameter in free.items() if not chosen(name, parameter)]
    if len(frozen) == len(free):
        raise InputError(
            f"none of the family's {len(free)} trainable parameters is chosen; their names are, "
            f"for example, {', '.join(list(free)[:3])}"
        )
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        family.clear()
        yield family
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
        family.clear()
