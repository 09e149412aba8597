"""Judging one arch: what is cheap first, what was ever measured from the store, the rest once."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from manynet._inputs import device_of, evaluating, tensors_in
from manynet.errors import InputError, did_you_mean
from manynet.search.front import Record
from manynet.search.metrics import finite, tensor_bytes
from manynet.search.store import Store
from manynet.search.strategies import Evaluation
from manynet.space import Arch, Space

__all__ = [
    "CostLike",
    "FamilyLike",
    "Judge",
    "Limit",
    "Place",
    "Quality",
    "Step",
    "fingerprint",
    "measures",
    "settings_of",
]


class FamilyLike(Protocol):
    """What a search needs of a family; `manynet.Family` has it, and so may your own supernet."""

    @property
    def space(self) -> Space:
        """The archs."""
        ...

    @property
    def example_inputs(self) -> tuple[Any, ...]:
        """Inputs that every member takes."""
        ...

    def at(self, arch: Arch, /) -> nn.Module:
        """Return the member of an arch."""
        ...

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return the shared weights by name."""
        ...


@runtime_checkable
class Quality(Protocol):
    """What judges a member: a `Metric`, or anything like it."""

    @property
    def name(self) -> str:
        """What it is called in a front and a store."""
        ...

    @property
    def higher_is_better(self) -> bool:
        """Whether more of it is better."""
        ...

    def __call__(self, member: nn.Module, /) -> float:
        """Return how good the member is, a finite number."""
        ...


@runtime_checkable
class CostLike(Protocol):
    """What a member costs: a `manynet.cost.Cost`, or anything like it.

    With a method `of_arch(family, arch)` it is asked that way, and need not build the member.
    Stored values are used for a cost of equal settings: an equal `fingerprint` if it has that
    attribute, an equal `repr` if it is a frozen dataclass; otherwise the name decides. With an
    attribute `timed` that is true it needs the machine for itself, and with `tabulated` it is
    looked up in no time: the process that searches measures both, and no worker does.
    """

    @property
    def name(self) -> str:
        """What it is called in a front and a budget."""
        ...

    def __call__(self, member: nn.Module, example_inputs: tuple[Any, ...], /) -> float:
        """Return what the member costs."""
        ...


Step: TypeAlias = tuple[str, ...]
"""Names that are measured together."""


class Place(enum.Enum):
    """Where something can be measured when several processes measure."""

    ALONE = "in the process that searches, while no other works: a clock measures it"
    HERE = "in the process that searches, which has a table of it"
    ANYWHERE = "in any process"


class _Elsewhere:
    """Stands in a worker for a cost that is not measured there."""

    def __init__(self, name: str, cost: CostLike | None) -> None:
        self.name = name
        self.timed = getattr(cost, "timed", False)
        self.tabulated = True

    def __call__(self, member: nn.Module, example_inputs: tuple[Any, ...]) -> float:
        raise AssertionError(f"{self.name} is measured by the process that searches")


@dataclass(frozen=True)
class Limit:
    """The least and the most that is allowed of something."""

    least: float = -math.inf
    most: float = math.inf

    def excess(self, value: float) -> float:
        """Return by how much `value` is outside, as a share of the limit; 0 inside."""
        if value > self.most:
            return (value - self.most) / (abs(self.most) or 1.0)
        if value < self.least:
            return (self.least - value) / (abs(self.least) or 1.0)
        return 0.0

    def __str__(self) -> str:
        if math.isinf(self.least):
            return f"<= {self.most:g}"
        if math.isinf(self.most):
            return f">= {self.least:g}"
        return f"in [{self.least:g}, {self.most:g}]"


