"""`RunningMean`: updates of one width merged as they arrive."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from manynet.errors import InputError
from manynet.federate._merge import merge
from manynet.federate._update import Update

__all__ = ["RunningMean"]


class RunningMean:
    """The weighted mean of the updates so far, which is an update again.

    So servers can stand in a tree: each adds what it receives, and sends `update` on. Clients of
    several widths need one mean for each width, and `merge` puts the means together.

    Args:
        together: so many updates wait to be added in one go. One at a time needs the least memory
            but reads and writes the mean anew for each; eight cost little more than reading them.
        client: the name of the mean as an update.

    Example:
        >>> import torch
        >>> mean = RunningMean()
        >>> for value, samples in ((0.0, 1), (4.0, 3)):
        ...     mean.add(Update({"weight": torch.tensor([value])}, samples))
        >>> mean.update.tensors, mean.update.weight
        ({'weight': tensor([3.])}, 4.0)
    """

    def __init__(self, *, together: int = 8, client: str = "") -> None:
        if together < 1:
            raise InputError(f"together={together}: at least one update is added at a time")
        self.together = together
        self.client = client
        self._mean: dict[str, Tensor] | None = None
        self._spare: dict[str, Tensor] | None = None
        self._lent = False
        self._weight = 0.0
        self._waiting: list[Update] = []

    def add(self, update: Update) -> None:
        """Take an update in.

        Raises:
            InputError: it has other tensors or shapes than the first; what came before stays.
        """
        first = self._mean or (self._waiting[0].tensors if self._waiting else update.tensors)
        if _shapes(first) != _shapes(update.tensors):
            raise InputError(
                f"{update.label} has other tensors or shapes than those before it; keep one mean "
                "for each width and merge the means"
            )
        self._waiting.append(update)
        if len(self._waiting) >= self.together:
            self._fold()

    @property
    def update(self) -> Update:
        """The mean, with the sum of the weights.

        Raises:
            InputError: nothing has been added, or what waited is not finite and was dropped.
        """
        self._fold()
        if self._mean is None:
            raise InputError("nothing was added, so there is no mean")
        self._lent = True
        return Update(self._mean, self._weight, self.client)

    def _fold(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        before = [] if self._mean is None else [Update(self._mean, self._weight)]
        like = waiting[0].tensors if self._mean is None else self._mean
        mean = merge(like, [*before, *waiting], out=self._spare)
        # what was handed out is not written into again
        self._mean, self._spare, self._lent = mean, None if self._lent else self._mean, False
        self._weight += sum(update.weight for update in waiting)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
