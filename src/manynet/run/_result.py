"""What a run returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from manynet.search import Front, Record

__all__ = ["RunResult"]


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
