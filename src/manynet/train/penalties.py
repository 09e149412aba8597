"""Losses of the shared weights themselves, which `train(penalty=…)` adds once a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.operation import walk
from manynet.bindings.quantize import Quantize
from manynet.errors import InputError
from manynet.family import Family

__all__ = ["Penalty", "UniformWeights", "moments", "penalty_at"]

Penalty = Callable[[Family], Tensor]
"""A differentiable function of a family's shared parameters that returns one number.

One that goes by the number of the step has `at(step)` too, which returns that step's.
"""


def penalty_at(penalty: Penalty | None, step: int) -> Penalty | None:
    """Return the penalty of a step, counted from 0."""
    by_step: Callable[[int], Penalty] | None = getattr(penalty, "at", None)
    return penalty if by_step is None else by_step(step)


def moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return kurtosis and skewness of the entries: 1.8 and 0 if they are spread evenly.

    Example:
        >>> kurtosis, skewness = moments(torch.linspace(-1, 1, 1001))
        >>> round(float(kurtosis), 2), round(abs(float(skewness)), 2)
        (1.8, 0.0)
    """
    centered = weight - weight.mean()
    scaled = centered / centered.square().mean().sqrt().clamp_min(1e-12)
    cubed = scaled * scaled.square()
    return (cubed * scaled).mean(), cubed.mean()


@dataclass(frozen=True)
class UniformWeights:
    """Pull the distribution of each quantized weight towards a uniform one.

    Evenly spread entries lose the same share in every form of rounding, so that forms that share
    them disturb each other less. The loss is the mean over the weights of
    `kurtosis * (K - 1.8) ** 2 + skewness * S ** 2`.

    Args:
        kurtosis: how much the first counts.
        skewness: how much the second counts.

    Reference: Xu et al. 2023, arXiv 2308.07650 (weight distribution regularization); Shkolnik et
    al. 2020, arXiv 2002.07686.
    """

    kurtosis: float = 1e-3
    skewness: float = 1e-3

    def __call__(self, family: Family) -> Tensor:
        """Return the loss.

        Raises:
            InputError: the family quantizes no weight.
        """
        names = {
            name: None
            for binding in family.blueprint.bindings.values()
            for own in walk(binding)
            if isinstance(own, Quantize)
            for name in own.weight.reads
        }
        if not names:
            raise InputError("UniformWeights: the family quantizes no weight; see `elastic_bits`")
        shared = dict(family.named_parameters())
        found = [moments(shared[name].float()) for name in names]
        peaks, leans = (torch.stack(column) for column in zip(*found, strict=True))
        loss: Tensor = (
            self.kurtosis * (peaks - 1.8).square() + self.skewness * leans.square()
        ).mean()
        return loss
