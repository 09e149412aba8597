"""What a training run writes down as it goes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from manynet._files import write_text
from manynet.errors import StorageError
from manynet.train.ema import Ema

__all__ = ["LogFile", "Row", "TrainingLog", "Window"]

Row = Mapping[str, object]
"""`step`, `epoch` (from 1), `loss`, `learning_rate`, and `members`: name -> metric -> value."""


@dataclass(frozen=True)
class TrainingLog:
    """What a training run came to. Two runs of one seed on one machine have equal logs.

    Attributes:
        rows: what was written down, also in `training.jsonl`: losses are means since the row
            before, and rows at the end of an epoch hold what `validate` returned.
        steps: steps taken in all, those before a resume included.
        ema: the moving average of the weights, if one was asked for.
        folder: the run's folder, if there is one.
        seconds: how long this call took.
    """

    rows: tuple[Row, ...]
    steps: int
    ema: Ema | None = field(default=None, compare=False)
    folder: Path | None = field(default=None, compare=False)
    seconds: float = field(default=0.0, compare=False)

    def curve(self, member: str = "largest", metric: str = "loss") -> list[tuple[int, float]]:
        """Return (step, value) of one metric of `"largest"`, `"smallest"` or `"random"`."""
        found = []
        for row in self.rows:
            members = cast("Mapping[str, Mapping[str, float]]", row["members"])
            if metric in members.get(member, {}):
                found.append((cast("int", row["step"]), members[member][metric]))
        return found


class Window:
    """Means of the members' losses since the last row."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(self, names: Sequence[str], losses: Sequence[float]) -> None:
        """Note the losses of one step's members."""
        for name, loss in zip(names, losses, strict=True):
            total = self.sums.setdefault(name, [0.0, 0])
            total[0] += loss
            total[1] += 1

    def take(self) -> tuple[float, dict[str, dict[str, float]]]:
        """Return the mean over all members and each one's own, and begin anew."""
        members = {name: {"loss": total / count} for name, (total, count) in self.sums.items()}
        loss = sum(total for total, _ in self.sums.values()) / max(
            1, sum(count for _, count in self.sums.values())
        )
        self.sums = {}
        return loss, members


class LogFile:
    """The rows of a run, in memory and in a file that grows by one line a row.

    Args:
        path: the file; None keeps the rows in memory only.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.rows: list[Row] = []

    def begin(self, step: int) -> None:
        """Keep the rows up to `step`, and drop what a run that was killed wrote after it."""
        if self.path is None:
            return
        self.rows = [row for row in _read(self.path) if cast("int", row["step"]) <= step]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def add(self, row: Row) -> None:
        """Append a row. Raises `StorageError` where the file cannot grow."""
        self.rows.append(row)
        if self.path is None:
            return
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(
                f"cannot write {self.path}: {error.strerror or error}; "
                "free some space or choose a folder that can be written"
            ) from error


def _read(path: Path) -> list[Row]:
    """Return the rows of a file up to the first line that is not whole."""
    rows: list[Row] = []
    if not path.is_file():
        return rows
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows
