"""Building a latency table: blocks are found, drawn members timed whole and block by block."""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manynet._inputs import Inputs, as_inputs, evaluating, tensors_in, with_batch
from manynet.cost._blocks import BlockCall, alone, calls_of, lowered, origins_of, units_of
from manynet.cost._cost import FamilyLike
from manynet.cost._drawn import FEWEST, drawn_archs, onehot_of, touches_by_choice
from manynet.cost._exported import exported_run
from manynet.cost._latency import Clock, LatencyCost, Runtime, is_address, latency
from manynet.cost._latency_table import BlockTimes, Key, LatencyTable, Site, table_of
from manynet.cost._predictor import in_eval
from manynet.cost._regression import Array, fit, kendall_tau
from manynet.cost._smooth import fit_smooth, placed
from manynet.deploy import to_onnx_quickly
from manynet.errors import InputError
from manynet.space import Arch, Choice, Value

__all__ = ["latency_table"]

_HELD_OUT = 5  # every fifth member
_ROUNDS = 4
_VISITS: dict[str, int] = {"torch": 6}  # of a block; where blocks are exported, one


def latency_table(
    family: FamilyLike,
    example_inputs: Tensor | Inputs | None = None,
    *,
    samples: int = 400,
    device: str | torch.device = "cpu",
    runtime: Runtime = "torch",
    threads: int = 1,
    batch: int = 1,
    seed: int = 0,
    time_limit_s: float = 60.0,
    progress: Callable[[float], None] | None = None,
) -> LatencyTable:
    """Time the blocks of a family here and now, each alone, and predict its members from them.

    A block is a unit of depth, or what stands around the units. The shapes at which a block is
    timed are those of drawn members, as many as the time allows; a smooth regressor tells the
    others. Each drawn member is also timed whole, in turn with one and the same member, to which
    all times are relative; every fifth gives the error and nothing else. On one thread of a
    CPU the time that other work takes from the core does not count.

    Args:
        family: what to predict.
        example_inputs: inputs that fit; the family's own by default.
        samples: members to draw at most.
        device: as in `latency`, but on this machine.
        runtime: as in `latency`; otherwise than with `"torch"` each block and each drawn member is
            exported first.
        threads: as in `latency`.
        batch: as in `latency`.
        seed: draws the members.
        time_limit_s: when to stop measuring.
        progress: is told the share of the work that is done.

    Raises:
        InputError: the family has too few members, the device is another machine, or as in
            `latency`.
    """
    if is_address(device):
        raise InputError(
            f"a latency table is built on the machine that it is of, not from here for {device}; "
            "run `manynet device table` there and copy its file"
        )
    clock = latency(device, runtime=runtime, threads=threads, batch=batch)
    inputs = as_inputs(family.example_inputs if example_inputs is None else example_inputs)
    tell = progress or (lambda share: None)
    with in_eval(family):
        survey = _Survey(family, with_batch(inputs, batch), clock, time_limit_s, tell)
        made = survey.table(survey.measure(drawn_archs(family.space, samples, seed)))
    made.predict(
        family.space.largest
    )  # works out the blocks' combinations, so that queries look up
    return made


