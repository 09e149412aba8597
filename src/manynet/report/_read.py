"""What a run left in its folder, read with care: only the front must be there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, FiniteFloat, TypeAdapter, ValidationError, model_validator

from manynet.deploy import Manifest, read_manifest
from manynet.errors import ManynetError, StorageError
from manynet.report._tail import Tail
from manynet.search import Entry, read_entries
from manynet.search.front import non_dominated
from manynet.space import Arch, Space, Value

__all__ = [
    "Latency",
    "Layer",
    "Progress",
    "Ranked",
    "Ranking",
    "Record",
    "Run",
    "Search",
    "Stage",
    "Step",
    "cost_names",
    "look_at",
    "read_run",
]

T = TypeVar("T")


class Record(BaseModel):
    """One judged member, as in `front.json`; its costs may also stand beside its quality."""

    arch: dict[str, Value]
    quality: FiniteFloat
    metric: str = "accuracy"
    higher_is_better: bool = True
    costs: dict[str, FiniteFloat]

    @model_validator(mode="before")
    @classmethod
    def _gather_costs(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "costs" in data:
            return data
        beside = {name: value for name, value in data.items() if name not in cls.model_fields}
        costs = {name: one for name, one in beside.items() if isinstance(one, (int, float))}
        return {name: data[name] for name in data if name not in beside} | {"costs": costs}


class Step(BaseModel):
    """One line of `training.jsonl`."""

    step: int
    epoch: float | None = None
    loss: float | None = None
    learning_rate: float | None = None
    members: dict[str, dict[str, float | None]] = {}


class Layer(BaseModel):
    """What one layer of a member costs: an entry of `layers.json`."""

    path: str
    type: str = ""
    macs: float = 0
    parameters: float = 0


class _Layers(BaseModel):
    members: dict[str, list[Layer]]


class Latency(BaseModel):
    """Predicted against measured latencies of the same members, in ms: `latency.json`."""

    predicted: list[FiniteFloat]
    measured: list[FiniteFloat]
    mape: float | None = None
    tau: float | None = None
    device: str = "this machine"
    threads: int | None = None


class Ranked(BaseModel):
    """A member's quality with inherited weights, and that of the same arch trained alone."""

    arch: dict[str, Value] = {}
    macs: float | None = None
    inherited: FiniteFloat
    alone: FiniteFloat


class Ranking(BaseModel):
    """How well inherited quality ranks members: `ranking.json`."""

    tau: float | None = None
    members: list[Ranked]


class Stage(BaseModel):
    """One stage of a run: what, how far, and when (in seconds since 1970) it began and moved."""

    stage: str
    done: int = 0
    total: int = 0
    text: str = ""
    began: float = 0
    updated: float = 0


class Progress(BaseModel):
    """What a run is doing, or how it ended: `progress.json`."""

    verb: str = "run"
    state: Literal["running", "finished", "failed", "stopped"]
    message: str = ""
    process: int = 0
    host: str = ""
    updated: float = 0
    stages: list[Stage] = []

    @property
    def searching(self) -> bool:
        """Whether a search is going on, so that an older front is out of date."""
        last = self.stages[-1] if self.stages else None
        return self.state == "running" and last is not None and last.stage == "search"


class Search(BaseModel):
    """What a search looks for: `search.json`."""

    metric: str
    higher_is_better: bool = True
    costs: list[str]
    evaluations: int = 0
    strategy: str = ""


@dataclass(frozen=True)
class Run:
    """All that the page can show; what is empty was not in the folder.

    Args:
        evaluated: in the order in which they were judged.
        notes: for each file that is there but unusable, one line that says why.
    """

    folder: Path
    front: list[Record]
    evaluated: list[Record] = field(default_factory=list)
    family: dict[str, Any] = field(default_factory=dict)
    space: Space | None = None
    training: list[Step] = field(default_factory=list)
    layers: dict[str, list[Layer]] = field(default_factory=dict)
    latency: Latency | None = None
    ranking: Ranking | None = None
    exports: dict[str, Manifest] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    notes: dict[str, str] = field(default_factory=dict)
    search: Search | None = None
    progress: Progress | None = None

    @property
    def metric(self) -> str:
        """What judges the members, or will."""
        if self.front:
            return self.front[0].metric
        return "accuracy" if self.search is None else self.search.metric


def cost_names(records: Sequence[Record]) -> list[str]:
    """Return the costs that every record knows, as the first one orders them."""
    first = records[0].costs if records else {}
    return [name for name in first if all(name in one.costs for one in records)]


def read_run(folder: Path) -> Run:
    """Read the files of a run.

    Raises:
        StorageError: there is no front, or it cannot be read. Other files may be missing; what is
            wrong with those that are there but damaged stands in the run's `notes`.
    """
    return _read(folder, _front(folder / "front.json"), {})


def look_at(folder: Path, tail: Tail | None = None) -> Run:
    """Read the files of a run that may be at work: any of them may be missing, or half written.

    While it searches, the front is that of the members judged so far. The stages are those of the
    run, but for one that was killed: it cannot have said so.

    Args:
        folder: the run's folder.
        tail: what was read before, if the folder is looked at again and again.
    """
    notes: dict[str, str] = {}
    saved: list[Record] = _optional(folder / "front.json", _json(list[Record]), [], notes)
    if saved and not cost_names(saved):
        notes["front.json"] = "front.json holds no cost that all members have"
        saved = []
    run = _read(folder, saved, notes, tail or Tail())
    if run.front and not (run.progress and run.progress.searching):
        return run
    return replace(run, front=_best_of(run.evaluated, run.search))


