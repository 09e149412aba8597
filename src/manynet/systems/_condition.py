"""`Condition`: one comparison that a proof must pass, computed from its figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from manynet.errors import InputError

__all__ = ["Condition"]


class Record(Protocol):
    """What one arm gave for one seed."""

    @property
    def value(self) -> float:
        """The metric."""
        ...

    @property
    def more(self) -> Mapping[str, float]:
        """Other figures, by name."""
        ...


@dataclass(frozen=True)
class Condition:
    """The mean of one arm must be better than that of another, by a margin.

    Args:
        arm: whose figure it is.
        than: the arm that it is compared with, or a number.
        margin: by how much it must be better; below 0: by how much it may be worse.
        figure: which of the arm's further figures; by default the metric.
        other_figure: likewise for the other arm; by default the same.
        higher_is_better: whether more of the figure is better; None: as of the metric.
        relative: whether the margin is a share of what it is compared with.

    Example:
        >>> from manynet.systems import Measured
        >>> arms = {"a": [Measured(0, 80.0, 1, 1, 1)], "b": [Measured(0, 100.0, 1, 1, 1)]}
        >>> Condition("a", "b", 0.15, relative=True).holds(arms, higher_is_better=False)
        True
    """

    arm: str
    than: str | float
    margin: float = 0.0
    figure: str = ""
    other_figure: str | None = None
    higher_is_better: bool | None = None
    relative: bool = False

    def means(self, arms: Mapping[str, Sequence[Record]]) -> tuple[float, float]:
        """Return the two means over the seeds.

        Raises:
            InputError: an arm or a figure is not there.
        """
        other = self.figure if self.other_figure is None else self.other_figure
        first = _mean(arms, self.arm, self.figure)
        return first, _mean(arms, self.than, other) if isinstance(self.than, str) else self.than

    def required(self, arms: Mapping[str, Sequence[Record]]) -> float:
        """Return by how much the figure must be better."""
        return self.margin * abs(self.means(arms)[1]) if self.relative else self.margin

    def difference(self, arms: Mapping[str, Sequence[Record]], *, higher_is_better: bool) -> float:
        """Return by how much the figure is better; negative where it is worse.

        Args:
            arms: the records.
            higher_is_better: as of the metric; the condition's own goes before.
        """
        first, second = self.means(arms)
        own = self.higher_is_better
        return first - second if (higher_is_better if own is None else own) else second - first

    def holds(self, arms: Mapping[str, Sequence[Record]], *, higher_is_better: bool) -> bool:
        """Return whether the difference reaches the margin."""
        found = self.difference(arms, higher_is_better=higher_is_better)
        return found >= self.required(arms)


def _mean(arms: Mapping[str, Sequence[Record]], arm: str, figure: str) -> float:
    try:
        return statistics.fmean(
            record.more[figure] if figure else record.value for record in arms[arm]
        )
    except KeyError as error:
        raise InputError(
            f"a condition asks for {figure or 'the metric'!r} of the arm {arm!r}, and the proof "
            f"has no {error}"
        ) from error
