"""Which axes every tensor of a running network has, and which module is running."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from manynet.elastic._axes import Extent, extent, freeze
from manynet.elastic._residual import Frame, Stream

__all__ = ["Record"]


@dataclass(slots=True)
class Record:
    """The axes of every tensor seen so far; tensors are told apart by identity and kept alive."""

    frames: list[Frame] = field(default_factory=list)
    stream: Stream = field(default_factory=Stream)
    unknown: dict[str, str] = field(default_factory=dict)
    computed: dict[int, torch.Tensor] = field(default_factory=dict)
    """What each parametrization returned last, by the identity of its module."""
    own: set[int] | None = None
    """The identities of the parameters and buffers; None where any tensor may be one."""
    _dims: dict[int, list[Extent]] = field(default_factory=dict)
    _alive: list[torch.Tensor] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The module that is running."""
        return self.frames[-1].path if self.frames else ""

    def knows(self, tensor: torch.Tensor) -> bool:
        """Return whether the tensor has been met."""
        return id(tensor) in self._dims

    def dims(self, tensor: torch.Tensor) -> list[Extent]:
        """Return the axes of a tensor; one that was never met gets new ones."""
        known = self._dims.get(id(tensor))
        if known is not None:
            return known
        reason = None
        if not tensor.is_floating_point():
            reason = "a tensor of indices"
        elif self.own is not None and id(tensor) not in self.own:
            reason = "a tensor that the code holds, and no member cuts"
        return self.put(tensor, [extent(size, reason) for size in tensor.shape])

    def put(self, tensor: torch.Tensor, dims: Sequence[Extent]) -> list[Extent]:
        """Set the axes of a tensor, one extent a dimension."""
        self._dims[id(tensor)] = own = list(dims)
        self._alive.append(tensor)
        return own

    def order(self) -> dict[int, int]:
        """Return the position at which each tensor was first met, by its identity."""
        return {key: position for position, key in enumerate(self._dims)}

    def freeze(self, tensor: torch.Tensor, reason: str) -> None:
        """Freeze every dimension of a tensor."""
        for dim in self.dims(tensor):
            freeze(dim, reason)

    def fix(self, tensor: torch.Tensor, reason: str) -> None:
        """Give a new tensor frozen dimensions."""
        self.put(tensor, [extent(size, reason) for size in tensor.shape])