class _Survey:
    """Measures members and their blocks until the time is up."""

    def __init__(
        self,
        family: FamilyLike,
        inputs: Inputs,
        clock: LatencyCost,
        limit_s: float,
        tell: Callable[[float], None],
    ) -> None:
        self.family, self.inputs, self.clock, self.tell = family, inputs, clock, tell
        self.start, self.limit_s = time.perf_counter(), limit_s
        self.units = units_of(family)
        self.names = tuple(choice.name for choice in family.space.choices)
        self.places = self._places()
        self.position = {site.path: number for number, site in enumerate(self.places)}
        self.relative: dict[str, list[float]] = {}  # by the signature of a block
        self.met: dict[tuple[int, Key], str] = {}  # signatures, by place and values
        self.whole: list[tuple[float, float]] = []  # relative time, and the unit's milliseconds

    def calls(self, arch: Arch) -> dict[str, BlockCall]:
        """Return the calls of an arch's blocks by their place: the path, and which call it is."""
        member = self.family.at(arch)
        found: dict[str, BlockCall] = {}
        for call in calls_of(member, origins_of(self.family, arch), self.inputs, self.units):
            again = itertools.count(2)
            name = call.paths[0]
            while name in found:
                name = f"{call.paths[0]} ({next(again)})"
            found[name] = call
        return found

    def _places(self) -> list[Site]:
        """Find the blocks of the largest member, and which choices each depends on."""
        space = self.family.space
        base = self.calls(space.largest)
        shaped: dict[str, list[Choice]] = {name: [] for name in base}
        present: dict[str, dict[str, tuple[Value, ...]]] = {name: {} for name in base}
        for choice in space.choices:
            arch = lowered(space, choice)
            here = base if arch is None else self.calls(arch)
            gone = [name for name in base if name not in here]
            for name in base:
                if name in here and here[name].signature != base[name].signature:
                    shaped[name].append(choice)
            if gone:
                for name, values in self._present(choice, gone).items():
                    present[name][choice.name] = values
        sites: list[Site] = []
        alike: dict[object, int] = {}
        for name, call in base.items():
            known = tuple(choice.values for choice in shaped[name])
            times = alike.setdefault((call.signature, known), len(alike))
            names = tuple(choice.name for choice in shaped[name])
            sites.append(Site(name, call.label, names, present[name], times))
        return sites

    def _present(self, choice: Choice, names: Sequence[str]) -> dict[str, tuple[Value, ...]]:
        """Return, for blocks that a choice can leave out, the values with which they are there."""
        found: dict[str, list[Value]] = {name: [] for name in names}
        for value in choice.values:
            arch = lowered(self.family.space, choice, value)
            here = self.calls(arch) if arch is not None else {}
            for name in names:
                if arch is None or name in here:
                    found[name].append(value)
        return {name: tuple(values) for name, values in found.items()}

    def measure(self, archs: Sequence[Arch]) -> list[Arch]:
        """Visit archs until the time is up, and return those that were visited."""
        space = self.family.space
        middle = space.decode(np.full(len(space.choices), 0.6))
        self.reference = middle
        done: list[Arch] = []
        with self.clock.settings():
            reference = self._whole(middle)
            for arch in archs:
                if len(done) >= FEWEST and self.passed() > 1.0:
                    break
                self._visit(arch, reference, blocks=len(done) % _HELD_OUT != _HELD_OUT - 1)
                done.append(arch)
                self.tell(min(1.0, max(len(done) / len(archs), self.passed())))
        return done

    def passed(self) -> float:
        """Return the share of the time that has passed."""
        return (time.perf_counter() - self.start) / max(self.limit_s, 1e-9)

    def _visit(self, arch: Arch, reference: Clock, *, blocks: bool) -> None:
        whole = self._whole(arch)
        calls = self.calls(arch) if blocks else {}
        for name, call in calls.items():
            self._meet(name, arch, call)
        clocks = {call.signature: self._clock(call) for call in calls.values() if self._open(call)}
        rows = []
        for _ in range(1 + _ROUNDS):  # in turn, so that a drift slows all; the first warms up
            row = {"": _own(whole), "reference": _own(reference)}
            rows.append(row | {key: _own(clock) for key, clock in clocks.items()})
        least = {key: min(row[key] for row in rows[1:]) for key in rows[0]}
        unit = least["reference"]
        self.whole.append((least[""] / unit, unit))
        for key in clocks:
            self.relative.setdefault(key, []).append(max(least[key], 1e-6) / unit)

    def _open(self, call: BlockCall) -> bool:
        visits = _VISITS.get(self.clock.runtime, 1)
        return len(self.relative.get(call.signature, ())) < visits

    def _meet(self, name: str, arch: Arch, call: BlockCall) -> None:
        """Note which block an arch has at a place."""
        position = self.position.get(name)
        if position is not None:
            key = tuple(arch[choice] for choice in self.places[position].choices)
            self.met[position, key] = call.signature

    def _whole(self, arch: Arch) -> Clock:
        member = self.family.at(arch)
        with evaluating(member):
            run = self._ready(member, self.inputs)
        return self.clock.clock_of(run if not member.training else _in_eval(member, run))

    def _clock(self, call: BlockCall) -> Clock:
        module, args = alone(call)
        with evaluating(module):
            run = self._ready(module, args)
        return self.clock.clock_of(run if not module.training else _in_eval(module, run))

    def _ready(self, module: nn.Module, args: Inputs) -> Callable[[], object]:
        """Return a function that runs a module on arguments that are as they should be."""
        if self.clock.runtime == "torch":
            return lambda: module(*args)
        data = to_onnx_quickly(module, args)
        arrays = [tensor.detach().cpu().numpy() for tensor in tensors_in(args)]
        how = {"device": self.clock.device, "runtime": self.clock.runtime}
        return exported_run(data, arrays, threads=self.clock.threads, **how)

    def table(self, archs: Sequence[Arch]) -> LatencyTable:
        """Return the table of what was measured."""
        unit = statistics.median(unit for _, unit in self.whole)
        sites, times = self._fitted(unit)
        figures = np.array([[_summed(sites, times, arch)] for arch in archs])
        onehot = onehot_of(self.family.space, archs)
        whole = np.array([relative * unit for relative, _ in self.whole])
        held = np.arange(len(archs)) % _HELD_OUT == _HELD_OUT - 1
        seen = fit(figures[~held], onehot[~held], whole[~held])
        errors = self._errors(seen(figures[held], onehot[held]), whole[held])
        final = fit(figures, onehot, whole)
        self.tell(1.0)
        return table_of(
            **errors,
            samples=len(archs),
            held_out=int(held.sum()),
            conditions=self._conditions(),
            reference=self.reference,
            reference_ms=unit,
            sites=tuple(sites),
            times=tuple(times),
            rates=(float(final.rates[0]), float(final.rates[1])),
            touch=touches_by_choice(self.family.space, final.touch),
            center=final.center,
        )

    @staticmethod
    def _errors(found: Array, whole: Array) -> dict[str, float]:
        off = np.abs(found - whole) / whole * 100
        p90 = float(np.percentile(off, 90))
        return {"mape": float(off.mean()), "p90": p90, "tau": kendall_tau(found, whole)}

    def _conditions(self) -> dict[str, Any]:
        clock = self.clock
        return {
            "device": clock.device,
            "runtime": clock.runtime,
            "threads": clock.threads,
            "batch": clock.batch,
            "machine": platform.machine(),
            "torch": str(torch.__version__),
            "seconds": round(time.perf_counter() - self.start, 1),
        }

    def _fitted(self, unit: float) -> tuple[list[Site], list[BlockTimes]]:
        """Fit what each group of places that are alike takes; those never met are left out."""
        medians = {key: statistics.median(found) * unit for key, found in self.relative.items()}
        known: dict[int, dict[Key, list[float]]] = {}
        for (position, key), signature in self.met.items():
            if signature in medians:
                group = known.setdefault(self.places[position].times, {})
                group.setdefault(key, []).append(medians[signature])
        sites: list[Site] = []
        times: list[BlockTimes] = []
        places: dict[int, int] = {}
        for site in self.places:
            group = known.get(site.times, {})
            if group and site.times not in places:
                places[site.times] = len(times)
                times.append(self._block_times(site, group))
            if group:
                sites.append(Site(*_fixed(site), places[site.times]))
        return sites, times

    def _block_times(self, site: Site, group: Mapping[Key, list[float]]) -> BlockTimes:
        candidates = tuple(self.family.space[name].values for name in site.choices)
        measured = {key: statistics.median(found) for key, found in group.items()}
        places = np.array([placed(key, candidates) for key in measured])
        figures = np.array(list(measured.values()))
        return BlockTimes(
            candidates, measured, fit_smooth(places.reshape(len(figures), -1), figures)
        )


def _fixed(site: Site) -> tuple[str, str, tuple[str, ...], Mapping[str, tuple[Value, ...]]]:
    return site.path, site.label, site.choices, site.present


def _summed(sites: Sequence[Site], times: Sequence[BlockTimes], arch: Arch) -> float:
    return sum(
        times[site.times](tuple(arch[name] for name in site.choices))
        for site in sites
        if all(arch[name] in known for name, known in site.present.items())
    )


def _in_eval(module: nn.Module, run: Callable[[], object]) -> Callable[[], object]:
    def wrapped() -> None:
        with evaluating(module):
            run()

    return wrapped


def _own(clock: Clock) -> float:
    clock()
    return clock.own_ms
