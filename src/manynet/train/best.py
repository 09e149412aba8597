"""`Best` keeps a member as it was when it did best."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from manynet.family import Family
from manynet.space import Arch

__all__ = ["Best"]


class Best:
    """Judges one member after each epoch and keeps what is trained as it was at the best one.

    It is the `validate` of `manynet.train`; call it once before the training too where the start
    shall count. Judge on validation data: what is chosen on test data tells nothing about them.

    Args:
        arch: the member.
        judge: a metric.
        higher_is_better: whether more of it is better.

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
    ) -> None:
        self.arch, self.judge, self.sign = arch, judge, 1 if higher_is_better else -1
        self.values: list[float] = []
        """All that were measured, in order."""
        self._kept: dict[str, Tensor] = {}

    @property
    def value(self) -> float:
        """The best one, of equal ones the first."""
        return max(self.values, key=lambda value: self.sign * value)

    def __call__(self, family: Family) -> Mapping[str, Mapping[str, float]]:
        """Judge the member, and keep the family's tensors if it has never been better."""
        before = self.sign * self.value if self.values else -float("inf")
        mode = family.training
        with torch.no_grad():
            self.values.append(float(self.judge(family.eval().at(self.arch))))
        family.train(mode)
        if self.sign * self.values[-1] > before:
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
