"""The network of a run: with its weights, or as an empty form that a saved family fills.

To read a network may take long: the numbers of a `.gguf` file are unpacked one by one. A stage that
goes on with a saved family wants its modules only, so these are remembered from the first time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["Network"]


class Network:
    """Builds the network of a run, always the same one, and remembers its form.

    Args:
        make: builds or reads it.

    Example:
        >>> network = Network(lambda: nn.Linear(2, 3))
        >>> network.form().weight.shape
        torch.Size([3, 2])
    """

    def __init__(self, make: Callable[[], nn.Module]) -> None:
        self._make = make
        self._form: nn.Module | None = None
        self._original: nn.Module | None = None

    def __call__(self) -> nn.Module:
        """Return the network anew, with its weights."""
        if self._original is not None and self._form is not None:
            return _like(copy.deepcopy(self._original).cpu(), self._form)
        model = self._make()
        if self._form is None:
            self._form = _moved(model, torch.device("meta"))
        return model

    def original(self) -> nn.Module:
        """Return the network with its weights, the same object each time, to look at only.

        It may be frozen, put into evaluation mode and moved to another device.
        """
        if self._original is None:
            self._original = self()
        return self._original

    def form(self) -> nn.Module:
        """Return the network anew, its parameters without values."""
        if self._form is None:
            self()
        assert self._form is not None
        return _moved(self._form, torch.device("cpu"))


def _moved(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy whose parameters have no values and are on `device`; the rest is as it was."""
    memo: dict[int, Any] = {
        id(own): nn.Parameter(torch.empty_like(own, device=device), own.requires_grad)
        for own in model.parameters()
    }
    return copy.deepcopy(model, memo)


def _like(model: nn.Module, form: nn.Module) -> nn.Module:
    """Give a copy the mode of `form`, and what it trains."""
    for own, other in zip(model.modules(), form.modules(), strict=True):
        own.training = other.training
    for mine, theirs in zip(model.parameters(), form.parameters(), strict=True):
        mine.requires_grad_(theirs.requires_grad)
    return model