@dataclass
class Judge:
    """Finds out costs and quality of archs, step by step, and stores what it measures.

    Args:
        space: where the archs come from.
        quality: what judges a member; a `Metric` without a function is answered by `evaluate`.
        costs: by name; None for those that `evaluate` answers.
        limits: hard constraints by the name of a cost or of the quality.
        family: the members; None for a plain function over a space.
        evaluate: returns values by name for an arch.
        calibrate: prepares a member before its quality is judged.
        store: where values are kept; None measures anew.
        contexts: what the value of each name depends on besides the arch.
    """

    space: Space
    quality: Quality
    costs: Mapping[str, CostLike | None]
    limits: Mapping[str, Limit] = field(default_factory=dict)
    family: FamilyLike | None = None
    evaluate: Callable[[Arch], Mapping[str, float]] | None = None
    calibrate: Callable[[nn.Module], object] | None = None
    store: Store | None = None
    contexts: Mapping[str, str] = field(default_factory=dict)
    found: int = 0
    """How many values came from the store."""

    def __post_init__(self) -> None:
        taken = [name for name, cost in self.costs.items() if cost is not None]
        asked = [name for name, cost in self.costs.items() if cost is None]
        itself = [self.quality.name] if measures(self.quality) else []
        self.asked = tuple(asked if itself else [self.quality.name, *asked])
        self._places = {name: _place_of(self.costs[name]) for name in taken}
        limited = sorted((name for name in taken if name in self.limits), key=self._is_slow)
        free = [name for name in taken if name not in self.limits]
        steps = [
            *([name] for name in limited),  # may save all that follows
            self.asked,
            *([n for n in free if self._places[n] is place] for place in Place),
            itself,
        ]
        self._steps = [tuple(step) for step in steps if step]
        self._names = (self.quality.name, *self.costs)
        self._sign = -1.0 if self.quality.higher_is_better else 1.0

    def __call__(self, arch: Arch, *, whole: bool = False) -> Evaluation:
        """Return the evaluation of `arch`; it ends at a broken constraint, unless `whole`."""
        known = self.known(arch)
        while step := self.next_step(known, whole=whole):
            values, seconds = self.measured(step, arch)
            known.update(self.kept(arch, values, seconds))
        return self.evaluation(arch, known, whole=whole)

    def known(self, arch: Arch) -> dict[str, float]:
        """Return what the store has of `arch`."""
        if self.store is None:
            return {}
        stored = self.store.values(arch)
        pairs = ((name, stored.get((name, self.contexts.get(name, "")))) for name in self._names)
        known = {name: value for name, value in pairs if value is not None}
        self.found += len(known)
        return known

    def next_step(self, known: Mapping[str, float], *, whole: bool = False) -> Step:
        """Return the names to measure next; none when all is known or a constraint is broken."""
        for step in self._steps:
            if any(name not in known for name in step):
                return step
            if self._excess(step, known) > 0 and not whole:
                return ()
        return ()

    def place(self, step: Step) -> Place:
        """Return where a step can be measured when several processes measure."""
        return self._places.get(step[0], Place.ANYWHERE)

    def for_workers(self) -> Judge:
        """Return the judge as workers need it: without store, tables and clocks."""
        costs = {
            name: cost if self.place((name,)) is Place.ANYWHERE else _Elsewhere(name, cost)
            for name, cost in self.costs.items()
        }
        return replace(self, store=None, costs=costs)

    def _is_slow(self, name: str) -> bool:
        return self._places[name] is Place.ALONE

    def measured(self, step: Step, arch: Arch) -> tuple[dict[str, float], float]:
        """Return the values of one step, and the seconds that they took."""
        start = time.perf_counter()
        values = self._values(step, arch)
        return values, time.perf_counter() - start

    def kept(self, arch: Arch, values: Mapping[str, float], seconds: float) -> Mapping[str, float]:
        """Store values, and return those that hold: another process's where it was faster."""
        if self.store is None:
            return values
        contexts = {name: self.contexts.get(name, "") for name in values}
        return self.store.add(arch, values, context=contexts, seconds=seconds)

    def evaluation(
        self, arch: Arch, known: Mapping[str, float], *, whole: bool = False
    ) -> Evaluation:
        """Return what a strategy is told of `arch`, once `next_step` has none."""
        violation = 0.0
        for step in self._steps if self.limits else ():
            violation += self._excess(step, known)
            if violation > 0 and step is not self._steps[-1] and not whole:
                return Evaluation(arch, (math.inf,) * len(self._names), violation)
        quality = known[self.quality.name]
        costs = {name: known[name] for name in self.costs}
        objectives = (self._sign * quality, *costs.values())
        return Evaluation(arch, objectives, violation, Record(arch, quality, costs))

    def _excess(self, step: Step, known: Mapping[str, float]) -> float:
        if not self.limits:
            return 0.0
        return sum(self.limits[n].excess(known[n]) for n in step if n in self.limits)

    def _values(self, step: Step, arch: Arch) -> dict[str, float]:
        if step == self.asked:
            return self._answers(arch)
        values = {}
        for name in step:
            cost = self.costs.get(name)
            value = self._quality(arch) if cost is None else self._cost(cost, arch)
            values[name] = finite(name, value, arch)
        return values

    def _answers(self, arch: Arch) -> dict[str, float]:
        if self.evaluate is None:
            raise InputError(
                f"nothing measures {', '.join(self.asked)}; hand in evaluate=, which returns it"
            )
        answer = self.evaluate(arch)
        if not isinstance(answer, Mapping):
            raise InputError(
                f"evaluate must return values by name, and returned a {type(answer).__name__}"
            )
        for name in self.asked:
            if name not in answer:
                raise InputError(f"evaluate returned no {name}{did_you_mean(name, answer)}")
        return {name: finite(name, answer[name], arch) for name in self.asked}

    def _cost(self, cost: CostLike, arch: Arch) -> float:
        of_arch = getattr(cost, "of_arch", None)
        if of_arch is not None:
            return float(of_arch(self.space if self.family is None else self.family, arch))
        member = self._member(arch)
        with evaluating(member):
            inputs = () if self.family is None else self.family.example_inputs
            return cost(member, inputs)

    def _quality(self, arch: Arch) -> float:
        member = self._member(arch)
        with _own_chance(arch, device_of(member)), evaluating(member):
            if self.calibrate is None:
                return self.quality(member)
            with _buffers_kept(member):
                self.calibrate(member)
                member.eval()
                return self.quality(member)

    def _member(self, arch: Arch) -> nn.Module:
        if self.family is None:
            raise InputError("a space alone has no members to measure; search a family")
        return self.family.at(arch)


