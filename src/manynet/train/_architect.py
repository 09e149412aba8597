"""One step of a search by gradients: the logits of the values first, then the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from manynet.data import Batch
from manynet.errors import InputError, TrainingError
from manynet.space import Arch
from manynet.train._hardware import Hardware
from manynet.train._relax import Relaxed
from manynet.train._seeds import seed_of
from manynet.train.estimators import Estimator
from manynet.train.objectives import Objective
from manynet.train.schedules import Schedule
from manynet.train.step import accumulate

__all__ = ["Architect", "Settings"]

SPREAD = 1e-3
"""Of the first logits."""
NUDGE = 0.01
"""By how much the weights move for the difference that stands for a second derivative."""


@dataclass(frozen=True)
class Settings:
    """How a search moves logits and weights.

    Args:
        schedule: of the weights' learning rate.
        estimator: from logits to shares.
        objective: the loss of both.
        hardware: where and how precisely to compute.
        arch_rate: learning rate of the logits.
        arch_decay: L2 penalty of the logits.
        order: 2 to look one step of the weights ahead.
        clip: the norm that the weights' gradients are clipped to.
        seed: of the first logits.
    """

    schedule: Schedule
    estimator: Estimator
    objective: Objective
    hardware: Hardware
    arch_rate: float
    arch_decay: float
    order: int
    clip: float | None
    seed: int


class Architect:
    """Holds the logits, and moves them and the weights.

    Args:
        relaxed: the network of all members.
        optimizer: of its weights.
        settings: of both.
    """

    def __init__(self, relaxed: Relaxed, optimizer: Optimizer, settings: Settings) -> None:
        if settings.order not in (1, 2):
            raise InputError(f"order={settings.order!r} is unknown; use 1 or 2")
        self.relaxed, self.family = relaxed, relaxed.family
        self.optimizer, self.settings = optimizer, settings
        self.rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.taken = 0
        generator = torch.Generator().manual_seed(seed_of(settings.seed, 6))
        self.logits = {
            name: (SPREAD * torch.randn(own.shape, generator=generator)).to(own).requires_grad_()
            for name, own in relaxed.shares.items()
        }
        self.adam = Adam(
            list(self.logits.values()),
            lr=settings.arch_rate,
            betas=(0.5, 0.999),
            weight_decay=settings.arch_decay,
        )

    def arch(self) -> Arch:
        """Return the arch of the highest logits."""
        return self.relaxed.best({name: own.detach() for name, own in self.logits.items()})

    def step(self, batch: Batch, unseen: Batch, progress: float) -> float:
        """Move the logits on `unseen`, then the weights on `batch`; return the weights' loss."""
        factor = self.settings.schedule(self.taken)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.move_logits(batch, unseen, progress)
        self.draw(progress)
        loss = self.backward(batch)
        if self.settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.family.parameters(), self.settings.clip)
        self.optimizer.step()
        self.taken += 1
        return loss

    def draw(self, progress: float) -> dict[str, Tensor]:
        """Set new shares and return them with their graphs."""
        shares = {name: self.settings.estimator(own, progress) for name, own in self.logits.items()}
        self.relaxed.set({name: share.detach() for name, share in shares.items()})
        return shares

    def backward(self, batch: Batch) -> float:
        """Compute the gradients of the weights and of the shares anew; return the loss."""
        self.family.zero_grad()
        for share in self.relaxed.shares.values():
            share.grad = None
        arch = self.family.space.largest
        how = self.settings
        loss = float(accumulate(self.family, batch, [arch], how.objective, hardware=how.hardware))
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss} at step {self.taken} of the search; the weights are those "
                "before this step. Try a lower learning rate or clip=1.0"
            )
        return loss

    def move_logits(self, batch: Batch, unseen: Batch, progress: float) -> None:
        """Take one step of the logits."""
        shares = self.draw(progress)
        grads = (
            self._ahead(batch, unseen) if self.settings.order == 2 else self._share_grads(unseen)
        )
        self.adam.zero_grad()
        reached = {name: share for name, share in shares.items() if share.requires_grad}
        if reached:
            torch.autograd.backward(list(reached.values()), [grads[name] for name in reached])
            self.adam.step()

    def _share_grads(self, batch: Batch) -> dict[str, Tensor]:
        self.backward(batch)
        return {
            name: torch.zeros_like(own) if own.grad is None else own.grad.clone()
            for name, own in self.relaxed.shares.items()
        }

    def _ahead(self, batch: Batch, unseen: Batch) -> dict[str, Tensor]:
        """Return the shares' gradients after the weights' next step, by finite differences."""
        weights = [p for p in self.family.parameters() if p.requires_grad]
        rate = float(self.optimizer.param_groups[0]["lr"])
        start = [p.detach().clone() for p in weights]
        self.backward(batch)
        _move(weights, start, [p.grad for p in weights], -rate)
        found = self._share_grads(unseen)
        toward = [None if p.grad is None else p.grad.clone() for p in weights]
        norm = math.sqrt(sum(float(g.square().sum()) for g in toward if g is not None))
        nudge = NUDGE / max(norm, 1e-12)
        sides = []
        for side in (nudge, -nudge):
            _move(weights, start, toward, side)
            sides.append(self._share_grads(batch))
        _move(weights, start, toward, 0.0)
        return {
            name: grad - rate * (sides[0][name] - sides[1][name]) / (2 * nudge)
            for name, grad in found.items()
        }


@torch.no_grad()
def _move(
    weights: list[torch.nn.Parameter],
    start: list[Tensor],
    along: list[Tensor | None],
    by: float,
) -> None:
    """Put each weight at its start and so far along a direction."""
    for weight, origin, direction in zip(weights, start, along, strict=True):
        weight.copy_(origin if direction is None or by == 0 else origin + by * direction)
