"""What a run returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from manynet._inputs import Inputs
from manynet.family import Family
from manynet.search import Front, Record

__all__ = ["RunResult", "Trained"]


@dataclass(frozen=True)
class RunResult:
    """What came out of a run.

    Args:
        member: the network that was chosen, with weights of its own: the best within the budget,
            or the largest that was shipped where there was no budget.
        front: the members that no other beats in everything.
        record: the chosen member's arch, quality and costs.
        folder: where everything is kept.
        report: the page to open.
        summary: all of it as JSON values, as in `result.json`.
    """

    member: nn.Module
    front: Front
    record: Record
    folder: Path
    report: Path
    summary: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Trained:
    """A family whose front is known, as a run's folder holds it.

    Args:
        family: in eval mode.
        front: the members that no other beats in everything.
        example_inputs: two samples.
        calibrated: gives a member batch-norm statistics of its own, in place, and returns it.
    """

    family: Family
    front: Front
    example_inputs: Inputs
    calibrated: Callable[[nn.Module], nn.Module]
