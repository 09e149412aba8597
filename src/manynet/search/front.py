"""The front: the archs that no other beats in everything, and what each of them costs."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from manynet._files import read_json, write_json, write_text
from manynet.errors import BudgetError, InputError, MissingExtraError, StorageError, did_you_mean
from manynet.space import Arch

__all__ = ["RESERVED", "Front", "Record", "hypervolume", "non_dominated"]

RESERVED = ("arch", "quality", "metric", "higher_is_better", "costs", "key")
"""Names that a cost cannot have: files use them for something else."""


class EntryLike(Protocol):
    """One value of an evaluation store."""

    @property
    def arch(self) -> Arch:
        """What was measured."""
        ...

    @property
    def metric(self) -> str:
        """What the value is called."""
        ...

    @property
    def value(self) -> float:
        """What was measured of it."""
        ...


@dataclass(frozen=True)
class Record:
    """One judged arch: its quality, and what it costs by the name of the cost."""

    arch: Arch
    quality: float
    costs: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "costs", MappingProxyType(dict(self.costs)))

    def __hash__(self) -> int:
        return hash((self.arch, self.quality, tuple(self.costs.items())))

    def __reduce__(self) -> tuple[type[Record], tuple[Arch, float, dict[str, float]]]:
        return Record, (self.arch, self.quality, dict(self.costs))


@dataclass(frozen=True)
class Front:
    """Records that do not dominate each other, in the order of their first cost.

    Make one with `Front.of`, which leaves out what is dominated.

    Args:
        members: the records.
        metric: what `quality` is called.
        higher_is_better: whether more quality is better.
        history: everything that was judged on the way here, in that order; may be empty, and is
            not compared or saved.

    Example:
        >>> archs = [Arch({"width": width}) for width in (1, 2, 3)]
        >>> records = [Record(a, q, {"macs": m}) for a, q, m in zip(archs, (.5, .4, .9), (1, 2, 3))]
        >>> front = Front.of(records, metric="accuracy")
        >>> [record.quality for record in front]
        [0.5, 0.9]
        >>> front.best(macs=2).arch["width"]
        1
    """

    members: tuple[Record, ...]
    metric: str = "quality"
    higher_is_better: bool = True
    history: tuple[Record, ...] = field(default=(), compare=False, repr=False)

    @classmethod
    def of(
        cls,
        records: Iterable[Record],
        *,
        metric: str = "quality",
        higher_is_better: bool = True,
    ) -> Front:
        """Return the front of `records`; of several that are equal in everything, the first.

        Raises:
            InputError: there is no record, or they do not have the same costs.
        """
        history = tuple(records)
        _check(history, metric)
        points = _points(history, higher_is_better)
        members = [history[i] for i in non_dominated(points)]
        sign = -1.0 if higher_is_better else 1.0
        members.sort(key=lambda record: (*record.costs.values(), sign * record.quality))
        return cls(tuple(members), metric, higher_is_better, history)

    @classmethod
    def from_store(
        cls,
        entries: Iterable[EntryLike],
        *,
        metric: str,
        costs: Sequence[str],
        higher_is_better: bool = True,
    ) -> Front:
        """Return the front of what an evaluation store holds, to begin another search with.

        Of values in several contexts the last one stored counts; archs that lack one are left out.

        Args:
            entries: a `Store`, or some of its entries, oldest first.
            metric: the quality.
            costs: the costs, in this order.
            higher_is_better: whether more quality is better.

        Raises:
            InputError: no arch has all of them.
        """
        found: dict[Arch, dict[str, float]] = {}
        for entry in entries:
            found.setdefault(entry.arch, {})[entry.metric] = entry.value
        records = [
            Record(arch, values[metric], {name: values[name] for name in costs})
            for arch, values in found.items()
            if {metric, *costs} <= values.keys()
        ]
        if not records:
            raise InputError(f"no arch of the store has {', '.join((metric, *costs))}")
        return cls.of(records, metric=metric, higher_is_better=higher_is_better)

    @property
    def costs(self) -> tuple[str, ...]:
        """The names of the costs."""
        return tuple(self.members[0].costs)

    @property
    def smallest(self) -> Record:
        """The record with the least of the first cost."""
        return self.members[0]

    @property
    def largest(self) -> Record:
        """The record with the most of the first cost."""
        return self.members[-1]

    def best(self, **budgets: float) -> Record:
        """Return the record of the best quality that costs at most `budgets`, by name of the cost.

        Raises:
            InputError: a budget names no cost of this front, or is not a positive number.
            BudgetError: nothing fits; its `nearest` is the record that misses by least.
        """
        for name, limit in budgets.items():
            _check_budget(name, limit, self.costs)
        fitting = [r for r in self.members if all(r.costs[n] <= b for n, b in budgets.items())]
        if not fitting:
            raise _over(min(self.members, key=lambda r: _excess(r, budgets)), budgets)
        sign = 1.0 if self.higher_is_better else -1.0
        return max(fitting, key=lambda record: sign * record.quality)

    def pick(self, n: int) -> tuple[Record, ...]:
        """Return `n` records, or all if there are fewer, spread evenly over the first cost.

        Where there are several costs, a record that another beats at both quality and first cost
        is on the front for the others, and is picked only where there are too few without it.

        Raises:
            InputError: `n` is less than 1.
        """
        if n < 1:
            raise InputError(f"pick at least one record, not {n}")
        if n >= len(self.members):
            return self.members
        if not self.costs:
            return self.members[:n]
        members = self._rising()
        if n > len(members):
            members = self.members
        costs = np.array([record.costs[self.costs[0]] for record in members])
        if n == 1:
            return (members[len(members) // 2],)
        left = set(range(1, len(costs) - 1))
        picked = [0, len(costs) - 1]
        for aim in np.linspace(costs[0], costs[-1], n)[1:-1]:
            picked.append(min(left, key=lambda i: (abs(costs[i] - aim), i)))
            left.remove(picked[-1])
        return tuple(members[i] for i in sorted(picked))

    def _rising(self) -> tuple[Record, ...]:
        """Return the members that are better than all that have no more of the first cost."""
        sign, cost = (1.0 if self.higher_is_better else -1.0), self.costs[0]
        rising: list[Record] = []
        for record in sorted(self.members, key=lambda r: (r.costs[cost], -sign * r.quality)):
            if not rising or sign * record.quality > sign * rising[-1].quality:
                rising.append(record)
        return tuple(rising)

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Return the volume between the front and a point that is worse than all that counts.

        Args:
            reference: the worst quality (by the metric's name) and the highest costs that count.

        Raises:
            InputError: a name is missing in the reference, or is none of this front.
        """
        names = (self.metric, *self.costs)
        for name in reference:
            if name not in names:
                raise InputError(f"the front has no {name}{did_you_mean(name, names)}")
        missing = [name for name in names if name not in reference]
        if missing:
            raise InputError(f"the reference lacks {', '.join(missing)}")
        sign = -1.0 if self.higher_is_better else 1.0
        worst = [sign * reference[self.metric], *(reference[name] for name in self.costs)]
        return hypervolume(_points(self.members, self.higher_is_better), np.array(worst))

    def to_json(self, path: Path | str) -> None:
        """Write one object a record to `path`: arch, quality, metric, and each cost by its name.

        Raises:
            StorageError: the file cannot be written; an older one stays whole.
        """
        write_json(path, [self._document(record) for record in self.members])

    @classmethod
    def from_json(cls, path: Path | str) -> Front:
        """Return the front that `to_json` wrote to `path`, equal to it.

        Raises:
            StorageError: the file is missing, damaged, or not a front.
        """
        try:
            return _parse(read_json(path))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise StorageError(
                f"{path} is not a front ({type(error).__name__}: {error}); "
                "search again: what was evaluated is not lost"
            ) from error

    def to_csv(self, path: Path | str) -> None:
        """Write a table to `path`: key, quality (under the metric's name), costs, arch as JSON.

        Raises:
            StorageError: the file cannot be written; an older one stays whole.
        """
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["key", self.metric, *self.costs, "arch"])
        for record in self.members:
            document = json.dumps(record.arch.to_json())
            costs = [repr(value) for value in record.costs.values()]
            table.writerow([record.arch.key, repr(record.quality), *costs, document])
        write_text(path, text.getvalue())

    def _document(self, record: Record) -> dict[str, object]:
        return {
            "arch": record.arch.to_json(),
            "quality": record.quality,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            **record.costs,
        }

    def __iter__(self) -> Iterator[Record]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> Record:
        return self.members[index]


