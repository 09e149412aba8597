"""How far the forces of a member are from the true ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from manynet._inputs import call, device_of
from manynet.search.metrics import BatchesOnce, Data, Metric

__all__ = ["force_error"]


def force_error(
    data: Data,
    *,
    batch_size: int = 64,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Metric:
    """Return the metric `force_error`: the mean absolute error of a force's component.

    Args:
        data: as `manynet.data.Molecules.samples` gives it.
        batch_size: molecules a forward pass.
        device: where to keep the data; None means where the member is.
        limit: use only the first so many molecules.

    Raises:
        InputError: there is no data.

    Shapes: see `manynet.graphs.EnergyForces`.
    """
    return Metric(
        "force_error", _Forces(BatchesOnce(data, batch_size, device, limit)), higher_is_better=False
    )


class _Forces:
    def __init__(self, batches: BatchesOnce) -> None:
        self.batches = batches

    @property
    def fingerprint(self) -> str:
        return self.batches.fingerprint

    def __call__(self, member: nn.Module) -> float:
        total, count = 0.0, 0
        inputs: Any
        for inputs, targets in self.batches.on(device_of(member)):
            _, forces = call(member, inputs)
            present = inputs[1] > 0
            wrong = (forces.detach() - targets[:, 1:].view_as(forces)).abs()[present]
            total, count = total + float(wrong.sum()), count + wrong.numel()
        return total / count
