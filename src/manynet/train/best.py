"""`Best` keeps a member as it was when it did best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manynet.family import Family
from manynet.space import Arch
from manynet.train._source import TrainData
from manynet.train.objectives import Task
from manynet.train.samplers import Fixed
from manynet.train.trainer import train

__all__ = ["Best", "train_best"]


class Best:
    """Judges one member after each epoch and keeps what is trained as it was at the best one.

    It is the `validate` of `manynet.train`; call it once before the training too where the start
    shall count. Judge on validation data: what is chosen on test data tells nothing about them.

    Args:
        arch: the member.
        judge: a metric.
        higher_is_better: whether more of it is better.
        ties: which of equally good ones is kept, the first or the last.

    Example:
        >>> import manynet as mn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
        >>> family = mn.elastic(model, (torch.zeros(1, 4),), width=(0.5, 1.0))
        >>> best = Best(family.space.largest, lambda member: float(member[1].bias.detach().sum()))
        >>> before = best(family)
        >>> torch.nn.init.constant_(family.shared[1].bias, -9.0).tolist()
        [-9.0, -9.0]
        >>> after = best(family)
        >>> best.restore(family)
        >>> best.value == float(family.shared[1].bias.detach().sum()) == best.values[0]
        True
    """

    def __init__(
        self,
        arch: Arch,
        judge: Callable[[nn.Module], float],
        *,
        higher_is_better: bool = True,
        ties: Literal["first", "last"] = "first",
    ) -> None:
        self.arch, self.judge, self.sign = arch, judge, 1 if higher_is_better else -1
        self.ties = ties
        self.values: list[float] = []
        """All that were measured, in order."""
        self._kept: dict[str, Tensor] = {}

    @property
    def value(self) -> float:
        """The best one."""
        return max(self.values, key=lambda value: self.sign * value)

    def __call__(self, family: Family) -> Mapping[str, Mapping[str, float]]:
        """Judge the member, and keep the family's tensors if it never was better."""
        before = self.sign * self.value if self.values else -float("inf")
        mode = family.training
        with torch.no_grad():
            self.values.append(float(self.judge(family.eval().at(self.arch))))
        family.train(mode)
        now = self.sign * self.values[-1]
        if now > before or (now == before and self.ties == "last"):
            self._kept = {
                name: tensor.detach().clone()
                for name, tensor in family.state_dict().items()
                if tensor.requires_grad or not isinstance(tensor, nn.Parameter)
            }
        return {"best": {"value": self.value}}

    @torch.no_grad()
    def restore(self, family: Family) -> None:
        """Give the family's trained tensors and its buffers the values that did best."""
        tensors = family.state_dict()
        for name, kept in self._kept.items():
            tensors[name].copy_(kept)


def train_best(
    family: Family, arch: Arch, data: TrainData, judge: Callable[[nn.Module], float], **options: Any
) -> Best:
    """Train a family through one member, and leave it as it was after its best epoch.

    Args:
        family: what of it learns is trained; of equally good epochs the last is kept.
        arch: the member.
        data: what `manynet.train` takes.
        judge: a metric on validation data.
        **options: of `manynet.train`; by default labels teach, at a constant rate.

    Returns:
        what was measured.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2))
        >>> data = (torch.randn(32, 4), torch.zeros(32, dtype=torch.long))
        >>> judge = lambda member: float((member(data[0]).argmax(1) == 0).float().mean())
        >>> found = train_best(Family(model), Arch({}), data, judge, epochs=2, learning_rate=0.1)
        >>> len(found.values), found.value == judge(model)
        (2, True)
    """
    best = Best(arch, judge, ties="last")
    given = {"sampler": Fixed(arch), "objective": Task(), "schedule": "constant", "warmup": 0}
    train(family, data, validate=best, **{**given, **options})
    best.restore(family)
    return best
