"""`Shrink`: channels whose scales have died are cut out of a family while it trains."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.axes import Axis
from manynet.elastic import axes_in, dims_of
from manynet.errors import InputError
from manynet.family import Family
from manynet.train.events import Moment, cut_all

__all__ = ["ScaledL1", "Scales", "Shrink", "scales_of"]


@dataclass(frozen=True)
class Scales:
    """The scales of one axis: one number for each of its channels.

    Args:
        axis: its name.
        parameter: name of the shared vector of scales.
        cost: of one channel, such as its MACs.
        channels: how many there were when the costs were counted.
        pair: of two channels that meet, as tokens do in attention: `n` of them cost
            `n * cost + n**2 * pair`.
    """

    axis: str
    parameter: str
    cost: float
    channels: int
    pair: float = 0.0

    def of(self, channels: int) -> float:
        """Return what so many channels cost."""
        return channels * self.cost + channels**2 * self.pair

    def last(self, channels: int) -> float:
        """Return what the last of so many channels adds, which leaving it out would save."""
        return self.of(channels) - self.of(channels - 1)


def scales_of(
    family: Family, pattern: str, cost: Callable[[str], float | tuple[float, float]]
) -> tuple[Scales, ...]:
    """Return the scales that a pattern of parameter names finds, one a channel axis.

    Args:
        family: whose norms they are.
        pattern: such as `"*.norm2.weight"`.
        cost: of one channel, from the name of the parameter; with that of a pair, where pairs cost.

    Raises:
        InputError: nothing matches, or what matches is no vector along one axis of its own.
    """
    axes, dims = axes_in(family), dims_of(family)
    found: dict[str, Scales] = {}
    for name, _ in family.named_parameters():
        if not fnmatch.fnmatchcase(name, pattern):
            continue
        own = dims.get(name, ())
        axis = own[0][0] if len(own) == 1 and len(own[0]) == 1 else None
        if not isinstance(axis, Axis) or axes.get(axis.name) is not axis or axis.name in found:
            raise InputError(
                f"{name} is not the one vector of scales along an axis that can be cut; narrow the "
                f"pattern {pattern!r}, or make that axis elastic"
            )
        given = cost(name)
        one, pair = given if isinstance(given, tuple) else (given, 0.0)
        found[axis.name] = Scales(axis.name, name, one, axis.size, pair)
    if not found:
        raise InputError(f"no shared parameter matches {pattern!r}; see named_parameters()")
    return tuple(found.values())


@dataclass(frozen=True)
class ScaledL1:
    """The sum of all scales' sizes, each times what its channel costs: dear channels die first.

    The costs are divided by their mean over the channels that are left, so that `strength` means
    the same for every network. Where pairs cost, a channel costs what it adds to those that are
    left. The strength rises from zero in a straight line.

    Args:
        scales: of `scales_of`.
        strength: of the sum, after the rise.
        rise: steps until then.
        until: the step from which on nothing is added any more, as after the last `Shrink`.

    Reference: Mei et al. 2020, arXiv 1912.09640 (AtomNAS); Ding et al. 2021, arXiv 2106.06560.
    """

    scales: tuple[Scales, ...]
    strength: float = 1.8e-4
    rise: int = 0
    until: int | None = None

    def __post_init__(self) -> None:
        if self.strength < 0 or self.rise < 0 or not self.scales:
            raise InputError(
                f"ScaledL1(strength={self.strength}, rise={self.rise}) of {len(self.scales)} "
                "scales: numbers are 0 or more, and there is at least one vector of scales"
            )

    def strength_at(self, step: int) -> float:
        """Return how much the sum counts at a step."""
        if self.until is not None and step >= self.until:
            return 0.0
        return self.strength * min(1.0, step / self.rise if self.rise else 1.0)

    def weights(self, family: Family) -> dict[str, float]:
        """Return by how much the scales of each axis count: 1 in the mean over the channels."""
        counts = {s.axis: self._vector(family, s).numel() for s in self.scales}
        total = sum(counts.values())
        costs = {s.axis: s.last(counts[s.axis]) for s in self.scales}
        mean = sum(costs[axis] * count for axis, count in counts.items()) / max(total, 1)
        return {axis: cost / mean if mean else 1.0 for axis, cost in costs.items()}

    def at(self, step: int) -> Callable[[Family], Tensor]:
        """Return the penalty of a step."""
        return lambda family: self.strength_at(step) * self._sum(family)

    def __call__(self, family: Family) -> Tensor:
        """Return the penalty after the rise."""
        return self.strength * self._sum(family)

    def _sum(self, family: Family) -> Tensor:
        weights = self.weights(family)
        parts = [weights[s.axis] * self._vector(family, s).abs().sum() for s in self.scales]
        return torch.stack(parts).sum()

    def _vector(self, family: Family, scales: Scales) -> Tensor:
        return dict(family.named_parameters())[scales.parameter]


@dataclass(frozen=True)
class Shrink:
    """Cut channels whose scales are zero or nearly so, in weights, averages and optimizer alike.

    A channel is dead where its scale is at most `threshold` in size, in the weights and, where the
    run has one, in their moving average; at the last event the average decides alone. Without a
    `target` that is all. With one, the network never falls below it, and the last event cuts the
    smallest scales until it is reached.

    Args:
        scales: of `scales_of`, with costs in the unit of `total`.
        total: what the network costs in all before anything is cut.
        threshold: the size of a dead scale.
        every: epochs between two events.
        last: the epoch of the last event; by default that of the run.
        least: cut only where it saves so much at once; the last event always cuts.
        target: the share of `total` that shall be left.
        fold: called with the shared network, its effective weights in it, and the channels that are
            about to go, by the name of the axis: the place to fold what they still add into others.

    Reference: Mei et al. 2020, arXiv 1912.09640; Ding et al. 2021, arXiv 2106.06560; You et al.
    2022, arXiv 2207.03677. They have no target: the L1 alone decides.
    """

    scales: tuple[Scales, ...]
    total: float
    threshold: float = 1e-3
    every: int = 10
    last: int | None = None
    least: float = 1e6
    target: float | None = None
    fold: Callable[[torch.nn.Module, Mapping[str, Sequence[int]]], None] | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.threshold < 0 or (self.last is not None and self.last < 1):
            raise InputError(
                f"Shrink(every={self.every}, last={self.last}, threshold={self.threshold}): give "
                "epochs of at least 1 and a threshold of 0 or more"
            )
        if self.target is not None and not 0 < self.target <= 1:
            raise InputError(f"Shrink(target={self.target}): it is a share, above 0, at most 1")

    def before(self, moment: Moment) -> None:
        """Cut what is dead, where an event is due."""
        last = moment.epochs if self.last is None else self.last
        ends = moment.epoch == last
        if moment.epoch > last or (moment.epoch % self.every and not ends):
            return
        dead = self._chosen(moment.family, self._channels(moment, ends), ends)
        axes = axes_in(moment.family)
        sizes = ((s, axes[s.axis].size, len(dead[s.axis])) for s in self.scales)
        saved = sum(s.of(now) - s.of(now - gone) for s, now, gone in sizes)
        if saved and (ends or saved >= self.least):
            self.cut(moment, {axis: gone for axis, gone in dead.items() if gone})

    def after(self, moment: Moment) -> None:
        """Do nothing."""

    def cut(self, moment: Moment, dead: Mapping[str, Collection[int]]) -> None:
        """Cut these channels, by the name of the axis, after what they add has been folded."""
        family, axes = moment.family, axes_in(moment.family)
        if self.fold is not None:
            family.clear()  # an event before this one may have changed masks
            self.fold(family.at(family.space.largest), {a: sorted(n) for a, n in dead.items()})
        keep = {
            name: [n for n in range(axes[name].size) if n not in gone]
            for name, gone in ((a, set(g)) for a, g in dead.items())
        }
        cut_all(moment, keep)

    def _sizes(self, moment: Moment, scales: Scales) -> tuple[Tensor, Tensor]:
        """Return how large the scales are, now and in the average."""
        now = dict(moment.family.named_parameters())[scales.parameter].detach().abs()
        ema = moment.ema
        return now, now if ema is None else ema.averages[scales.parameter].abs()

    def _channels(self, moment: Moment, ends: bool) -> list[tuple[float, Scales, int, bool]]:
        """Return every channel: its size, its scales, its place, and whether it is dead."""
        found = []
        for scales in self.scales:
            now, average = self._sizes(moment, scales)
            small = average <= self.threshold
            small = small if ends else small & (now <= self.threshold)
            sizes = average if ends else now
            rows = zip(sizes.tolist(), small.tolist(), strict=True)
            found += [(size, scales, n, gone) for n, (size, gone) in enumerate(rows)]
        return sorted(found, key=lambda one: one[0])

    def _chosen(
        self, family: Family, channels: list[tuple[float, Scales, int, bool]], ends: bool
    ) -> dict[str, list[int]]:
        """Return which channels go: the dead ones, as far as the target allows and asks for."""
        gone: dict[str, list[int]] = {scales.axis: [] for scales in self.scales}
        axes, aim = axes_in(family), None if self.target is None else self.target * self.total
        cut_before = (s.of(s.channels) - s.of(axes[s.axis].size) for s in self.scales)
        cost = self.total - sum(cut_before)
        for _, scales, place, dead in channels:
            saves = scales.last(axes[scales.axis].size - len(gone[scales.axis]))
            too_dear = ends and aim is not None and cost > aim
            if too_dear or (dead and (aim is None or cost - saves >= aim)):
                gone[scales.axis].append(place)
                cost -= saves
        return gone
