"""The latency of any member of a family on this machine, predicted from a few measured ones."""

from __future__ import annotations

import contextlib
import functools
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from manynet._files import read_json, write_json
from manynet._inputs import Inputs, as_inputs, evaluating, with_batch
from manynet.cost._cost import Cost, FamilyLike
from manynet.cost._drawn import FEWEST, drawn_archs, leveled, news, onehot_of, touches_by_choice
from manynet.cost._latency import Clock, LatencyCost, Runtime, latency
from manynet.cost._regression import Array, fit, held_out, kendall_tau
from manynet.cost._sums import Sums, Term
from manynet.cost._table import COLUMNS, LayerTable, Lookup, figures_of
from manynet.errors import InputError, StorageError
from manynet.space import Arch, Value

__all__ = [
    "LatencyPredictor",
    "fit_latency",
    "in_eval",
]

_FORMAT = "manynet-latency-1"
_FIRST = len(COLUMNS) - 20  # parameters, bytes and MACs in all say nothing that the kinds do not
_PASSES = 8
_TRIED = 8  # archs of which the most telling is counted
_COUNTING = 0.2  # of the time, at most, for members that are counted and not measured


@dataclass(frozen=True)
class LatencyPredictor(Cost):
    """A cost that predicts `latency_ms`; `fit_latency` makes it.

    It is a member's figures by kind of layer times the rates of this machine, corrected for the
    values of its choices. A network that is of no arch is predicted from its figures alone.

    Args:
        mape: mean error on members that the fit had not seen, in percent of the latency.
        tau: Kendall's rank correlation of predicted and measured on the same members.
        noise: mean difference between two halves of the measurements, in percent: where `mape` is
            not above it, the clock is what limits.
        samples: members that were measured.
        conditions: device, runtime, threads and batch of the measurements.
        measured_ms: the measured members: arch, milliseconds, and what a fit without it predicts.
    """

    mape: float = 0.0
    tau: float = 0.0
    noise: float = 0.0
    samples: int = 0
    conditions: Mapping[str, Any] = field(default_factory=dict)
    measured_ms: tuple[tuple[Arch, float, float], ...] = field(default=(), repr=False)
    rates: tuple[float, ...] = field(default=(), repr=False)
    touch: Mapping[str, Mapping[Value, float]] = field(default_factory=dict, repr=False)
    center: float = 1.0
    lookup: Lookup | None = field(default=None, repr=False, compare=False)
    tabulated: ClassVar[bool] = True

    def predict(self, arch: Arch) -> float:
        """Return the predicted milliseconds of an arch.

        Raises:
            InputError: the predictor was read from a file and does not know one of the arch's
                layers (read it again with its family), or the arch has other choices.
        """
        names, sums = self._quick
        try:
            total = sums(arch.ordered(names))
        except (KeyError, InputError):
            return self._predicted(arch)
        found = total.real * total.imag
        return found if found > 0.0 else 0.0

    @functools.cached_property
    def _quick(self) -> tuple[tuple[str, ...], Callable[[tuple[Value, ...]], complex]]:
        """The names of the choices, and what sums the layers' milliseconds and the factor.

        Where what was counted tells what any layer takes, no member has to be counted again.
        """
        assert self.lookup is not None
        names = tuple(self.touch)
        candidates = [tuple(values) for values in self.touch.values()]
        touches = [
            Term((position,), {value: complex(0.0, touch) for value, touch in values.items()})
            for position, values in enumerate(self.touch.values())
        ]
        layers = [
            Term(tuple(map(names.index, choices)), known, whole=whole)
            for choices, known, whole in self.lookup.completed(self.touch)
        ]
        start = complex(self.rates[0], self.center)
        return names, Sums(candidates, [*layers, *touches], start).total

    def _predicted(self, arch: Arch) -> float:
        assert self.lookup is not None
        try:
            values = map(arch.__getitem__, self.touch)
            factor = self.center + sum(map(operator.getitem, self.touch.values(), values))
        except KeyError as error:
            raise InputError(
                f"{arch!r} has no place in the family that this predictor was fitted to: "
                f"{error.args[0]!r} is missing"
            ) from error
        return self.checked(max(0.0, (self.rates[0] + self.lookup(arch)) * factor))

    def of_arch(self, family: FamilyLike, arch: Arch) -> float:
        """Return the predicted milliseconds of an arch; see `predict`."""
        return self.predict(arch)

    def __str__(self) -> str:
        return (
            f"latency predictor: error {self.mape:.1f} %, Kendall tau {self.tau:.3f} on unseen "
            f"members, {self.samples} measured, repeat noise {self.noise:.1f} %"
        )

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values."""
        assert self.lookup is not None
        return {
            "format": _FORMAT,
            "mape": self.mape,
            "tau": self.tau,
            "noise": self.noise,
            "samples": self.samples,
            "conditions": dict(self.conditions),
            "measured_ms": [[arch.to_json(), ms, found] for arch, ms, found in self.measured_ms],
            "rates": list(self.rates),
            "touch": {name: [list(pair) for pair in t.items()] for name, t in self.touch.items()},
            "center": self.center,
            "lookup": self.lookup.to_json(),
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], family: FamilyLike | None = None
    ) -> LatencyPredictor:
        """Return the predictor of JSON values.

        Args:
            data: what `to_json` returned.
            family: its family, so that layers that were not met before can be looked up.

        Raises:
            StorageError: the values are no predictor of this version.
        """
        try:
            if data["format"] != _FORMAT:
                raise StorageError(f"{data['format']!r} is not {_FORMAT!r}; fit it again")
            names = ("mape", "tau", "noise", "samples", "conditions", "center")
            rows = [(Arch.from_json(arch), ms, found) for arch, ms, found in data["measured_ms"]]
            made = _predictor(
                rates=tuple(data["rates"]),
                touch={name: {v: t for v, t in pairs} for name, pairs in data["touch"].items()},
                lookup=Lookup.from_json(data["lookup"]),
                measured_ms=tuple(rows),
                **{name: data[name] for name in names},
            )
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"not a latency predictor: {error!r}; fit it again") from error
        if family is None:
            return made
        table = LayerTable(family, with_batch(family.example_inputs, made.conditions["batch"]))
        return replace(made, lookup=Lookup(table, _weights(made.rates)))

    def save(self, path: Path | str) -> None:
        """Write it as JSON. Raises `StorageError`."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str, family: FamilyLike | None = None) -> LatencyPredictor:
        """Return the predictor in a file; see `from_json`. Raises `StorageError`."""
        return cls.from_json(read_json(path), family)