def non_dominated(points: np.ndarray[Any, np.dtype[np.float64]]) -> list[int]:
    """Return the rows of `points` `(N, objectives)` that no other row beats; less is better.

    Of equal rows the first is returned.
    """
    order = np.lexsort((np.arange(len(points)), *points.T[::-1]))
    if points.shape[1] == 2:  # in this order, each on the front is lower than all before it
        heights = points[order, 1]
        lowest = np.minimum.accumulate(heights)
        return sorted(order[np.append(True, heights[1:] < lowest[:-1])].tolist())
    kept: list[int] = []
    front = np.empty_like(points)
    for row in order:
        point = points[row]
        if not (front[: len(kept)] <= point).all(axis=1).any():
            front[len(kept)] = point
            kept.append(int(row))
    return sorted(kept)


def hypervolume(
    points: np.ndarray[Any, np.dtype[np.float64]],
    reference: np.ndarray[Any, np.dtype[np.float64]],
) -> float:
    """Return the volume that `points` `(N, objectives)` dominate below `reference`.

    One and two objectives are summed here; more go through `moocore`.

    Raises:
        MissingExtraError: three objectives or more, and `moocore` (it comes with pymoo) is missing.
    """
    inside = points[(points < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    inside = inside[non_dominated(inside)]
    if points.shape[1] == 1:
        return float(reference[0] - inside.min())
    if points.shape[1] == 2:
        inside = inside[np.argsort(inside[:, 0])]
        ends = np.append(inside[1:, 0], reference[0])
        return float(((ends - inside[:, 0]) * (reference[1] - inside[:, 1])).sum())
    try:
        import moocore  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("pymoo", "search") from error
    return float(moocore.hypervolume(inside, ref=reference))


def _points(
    records: Sequence[Record], higher_is_better: bool
) -> np.ndarray[Any, np.dtype[np.float64]]:
    sign = -1.0 if higher_is_better else 1.0
    return np.array([(sign * r.quality, *r.costs.values()) for r in records], dtype=np.float64)


def _check(records: Sequence[Record], metric: str) -> None:
    if not records:
        raise InputError("a front needs at least one record")
    names = tuple(records[0].costs)
    reserved = [name for name in names if name in (*RESERVED, metric)]
    if reserved:
        raise InputError(f"a cost cannot be called {reserved[0]}; give it another name")
    for record in records:
        if tuple(record.costs) != names:
            raise InputError(
                f"all records need the same costs in the same order; the first has {names}, "
                f"{record.arch.key} has {tuple(record.costs)}"
            )
        if not all(map(math.isfinite, (record.quality, *record.costs.values()))):
            raise InputError(f"{record.arch.key} has a quality or cost that is not finite")


def _check_budget(name: str, limit: object, names: Sequence[str]) -> None:
    if name not in names:
        raise InputError(f"there is no cost called {name}{did_you_mean(name, names)}")
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit > 0:
        raise InputError(f"the budget {name}={limit!r} must be a positive number")


def _excess(record: Record, budgets: Mapping[str, float]) -> float:
    """Return by how much the record is over its worst budget, as a share of that budget."""
    return max((record.costs[name] / limit - 1 for name, limit in budgets.items()), default=0.0)


def _over(nearest: Record, budgets: Mapping[str, float]) -> BudgetError:
    asked = ", ".join(f"{name} <= {limit:g}" for name, limit in budgets.items())
    misses = [
        f"{name} {nearest.costs[name]:g} ({100 * (nearest.costs[name] / limit - 1):.3g} % over)"
        for name, limit in budgets.items()
        if nearest.costs[name] > limit
    ]
    return BudgetError(
        f"no member has {asked}; the nearest, {nearest.arch.key}, has {', '.join(misses)}; "
        "raise the budget, or let the family grow smaller members",
        nearest,
    )


def _parse(documents: list[dict[str, Any]]) -> Front:
    first = documents[0]
    records = [
        Record(
            Arch.from_json(document["arch"]),
            float(document["quality"]),
            {name: float(value) for name, value in document.items() if name not in RESERVED},
        )
        for document in documents
    ]
    metric, better = str(first["metric"]), bool(first.get("higher_is_better", True))
    _check(records, metric)
    return Front(tuple(records), metric, better)
