"""Estimators: how logits of a choice's values become the shares with which they are summed.

An estimator is a function of the logits and of how far the search has come (0 to 1). Those that
draw take their random numbers from PyTorch's global generator, which a search seeds in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.distributions import Dirichlet as DirichletDistribution
from torch.nn import functional

from manynet.errors import InputError

__all__ = [
    "Dirichlet",
    "Estimator",
    "GumbelOneHot",
    "Softmax",
    "Sparsemax",
    "UniformOneHot",
    "sparsemax",
]


class Estimator(Protocol):
    """From the logits of one choice to the shares of its values; any function will do."""

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return the shares, with a gradient; `progress` goes from 0 to 1 over the search.

        Shapes: `(values,)` to `(values,)`.
        """


@dataclass(frozen=True)
class Softmax:
    """Shares are the softmax of the logits.

    Reference: Liu et al. 2019, arXiv 1806.09055 (DARTS).
    """

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return the shares."""
        return logits.softmax(-1)


@dataclass(frozen=True)
class Sparsemax:
    """Shares are the closest point of the simplex to the logits, so that some are exactly zero.

    Reference: Martins and Astudillo 2016, arXiv 1602.02068; TangleNAS's code takes it for summed
    weights.
    """

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return the shares."""
        return sparsemax(logits)


def sparsemax(logits: Tensor) -> Tensor:
    """Return the point of the simplex that is closest to `logits`, over the last dimension.

    Shapes: `(..., values)` to `(..., values)`.

    Example:
        >>> sparsemax(torch.tensor([1.0, 0.8, -1.0]))
        tensor([0.6000, 0.4000, 0.0000])
    """
    ordered = logits.sort(-1, descending=True).values
    count = torch.arange(1, logits.shape[-1] + 1, device=logits.device, dtype=logits.dtype)
    total = ordered.cumsum(-1)
    support = (1 + count * ordered > total).sum(-1, keepdim=True)
    threshold = (total.gather(-1, support - 1) - 1) / support
    return (logits - threshold).clamp_min(0)


@dataclass(frozen=True)
class Dirichlet:
    """Shares are drawn from a Dirichlet distribution with concentrations `elu(logits) + 1`.

    Reference: Chen et al. 2021, arXiv 2006.10355 (DrNAS).
    """

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return a draw, reparameterized."""
        concentration = functional.elu(logits) + 1
        drawn: Tensor = DirichletDistribution(concentration, validate_args=False).rsample()
        return drawn


@dataclass(frozen=True)
class GumbelOneHot:
    """One value is drawn and has all; the gradient is that of the soft draw.

    Args:
        start: the temperature in the beginning.
        end: the temperature in the end; it falls in a straight line.

    Reference: Dong and Yang 2019, arXiv 1910.04465 (GDAS).
    """

    start: float = 10.0
    end: float = 0.1

    def __post_init__(self) -> None:
        if not (self.start > 0 and self.end > 0):
            raise InputError(
                f"GumbelOneHot(start={self.start}, end={self.end}): temperatures are above 0"
            )

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return a draw: exactly one-hot."""
        temperature = self.start + (self.end - self.start) * progress
        uniform = torch.rand_like(logits).clamp_min(torch.finfo(logits.dtype).tiny)
        gumbel = -(-uniform.log()).log()
        soft = ((logits.log_softmax(-1) + gumbel) / temperature).softmax(-1)
        hard = torch.zeros_like(soft).scatter(-1, soft.argmax(-1, keepdim=True), 1.0)
        return hard + (soft - soft.detach())


@dataclass(frozen=True)
class UniformOneHot:
    """One value is drawn with equal chances, whatever the logits: they learn nothing.

    Reference: Guo et al. 2020, arXiv 1904.00420 (SPOS).
    """

    def __call__(self, logits: Tensor, progress: float) -> Tensor:
        """Return a draw: exactly one-hot."""
        place = torch.randint(logits.shape[-1], (), device=logits.device)
        return (torch.arange(logits.shape[-1], device=logits.device) == place).to(logits.dtype)
