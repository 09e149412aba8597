"""`Update`: what a client sends back, and which part of the shared weights it is of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from manynet.bindings.axes import Index
from manynet.errors import InputError

__all__ = ["Index", "Update"]


@dataclass(frozen=True, eq=False)
class Update:
    """The weights that one client has trained.

    Args:
        tensors: by name. Any mapping will do: each tensor is asked for once and let go again, so
            one that reads a file holds a single tensor in memory.
        weight: how much it counts, such as the client's number of samples.
        client: who sent it. The server adds updates in the order of these names, so that the
            result does not depend on who came first.
        parts: of which positions of the shared tensor, a slice or indices for each dimension; a
            tensor that is not named here is the leading block of its own shape.

    Raises:
        InputError: the weight is not above 0 and finite.
    """

    tensors: Mapping[str, Tensor]
    weight: float = 1.0
    client: str = ""
    parts: Mapping[str, tuple[Index, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise InputError(
                f"{self.label} has the weight {self.weight}; it must be above 0, such as the "
                "client's number of samples"
            )

    @property
    def label(self) -> str:
        """What to call it in an error."""
        return f"the update of client {self.client!r}" if self.client else "an update"

    @property
    def bytes(self) -> int:
        """How many bytes its tensors take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())
