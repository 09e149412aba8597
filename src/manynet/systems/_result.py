"""What a proof found: both arms for every seed, and whether the claim holds by its margin."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from manynet._files import read_json, write_json
from manynet.errors import StorageError
from manynet.systems._condition import Condition

__all__ = ["Measured", "Result", "read_result", "results_folder"]


@dataclass(frozen=True)
class Measured:
    """What one arm of a proof gave for one seed.

    Args:
        seed: decides every random number of the arm.
        value: the metric.
        seconds: wall time.
        samples_seen: how many samples were trained on, counted once a forward-backward pass.
        parameters: that were trained.
        more: other figures of the arm, by name.
    """

    seed: int
    value: float
    seconds: float
    samples_seen: int
    parameters: int
    more: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """The figures of one system's proof.

    Args:
        number: of the system.
        name: its short name.
        claim: in one sentence, with the paper's own figures.
        metric: what `value` of every record is.
        higher_is_better: whether more of the metric is better.
        margin: by how much our mean must be better than the baseline's.
        arms: name to one record a seed.
        ours: which arm is the method.
        baseline: which arm it is compared with.
        budget: share of the proof's full size; both arms were thinned alike where it is below 1.
        command: what was run.
        versions: of the libraries.
        date: when it was finished, as ISO 8601.
        relative: whether the margin is a share of the baseline's mean.
        conditions: what must hold beside.
    """

    number: int
    name: str
    claim: str
    metric: str
    higher_is_better: bool
    margin: float
    arms: Mapping[str, tuple[Measured, ...]]
    ours: str
    baseline: str
    budget: float
    command: str
    versions: Mapping[str, str]
    date: str
    relative: bool = False
    conditions: tuple[Condition, ...] = ()

    @property
    def main(self) -> Condition:
        """The comparison with the baseline."""
        return Condition(self.ours, self.baseline, self.margin, relative=self.relative)

    @property
    def difference(self) -> float:
        """By how much our mean is better than the baseline's; negative where it is worse."""
        return self.difference_of(self.main)

    @property
    def verdict(self) -> str:
        """`"holds"` where the difference reaches the margin and all conditions hold."""
        return "holds" if all(map(self.holds, (self.main, *self.conditions))) else "misses"

    def holds(self, condition: Condition) -> bool:
        """Return whether a condition holds."""
        return condition.holds(self.arms, higher_is_better=self.higher_is_better)

    def difference_of(self, condition: Condition) -> float:
        """Return by how much a condition's figure is better; negative where it is worse."""
        return condition.difference(self.arms, higher_is_better=self.higher_is_better)

    def mean(self, arm: str) -> float:
        """Return the mean of an arm over its seeds."""
        return statistics.fmean(record.value for record in self.arms[arm])

    def spread(self, arm: str) -> float:
        """Return the standard deviation of an arm over its seeds; 0 for a single one."""
        values = [record.value for record in self.arms[arm]]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def file_name(self) -> str:
        """The name of the file that holds it."""
        return f"{self.number:02}-{self.name}.json"

    def write(self, folder: Path) -> Path:
        """Write it into `folder`; return the file. Raises `StorageError`."""
        path = folder / self.file_name
        write_json(path, {**asdict(self), "verdict": self.verdict})
        return path


def read_result(path: Path) -> Result:
    """Return the result in the file at `path`.

    Raises:
        StorageError: the file is missing, damaged, or of something else.
    """
    data: dict[str, Any] = read_json(path)
    try:
        data.pop("verdict")  # it follows from the figures
        arms = {
            name: tuple(Measured(**record) for record in records)
            for name, records in data.pop("arms").items()
        }
        conditions = tuple(Condition(**one) for one in data.pop("conditions", ()))
        return Result(arms=arms, conditions=conditions, **data)
    except (AttributeError, KeyError, TypeError) as error:
        raise StorageError(f"{path} holds no result of a proof ({error})") from error


def results_folder() -> Path:
    """Return where the results that ship with manynet lie: in the checkout, else in the package."""
    checkout = Path(__file__).parents[3] / "docs" / "results"
    return checkout if checkout.is_dir() else Path(__file__).parent / "results"
