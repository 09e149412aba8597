"""What a search strategy is: it is asked for archs, and told what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from manynet.search.front import Record
from manynet.space import Arch, Space

__all__ = ["Evaluation", "Strategy", "StrategyFactory"]


@dataclass(frozen=True)
class Evaluation:
    """What a strategy is told about an arch that it asked for.

    Args:
        arch: the arch as it was asked for.
        objectives: what is to be minimized: the quality (its sign turned where more is better),
            then the costs; infinite where the arch broke a constraint before it was judged.
        violation: by how much it breaks the hard constraints, as a share of the limit; 0 if none.
        record: quality and costs by name; None where the arch was not judged.
    """

    arch: Arch
    objectives: tuple[float, ...]
    violation: float = 0.0
    record: Record | None = None

    @property
    def feasible(self) -> bool:
        """Whether it keeps every constraint."""
        return self.violation <= 0


@runtime_checkable
class Strategy(Protocol):
    """What a search asks for archs. Write your own class with these two methods.

    A strategy must draw all its chance from its seed, and may use nothing else than what it is
    told: then a search that was interrupted takes the same course again.
    """

    def ask(self) -> Sequence[Arch]:
        """Return the archs to evaluate next, all at once; nothing ends the search."""
        ...

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """Take in the evaluations of archs that were asked for; some of them may be missing."""
        ...


class StrategyFactory(Protocol):
    """What makes a strategy for a space: a class or a function."""

    def __call__(self, space: Space, *, seed: int, population: int) -> Strategy:
        """Return a strategy that has asked for nothing yet."""
        ...
