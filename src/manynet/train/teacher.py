"""A teacher that is not of the family: the original model, frozen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import call
from manynet.data import Batch
from manynet.train.objectives import Distill, Objective

__all__ = ["TaughtBy"]


@dataclass(frozen=True)
class TaughtBy:
    """All members, the largest included, learn what another network says.

    In-place distillation follows a teacher that moves; this one stays, which keeps what a
    pretrained model knows. It runs once a step, in eval mode and without gradients.

    Args:
        teacher: a frozen network, or a function from a batch's inputs to outputs.
        objective: what to learn from it; with `Distill(labels=0.5)` half of it from the labels.

    Example:
        >>> net = nn.Linear(3, 2)
        >>> batch = (torch.ones(1, 3), torch.tensor([1]))
        >>> float(TaughtBy(net)(net(batch[0]), batch, None, True).detach())
        0.0
    """

    teacher: nn.Module | Callable[[Any], object] = field(repr=False)
    objective: Objective = field(default_factory=Distill)
    _said: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss of `outputs` against what the teacher says of this batch."""
        if self._said.get("batch") is not batch:
            self._said.update(batch=batch, outputs=self._ask(batch[0]))
        return self.objective(outputs, batch, self._said["outputs"], False)

    @torch.no_grad()
    def _ask(self, inputs: Any) -> object:
        if not isinstance(self.teacher, nn.Module):
            return self.teacher(inputs)
        self.teacher.eval()
        return call(self.teacher, inputs)
