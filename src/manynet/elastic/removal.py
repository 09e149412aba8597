"""`remove_blocks`: a copy of a model that is shallower, without a family to keep."""

from __future__ import annotations

from typing import Any

from torch import nn

from manynet.elastic.convert import elastic
from manynet.elastic.importance import BlockImportance, Gates, JointImportance, Loss
from manynet.errors import InputError

__all__ = ["remove_blocks"]


def remove_blocks(
    model: nn.Module,
    inputs: Any,
    count: int,
    *,
    data: Any = None,
    importance: str | BlockImportance | JointImportance | None = None,
    loss: Loss | None = None,
) -> nn.Module:
    """Return a copy of a model without the `count` blocks that matter least.

    Args:
        model: a network with one run of blocks that can be left out.
        inputs: what it takes, for `manynet.elastic`.
        count: how many blocks to remove.
        data: calibration batches, for example a list of (tokens, targets).
        importance: what orders the blocks; by default `Gates` that keep the share which remains.
        loss: of the outputs and the targets of a batch; by default as in `manynet.elastic`.

    Raises:
        InputError: there is not one run of more blocks than that.

    Example:
        >>> import torch
        >>> from manynet.elastic import KnownImportance
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.inner = nn.Linear(4, 4)
        ...     def forward(self, x):
        ...         return x + self.inner(x)
        >>> net = nn.Sequential(Block(), Block(), Block())
        >>> scores = KnownImportance({"0": 2.0, "1": 0.5, "2": 1.0})
        >>> len(remove_blocks(net, torch.zeros(1, 4), 1, importance=scores))
        2
    """
    options: dict[str, Any] = {"width": None, "importance": None}
    depths = elastic(model, inputs, **options).blueprint.depths
    if len(depths) != 1 or not 0 <= count < len(depths[0].blocks):
        found = ", ".join(f"{len(run.blocks)} in {run.container}" for run in depths) or "none"
        raise InputError(f"cannot remove {count} blocks of one run of blocks; found {found}")
    total = len(depths[0].blocks)
    order = Gates(keep=1 - count / total) if importance is None else importance
    family = elastic(model, inputs, **options, depth_importance=order, data=data, loss=loss)
    return family.extract({depths[0].choice: total - count})
