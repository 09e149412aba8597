"""`System`: a published method as a recipe, and how to find those that are built."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path

from manynet._version import __version__
from manynet.errors import InputError, did_you_mean
from manynet.systems._catalog import CATALOG
from manynet.systems._condition import Condition
from manynet.systems._proof import Proof
from manynet.systems._result import Result

__all__ = ["System", "built", "command_of", "find", "judge", "reproduce"]


@dataclass(frozen=True)
class System:
    """A published system, made of the parts of the other rooms.

    Args:
        number: in the series.
        year: of the paper.
        reference: where the paper is found, such as its arXiv number.
        claim: one sentence with the paper's own figures.
        parts: what it is made of.
        metric: what its proof measures.
        higher_is_better: whether more of the metric is better.
        margin: by how much `ours` must be better than `baseline` for the claim to hold here.
        ours: which arm of the proof is the method.
        baseline: which arm it is compared with.
        prove: runs the arms.
        module: the system's module, whose docstring says what it is.
        example: lines of Python that use it on a model of one's own.
        relative: whether the margin is a share of the baseline's mean.
        conditions: what must hold beside for the claim to hold.
        share: of the proof's full size, the one meant for half an hour on two cores.
    """

    number: int
    year: int
    reference: str
    claim: str
    parts: tuple[str, ...]
    metric: str
    higher_is_better: bool
    margin: float
    ours: str
    baseline: str
    prove: Callable[[Proof], None]
    module: str
    example: str
    relative: bool = False
    conditions: tuple[Condition, ...] = ()
    share: float = 1.0

    @property
    def name(self) -> str:
        """Its short name."""
        return CATALOG[self.number][0]

    @property
    def paper(self) -> str:
        """The title of its paper."""
        return CATALOG[self.number][1]


@cache
def built() -> dict[int, System]:
    """Return the systems that are built, by number, in order.

    Every public module of this package holds one, as `SYSTEM`.
    """
    package = importlib.import_module(__package__ or "manynet.systems")
    found: list[System] = []
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            found.append(importlib.import_module(f"{package.__name__}.{info.name}").SYSTEM)
    return {system.number: system for system in sorted(found, key=lambda one: one.number)}


def find(name: str) -> System:
    """Return a system by its number or its short name, such as `"13"` or `"bignas"`.

    Raises:
        InputError: there is no such system, or it is not built yet.
    """
    numbers = {short: number for number, (short, _) in CATALOG.items()}
    wanted = int(name) if name.isdigit() else numbers.get(name.lower(), 0)
    if wanted not in CATALOG:
        near = did_you_mean(name.lower(), numbers, "; `manynet systems` lists them")
        raise InputError(f"there is no system {name!r}{near}")
    system = built().get(wanted)
    if system is None:
        ready = ", ".join(one.name for one in built().values()) or "none"
        raise InputError(f"{CATALOG[wanted][0]} is not built yet; ready: {ready}")
    return system


def command_of(system: System, proof: Proof) -> str:
    """Return the command that runs a proof as it is set up, but for where its result goes."""
    seeds = ",".join(map(str, proof.seeds))
    options = [f"--seeds {seeds}"] * (seeds != "0,1,2") + [f"--share {proof.budget:g}"] * (
        proof.budget != system.share
    )
    return " ".join([f"manynet reproduce {system.name}", *options])


def judge(system: System, result: Result) -> Result:
    """Return a stored result with the margin and the conditions that its system has now."""
    return replace(
        result,
        claim=system.claim,
        metric=system.metric,
        higher_is_better=system.higher_is_better,
        margin=system.margin,
        ours=system.ours,
        baseline=system.baseline,
        relative=system.relative,
        conditions=system.conditions,
    )


def reproduce(system: System, proof: Proof, folder: Path) -> Result:
    """Run a system's proof and write its result into `folder`.

    Raises:
        StorageError: the folder cannot be written; arms that were measured are kept.
    """
    system.prove(proof)
    result = Result(
        number=system.number,
        name=system.name,
        claim=system.claim,
        metric=system.metric,
        higher_is_better=system.higher_is_better,
        margin=system.margin,
        arms=proof.arms,
        ours=system.ours,
        baseline=system.baseline,
        budget=proof.budget,
        command=command_of(system, proof),
        versions={"manynet": __version__, "torch": metadata.version("torch")},
        date=datetime.now(UTC).date().isoformat(),
        relative=system.relative,
        conditions=system.conditions,
    )
    result.write(folder)
    return result