def _predictor(rates: tuple[float, ...], **fields: Any) -> LatencyPredictor:
    """Return a predictor; what it does for a network without an arch follows from the rates."""

    def function(member: nn.Module, inputs: Inputs) -> float:
        figures = np.array(figures_of(member, with_batch(inputs, fields["conditions"]["batch"])))
        return rates[0] + float(figures @ np.array(_weights(rates)))

    return LatencyPredictor("latency_ms", "ms", function, predicted=True, rates=rates, **fields)


def _weights(rates: Iterable[float]) -> list[float]:
    """Return the rates as factors for the columns of a layer table."""
    return [0.0] * _FIRST + list(rates)[1:]


def fit_latency(
    family: FamilyLike,
    example_inputs: Tensor | Inputs | None = None,
    *,
    samples: int = 120,
    device: str | torch.device = "cpu",
    runtime: Runtime = "torch",
    threads: int = 1,
    batch: int = 1,
    seed: int = 0,
    time_limit_s: float = 60.0,
    progress: Callable[[float], None] | None = None,
) -> LatencyPredictor:
    """Measure some members of a family here and now, and predict all others.

    Each member is visited in several passes, forward and backward through the list, in turn with
    one and the same member; only its time relative to that one counts, so a machine that
    slows down for a while does no harm. On one thread of a CPU the time that other work takes from
    the core does not count: what is predicted is the latency on a machine that is otherwise idle.
    Half of the members are drawn uniformly, the other half
    with all choices low, middling or high, so that the whole range is covered.

    Args:
        family: what to predict.
        example_inputs: inputs that fit; the family's own by default.
        samples: members to measure at most; fewer where the time does not allow them.
        device: as in `latency`.
        runtime: as in `latency`; with `"onnx"` each member is exported first, so that a minute is
            enough for a dozen only.
        threads: as in `latency`.
        batch: as in `latency`.
        seed: draws the members.
        time_limit_s: when to stop measuring.
        progress: is told the share of the work that is done.

    Raises:
        InputError: the family has too few members, or as in `latency`.
    """
    clock = latency(device, runtime=runtime, threads=threads, batch=batch)
    inputs = as_inputs(family.example_inputs if example_inputs is None else example_inputs)
    inputs = with_batch(inputs, batch)
    tell = progress or (lambda share: None)
    with in_eval(family):
        deadline = time.perf_counter() + time_limit_s
        bench = _Bench(family, inputs, clock, deadline, time_limit_s, tell)
        archs = bench.prepared(drawn_archs(family.space, samples, seed))
        relative, unit = bench.measured(archs)
    archs = archs[: len(relative)]
    times = np.median(relative, axis=1) * unit
    figures = np.array([bench.table.figures(arch)[_FIRST:] for arch in archs])
    onehot = onehot_of(family.space, archs)
    model = fit(figures, onehot, times)
    found = held_out(figures, onehot, times)
    halves = [np.median(relative[:, start::2], axis=1) for start in (0, 1)]
    made = _predictor(
        rates=tuple(float(rate) for rate in model.rates),
        touch=touches_by_choice(family.space, model.touch),
        center=model.center,
        lookup=None,
        mape=float(np.mean(np.abs(found - times) / times) * 100),
        tau=kendall_tau(found, times),
        noise=float(np.mean(np.abs(halves[0] - halves[1]) / halves[0]) * 100),
        samples=len(archs),
        conditions={"device": str(device), "runtime": runtime, "threads": threads, "batch": batch},
        measured_ms=tuple(
            (arch, float(ms), float(guess))
            for arch, ms, guess in zip(archs, times, found, strict=True)
        ),
    )
    made = replace(made, lookup=Lookup(bench.table, _weights(made.rates)))
    made.predict(family.space.largest)  # works out combinations, so that queries look up
    tell(1.0)
    return made


