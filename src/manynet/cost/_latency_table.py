"""A table of what blocks take, which says what any member takes; `_survey` makes it."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from manynet._files import read_json, write_json
from manynet._inputs import Inputs
from manynet.cost._cost import Cost, FamilyLike
from manynet.cost._smooth import Smooth, from_mapping, placed
from manynet.cost._sums import Sums, Term
from manynet.errors import InputError, StorageError
from manynet.space import Arch, Value

__all__ = ["BlockTimes", "LatencyTable", "Site", "table_of"]

_FORMAT = "manynet-latency-table-1"
_LOOKED_UP = 4096  # combinations of a site that are worked out beforehand
Key = tuple[Value, ...]


@dataclass(frozen=True)
class Site:
    """A place of the network that a block has.

    Args:
        path: of its first module, in the whole network.
        label: the classes of its modules.
        choices: those that shape the block.
        present: the values of other choices with which it is there at all.
        times: which of the table's `BlockTimes` are its own; blocks that are alike share them.
    """

    path: str
    label: str
    choices: tuple[str, ...]
    present: Mapping[str, tuple[Value, ...]]
    times: int


@dataclass(frozen=True)
class BlockTimes:
    """What a block takes, by the values of the choices that shape it.

    Args:
        candidates: the values that each of these choices can have.
        measured_ms: the values that were met, and the median of the milliseconds.
        smooth: what tells the others from them.
    """

    candidates: tuple[Key, ...]
    measured_ms: Mapping[Key, float]
    smooth: Smooth = field(repr=False)

    def __call__(self, values: Key) -> float:
        """Return the milliseconds at some values, measured or not."""
        place = np.array([placed(values, self.candidates)]).reshape(1, -1)
        return float(self.smooth(place)[0])


@dataclass(frozen=True)
class LatencyTable(Cost):
    """A cost that predicts `latency_ms` from a table of blocks; `latency_table` makes it.

    A member takes the sum of what its blocks take, scaled and shifted to what whole members were
    measured to take, times a factor near 1 for the values of its choices.

    Args:
        mape: mean error on members that the fit had not seen, in percent of the latency.
        p90: nine in ten of these members were predicted with at most this error, in percent.
        tau: Kendall's rank correlation of predicted and measured on the same members.
        samples: members that were measured whole.
        held_out: how many of them `mape`, `p90` and `tau` are of.
        conditions: device, runtime, threads, batch, machine and versions of the measurements.
        reference: the member that ran between all others.
        reference_ms: what it took.
        sites: where the blocks stand.
        times: what they take.
        rates: milliseconds for being there, and for a millisecond of the blocks' sum.
    """

    mape: float = math.nan
    p90: float = math.nan
    tau: float = math.nan
    samples: int = 0
    held_out: int = 0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    reference: Arch = field(default_factory=lambda: Arch({}))
    reference_ms: float = math.nan
    sites: tuple[Site, ...] = field(default=(), repr=False)
    times: tuple[BlockTimes, ...] = field(default=(), repr=False)
    rates: tuple[float, float] = (0.0, 1.0)
    touch: Mapping[str, Mapping[Value, float]] = field(default_factory=dict, repr=False)
    center: float = 1.0
    tabulated: ClassVar[bool] = True

    def predict(self, arch: Arch) -> float:
        """Return the predicted milliseconds of an arch.

        Raises:
            InputError: the arch has other choices or values than the family of the table.
        """
        names, sums = self._quick
        values = arch.ordered(names)
        try:
            total = sums(values)
        except (KeyError, ValueError, TypeError) as error:
            foreign = [
                f"{name} = {value!r}"
                for name, value in zip(names, values, strict=True)
                if value not in self.touch[name]
            ]
            raise InputError(
                f"{arch!r} has no place in the family of this table: it never met "
                f"{', '.join(foreign)}"
            ) from error
        return total.real * total.imag

    def bounds(self, arch: Arch) -> tuple[float, float]:
        """Return the milliseconds between which nine in ten of unseen members were."""
        found = self.predict(arch)
        return found / (1 + self.p90 / 100), found * (1 + self.p90 / 100)

    def of_arch(self, family: FamilyLike, arch: Arch) -> float:
        """Return the predicted milliseconds of an arch; see `predict`."""
        return self.predict(arch)

    @functools.cached_property
    def _quick(self) -> tuple[tuple[str, ...], Callable[[Key], complex]]:
        """The names of the choices, and what sums the blocks' milliseconds and the factor."""
        candidates = [tuple(values) for values in self.touch.values()]
        touches = [
            Term((position,), {value: complex(0.0, touch) for value, touch in values.items()})
            for position, values in enumerate(self.touch.values())
        ]
        blocks = [Term(look.positions, look) for look in self._looks()]
        start = complex(self.rates[0], self.center)
        return tuple(self.touch), Sums(candidates, [*blocks, *touches], start).total

    def _looks(self) -> list[_Look]:
        """Return what each site adds."""
        place = {name: position for position, name in enumerate(self.touch)}
        candidates = [tuple(values) for values in self.touch.values()]
        return [
            _Look(site, self.times[site.times], self.rates[1], place, candidates)
            for site in self.sites
        ]

    def __str__(self) -> str:
        met = sum(len(times.measured_ms) for times in self.times)
        return (
            f"latency table: {met} blocks timed at {len(self.sites)} places; "
            f"error {self.mape:.1f} % (nine in ten within {self.p90:.1f} %), "
            f"Kendall tau {self.tau:.3f} on {self.held_out} unseen members of "
            f"{self.samples} measured"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each place: path, classes, blocks met, least and most milliseconds."""
        found = []
        for site in self.sites:
            known = list(self.times[site.times].measured_ms.values())
            combinations = math.prod(len(c) for c in self.times[site.times].candidates)
            row: dict[str, Any] = {"path": site.path, "block": site.label}
            row |= {"choices": list(site.choices), "combinations": combinations}
            row |= {"timed": len(known), "least_ms": min(known), "most_ms": max(known)}
            found.append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        names = ("mape", "p90", "tau", "samples", "held_out", "reference_ms", "center")
        return {
            "format": _FORMAT,
            **{name: getattr(self, name) for name in names},
            "conditions": dict(self.conditions),
            "reference": self.reference.to_json(),
            "rates": list(self.rates),
            "touch": {name: [list(pair) for pair in t.items()] for name, t in self.touch.items()},
            "sites": [asdict(site) for site in self.sites],
            "times": [
                {
                    "candidates": [list(known) for known in times.candidates],
                    "measured_ms": [[list(key), ms] for key, ms in times.measured_ms.items()],
                    "smooth": {
                        **asdict(times.smooth),
                        "places": times.smooth.places.tolist(),
                        "weights": times.smooth.weights.tolist(),
                    },
                }
                for times in self.times
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LatencyTable:
        """Return the table of JSON values. Raises `StorageError` where they are none."""
        try:
            if data["format"] != _FORMAT:
                raise StorageError(f"{data['format']!r} is not {_FORMAT!r}; build it again")
            names = ("mape", "p90", "tau", "samples", "held_out", "reference_ms", "center")
            return table_of(
                **{name: data[name] for name in names},
                conditions=dict(data["conditions"]),
                reference=Arch.from_json(data["reference"]),
                rates=(float(data["rates"][0]), float(data["rates"][1])),
                touch={name: {v: float(t) for v, t in p} for name, p in data["touch"].items()},
                sites=tuple(map(_site, data["sites"])),
                times=tuple(map(_times, data["times"])),
            )
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise StorageError(f"not a latency table: {error!r}; build it again") from error

    def save(self, path: Path | str) -> None:
        """Write it as JSON. Raises `StorageError`."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> LatencyTable:
        """Return the table in a file; no family is needed. Raises `StorageError`."""
        return cls.from_json(read_json(path))


def _site(data: Mapping[str, Any]) -> Site:
    present = {name: tuple(values) for name, values in data["present"].items()}
    where = (str(data["path"]), str(data["label"]), tuple(data["choices"]))
    return Site(*where, present, int(data["times"]))


def _times(data: Mapping[str, Any]) -> BlockTimes:
    measured = {tuple(key): float(ms) for key, ms in data["measured_ms"]}
    return BlockTimes(tuple(map(tuple, data["candidates"])), measured, from_mapping(data["smooth"]))


def table_of(**fields: Any) -> LatencyTable:
    def function(member: nn.Module, inputs: Inputs) -> float:
        raise InputError(
            "a latency table knows the archs of its family and no other networks; ask "
            "table.predict(arch), or measure with latency()"
        )

    return LatencyTable("latency_ms", "ms", function, predicted=True, **fields)


class _Look(dict[Any, float]):
    """What a site adds to a member's milliseconds, by the values of its choices."""

    def __init__(
        self,
        site: Site,
        times: BlockTimes,
        rate: float,
        place: Mapping[str, int],
        candidates: Sequence[Key],
    ) -> None:
        super().__init__()
        self._site, self._times, self._rate = site, times, rate
        self._names = [*site.choices, *site.present]
        self.positions = tuple(place[name] for name in self._names)
        known = [candidates[position] for position in self.positions]
        if math.prod(map(len, known)) <= _LOOKED_UP:
            self._fill(times, known)

    def _fill(self, times: BlockTimes, known: Sequence[Key]) -> None:
        shaped = len(self._site.choices)
        shapes = list(itertools.product(*known[:shaped]))
        places = np.array([placed(shape, times.candidates) for shape in shapes])
        found = dict(zip(shapes, times.smooth(places.reshape(len(shapes), -1)), strict=True))
        for values in itertools.product(*known):
            there = self._there(values[shaped:])
            key = values[0] if len(values) == 1 else values
            self[key] = self._rate * float(found[values[:shaped]]) if there else 0.0

    def _there(self, values: Sequence[Value]) -> bool:
        return all(v in known for v, known in zip(values, self._site.present.values(), strict=True))

    def __missing__(self, key: Any) -> float:
        values = (key,) if len(self._names) == 1 else key
        shaped = len(self._site.choices)
        there = self._there(values[shaped:])
        found = self[key] = self._rate * self._times(values[:shaped]) if there else 0.0
        return found
