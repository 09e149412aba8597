"""Writes into shared tensors that move no version counter of PyTorch's, and how they are noticed.

Steps of fused optimizers are such writes, and so are those through `Tensor.data`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manynet.bindings.push import Touched

__all__ = ["Writes"]

_PROBED = 8
"""Entries of each block that are looked at."""


class Writes:
    """Tells whether shared tensors may have been written since they were copied.

    Whatever an optimizer did counts. A write by hand is told by a few entries of every block, of
    which it has to change one, as a loop over all parameters does; copying the blocks anew takes
    several times as long as looking. What changes only other entries needs `Family.clear`.

    Args:
        views: the blocks of the shared tensors.
        copies: the copies, in the same shapes.
        touched: counts the steps of optimizers.
    """

    def __init__(self, views: Sequence[Tensor], copies: Sequence[Tensor], touched: Touched) -> None:
        self._touched = touched
        # a look at a GPU would have to wait for it, and there a copy takes no longer
        looks = all(view.device.type == "cpu" and view.numel() for view in views)
        self._probes = [_diagonal(view) for view in views] if looks else []
        self._copied = [_diagonal(copy) for copy in copies]
        self.seen()

    def seen(self) -> None:
        """Note that the copies are up to date."""
        self._steps = self._touched.steps

    def possible(self) -> bool:
        """Whether there may have been a write since then."""
        if self._steps != self._touched.steps or not self._probes:
            return True
        return not torch.equal(torch.cat(self._probes), torch.cat(self._copied))


def _diagonal(block: Tensor) -> Tensor:
    """Return a view of a few entries of `block`, in rows and columns of their own."""
    count = min(_PROBED, max(block.shape, default=1))
    gap = max(count - 1, 1)
    stride = sum((size - 1) // gap * s for size, s in zip(block.shape, block.stride(), strict=True))
    return block.as_strided((count,), (stride,), int(block.storage_offset()))