def _read(
    folder: Path, front: list[Record], notes: dict[str, str], tail: Tail | None = None
) -> Run:
    def optional(name: str, parse: Callable[[Path], T], default: T) -> T:
        return _optional(folder / name, parse, default, notes)

    def steps(path: Path) -> list[Step]:
        return tail.lines(path, Step.model_validate) if tail else list(_steps(path))

    entries = tail.entries if tail else read_entries
    search = optional("search.json", _json(Search), None)
    evaluated: list[Record] = optional("evaluations.json", _json(list[Record]), [])
    if not evaluated and (front or search):
        evaluated = optional("evaluations.sqlite", lambda p: _stored(entries(p), front, search), [])
    made = "family.json" if (folder / "family.json").exists() else "checkpoints/start/family.json"
    return Run(
        folder,
        front,
        evaluated=evaluated,
        family=optional(made, _json(dict[str, Any]), {}),
        space=optional(made, _space, None),
        training=optional("training.jsonl", steps, []),
        layers=optional("layers.json", lambda path: _json(_Layers)(path).members, {}),
        latency=optional("latency.json", _latency, None),
        ranking=optional("ranking.json", _json(Ranking), None),
        exports=_exports(folder, notes),
        environment=optional("environment.json", _json(dict[str, Any]), {}),
        config=optional("config.yaml", lambda path: path.read_text(encoding="utf-8"), ""),
        notes=notes,
        search=search,
        progress=optional("progress.json", _json(Progress), None),
    )


def _front(path: Path) -> list[Record]:
    try:
        front = _json(list[Record])(path)
    except FileNotFoundError as error:
        raise StorageError(
            f"{path} does not exist, so there is nothing to report; "
            "is this a run's folder, and has `manynet search` finished?"
        ) from error
    except (OSError, ValueError) as error:
        raise StorageError(
            f"cannot read {path}: {_reason(error)}; run `manynet search` again to write it anew"
        ) from error
    if not front:
        raise StorageError(f"{path} holds no member; run `manynet search` to find some")
    if not cost_names(front):
        raise StorageError(
            f"{path} holds no cost that all members have, so there is nothing to budget; "
            "run `manynet search` with a cost, such as MACs"
        )
    return front


def _optional(path: Path, parse: Callable[[Path], T], default: T, notes: dict[str, str]) -> T:
    if not path.exists():
        return default
    try:
        return parse(path)
    except (OSError, ValueError, ManynetError) as error:
        notes[path.name] = f"{path.name} could not be read: {_reason(error)}"
        return default


def _json(kind: type[T]) -> Callable[[Path], T]:
    """Return a reader of a JSON file that holds a `kind`."""
    return lambda path: TypeAdapter(kind).validate_python(json.loads(path.read_bytes()))


def _steps(path: Path) -> Iterator[Step]:
    """Yield the steps of a log; a last line that a killed run left unfinished is passed over."""
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                yield Step.model_validate(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"line {number}: {_reason(error)}") from error


def _space(path: Path) -> Space | None:
    document = _json(dict[str, Any])(path).get("space")
    return None if document is None else Space.from_json(document)


def _stored(entries: Sequence[Entry], front: list[Record], search: Search | None) -> list[Record]:
    """Return the archs of a store that have a quality, in the order in which they got it."""
    metric = search.metric if search else front[0].metric
    higher = search.higher_is_better if search else front[0].higher_is_better
    costs = dict.fromkeys([*(search.costs if search else ()), *(front[0].costs if front else ())])
    values: dict[Arch, dict[str, float]] = {}
    judged: dict[Arch, None] = {}
    for entry in entries:  # oldest first, so that the newest value of a metric stays
        values.setdefault(entry.arch, {})[entry.metric] = entry.value
        if entry.metric == metric:
            judged[entry.arch] = None
    return [
        Record(
            arch=dict(arch),
            quality=found[metric],
            metric=metric,
            higher_is_better=higher,
            costs={name: found[name] for name in costs if name in found},
        )
        for arch in judged
        for found in [values[arch]]
    ]


def _best_of(evaluated: list[Record], search: Search | None) -> list[Record]:
    """Return the members that no other beats so far, by what the search looks for."""
    if search is None or not search.costs:
        return []
    known = [one for one in evaluated if all(name in one.costs for name in search.costs)]
    if not known:
        return []
    sign = -1.0 if search.higher_is_better else 1.0
    rows = [[sign * one.quality, *(one.costs[name] for name in search.costs)] for one in known]
    kept = [known[row] for row in non_dominated(np.array(rows, dtype=np.float64))]
    return sorted(kept, key=lambda one: one.costs[search.costs[0]])


def _latency(path: Path) -> Latency | None:
    latency = _json(Latency)(path)
    if len(latency.predicted) != len(latency.measured):
        raise ValueError(
            f"{len(latency.predicted)} predicted values, but {len(latency.measured)} measured ones"
        )
    return latency


def _exports(folder: Path, notes: dict[str, str]) -> dict[str, Manifest]:
    """Return the manifest of each exported member, by the member's name."""
    found: dict[str, Manifest] = {}
    for path in sorted((folder / "members").glob("*/manifest.json")):
        try:
            found[path.parent.name] = read_manifest(path)
        except StorageError as error:
            notes[f"{path.parent.name}/{path.name}"] = str(error)
    return found


def _reason(error: Exception) -> str:
    """Say in one line why a file does not fit."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else str(first["msg"])
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