@contextlib.contextmanager
def in_eval(family: FamilyLike) -> Iterator[None]:
    """Put a family that has modes into eval mode for a while: switching takes part of a pass."""
    training = bool(getattr(family, "training", False))
    if training:
        family.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if training:
            family.train()  # type: ignore[attr-defined]


@dataclass
class _Bench:
    """Measures members in turn until the time is up."""

    family: FamilyLike
    inputs: Inputs
    clock: LatencyCost
    deadline: float
    limit: float
    tell: Callable[[float], None]

    def __post_init__(self) -> None:
        self.table = LayerTable(self.family, self.inputs)
        self._runs: dict[Arch, Callable[[], object]] = {}

    def prepared(self, archs: list[Arch]) -> list[Arch]:
        """Look up the members' figures, and export them where that is asked for.

        Takes at most a third of the time, or two thirds with exports, and returns the archs that
        it came to.
        """
        done: list[Arch] = []
        left = self.limit / (3 if self.clock.runtime != "torch" else 1.5)
        for arch in archs:
            if len(done) >= FEWEST and time.perf_counter() > self.deadline - left:
                break
            self.table.figures(arch)
            if self.clock.runtime != "torch":
                self._runs[arch] = self._run(arch)
            done.append(arch)
            self.tell(0.5 * len(done) / len(archs))
        self._count_more(time.perf_counter() + self.limit * _COUNTING)
        return done

    def _count_more(self, deadline: float) -> None:
        """Count members until what is known tells what any layer takes: queries then look it up."""
        space, rng = self.family.space, np.random.default_rng(0)
        candidates = {choice.name: choice.values for choice in space.choices}
        any_rates = rng.uniform(1, 2, len(COLUMNS) - _FIRST).tolist()
        while self.table.exact and time.perf_counter() < deadline:
            lookup = Lookup(self.table, [0.0] * _FIRST + any_rates)
            parts = lookup.completed(candidates)
            open_parts = [(names, known) for names, known, whole in parts if not whole]
            if not open_parts:
                return
            for _ in range(FEWEST):
                drawn = [leveled(space, rng) for _ in range(_TRIED)]
                self.table.figures(max(drawn, key=lambda arch: news(arch, open_parts)))

    def measured(self, archs: list[Arch]) -> tuple[Array, float]:
        """Return times relative to one member's (archs x passes), and that one's milliseconds.

        There are at least two passes; if the time is too short for them, the last archs are left
        out, and there are fewer rows.
        """
        middle = sorted(archs, key=lambda arch: self.table.figures(arch)[2])[len(archs) // 2]
        with self.clock.settings():
            reference = self.clock.clock_of(self._run(middle))
            archs = archs[: max(FEWEST, self._affordable(reference))]
            passes: list[list[tuple[float, float]]] = []
            while len(passes) < _PASSES:
                if len(passes) >= 2 and self._affordable(reference) < len(archs) / 2:
                    break
                passes.append(self._pass(archs, reference, reverse=len(passes) % 2 == 1))
                self.tell(0.5 + 0.5 * len(passes) / _PASSES)
        found = np.array(passes)
        return found[:, :, 0].T, float(np.median(found[:, :, 1]))

    def _affordable(self, reference: Clock) -> int:
        """Return how many members can be visited twice in the time that is left."""
        start = time.perf_counter()
        _visit(reference, reference)
        took = time.perf_counter() - start
        return int(max(0.0, self.deadline - start) / (2.5 * took))

    def _pass(
        self, archs: list[Arch], reference: Clock, *, reverse: bool
    ) -> list[tuple[float, float]]:
        """Visit all archs once and return (relative time, unit) of each, in their own order."""
        row: list[tuple[float, float]] = []
        for arch in reversed(archs) if reverse else archs:
            row.append(_visit(self.clock.clock_of(self._run(arch)), reference))
        return row[::-1] if reverse else row

    def _run(self, arch: Arch) -> Callable[[], object]:
        if arch in self._runs:
            return self._runs[arch]
        member = self.family.at(arch)
        with evaluating(member):
            run = self.clock.prepared(member, self.inputs)
        if not member.training:
            return run
        return lambda: _in_eval(member, run)


def _in_eval(member: nn.Module, run: Callable[[], object]) -> None:
    with evaluating(member):
        run()


def _visit(member: Clock, reference: Clock) -> tuple[float, float]:
    """Return one member's time relative to the reference's, and the reference's own.

    Their passes alternate, so that a machine whose speed drifts slows both; and only the time that
    the core worked on them counts, so that other work does no harm.
    """

    def own(clock: Clock) -> float:
        clock()
        return clock.own_ms

    own(reference)
    own(member)
    units, found = [own(reference)], []
    for _ in range(4):
        found.append(own(member))
        units.append(own(reference))
    return min(found) / min(units), min(units)