def fingerprint(family: FamilyLike, *, weights: bool) -> str:
    """Return a hash of the family's skeleton and input shapes, and of its weights if asked for."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(_described(getattr(family, "shared", None)))
    for tensor in tensors_in(family.example_inputs):
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    for name, tensor in sorted(family.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        if weights:
            digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def settings_of(cost: CostLike | None) -> str:
    """Return what tells costs of one name apart: a latency on one thread from one on two."""
    given = getattr(cost, "fingerprint", None)
    if given is not None:
        return str(given)
    if getattr(getattr(cost, "__dataclass_params__", None), "frozen", False):
        return f"settings {hashlib.blake2b(_described(cost), digest_size=8).hexdigest()}"
    return ""


def _described(value: object) -> bytes:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value)).encode()


def measures(quality: Quality) -> bool:
    """Return whether the quality can be called; a `Metric` may be a name only."""
    return getattr(quality, "function", quality) is not None


def _place_of(cost: CostLike | None) -> Place:
    if getattr(cost, "timed", False):
        return Place.ALONE
    return Place.HERE if getattr(cost, "tabulated", False) else Place.ANYWHERE


@contextlib.contextmanager
def _own_chance(arch: Arch, device: torch.device) -> Iterator[None]:
    """Let what is drawn in the block depend on the arch alone; torch's state is put back.

    So a member is judged alike in a search that was resumed, and in one that was not.
    """
    seed = int(arch.key, 16)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def _buffers_kept(member: nn.Module) -> Iterator[None]:
    """Give the member copies of its buffers for the block: a calibration must not outlive it.

    What is written, goes into the copies: the buffers themselves may be memory that others read.
    """
    kept = [
        (module, name, tensor)
        for module in member.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]
    copies = {id(tensor): tensor.clone() for _, _, tensor in kept}
    for module, name, tensor in kept:
        module._buffers[name] = copies[id(tensor)]
    try:
        yield
    finally:
        for module, name, tensor in kept:
            module._buffers[name] = tensor
