"""The middle of a run: the front, and what its members take on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from manynet._files import write_json
from manynet.config import SearchConfig
from manynet.cost import by_layer, latency
from manynet.errors import StorageError
from manynet.family import Family
from manynet.models import merge_adapters
from manynet.run._costs import LATENCY, TOKEN, per_token, searched
from manynet.run._latency import predictor
from manynet.run._plan import Plan
from manynet.run._work import Calibration, Work
from manynet.search import Front, RayWorkers, Record, search
from manynet.space import Arch

__all__ = ["find_front", "read_front"]

_ORDERED_BY = ("macs", LATENCY, "parameters", "bytes")


def find_front(work: Work, family: Family, plan: Plan) -> Front:
    """Search, measure what was found, and write `front.json`, `front.csv` and `layers.json`.

    What was judged before is taken from the store, so a search that was cut off goes on.
    """
    config = work.config.search
    predicted = predictor(work, family)
    costs = searched(work.config, predicted, device=work.device, generates=work.generates)
    _write_search(work, plan, [cost.name for cost in costs])
    step = work.progress("search")
    step(0, plan.evaluations, "")

    def progress(done: int, total: int, info: Mapping[str, float]) -> None:
        best = f", best {info['best']:.3f}" if "best" in info else ""
        working = info["workers"]
        many = f", {working:.0f} workers" if working > 1 else ""
        step(done, total, f"{info['front']:.0f} on the front{best}{many}")

    front = search(
        family,
        work.metric,
        costs=costs,
        evaluations=plan.evaluations,
        strategy=config.strategy,
        population=config.population,
        store=work.folder / "evaluations.sqlite",
        seed=work.config.seed,
        calibrate=Calibration(work.samples),
        context=f"calibrated on {config.calibration}, seed {work.config.seed}",
        progress=progress,
        workers=_workers(config),
    )
    front = _timed(work, family, front)
    _write_layers(work, family)
    front.to_csv(work.folder / "front.csv")
    front.to_json(work.folder / "front.json")
    return front


def _workers(config: SearchConfig) -> int | RayWorkers:
    """Return the workers of the config; at an address, as many as it has room for if none is said.

    It changes no result, and so may be another one when a run goes on.
    """
    if config.ray_address is None:
        return config.workers
    return RayWorkers(config.workers or None, config.ray_address)


def _write_search(work: Work, plan: Plan, costs: list[str]) -> None:
    """Write down what is searched for, so that the store can be read while it grows."""
    write_json(
        work.folder / "search.json",
        {
            "metric": work.metric.name,
            "higher_is_better": work.metric.higher_is_better,
            "costs": costs,
            "evaluations": plan.evaluations,
            "strategy": work.config.search.strategy,
        },
    )


def read_front(work: Work) -> Front:
    """Return the front that was found. Raises `StorageError` where there is none."""
    if not (work.folder / "front.json").is_file():
        raise StorageError(
            f"{work.folder} holds no front yet; finish the search first: "
            f"manynet search {work.folder}"
        )
    return Front.from_json(work.folder / "front.json")


def _timed(work: Work, family: Family, front: Front) -> Front:
    """Return the front with the measured latency of each member; measured once, then stored."""
    how: dict[str, Any] = {"device": str(work.device), "repeats": 20, "time_limit_s": 0.2}
    clock = per_token(work.config, **how) if work.generates else latency(**how)
    name = TOKEN if work.generates else LATENCY
    step = work.progress("measure latency")
    records = []
    with work.store() as store:
        for number, record in enumerate(front, start=1):
            found = store.get(record.arch, name, context=_MEASURED)
            if found is None:
                member = merge_adapters(family.extract(record.arch).eval())
                value = clock(member, work.material.example_inputs())
                found = store.add(record.arch, {name: value}, context=_MEASURED)[name]
            records.append(Record(record.arch, record.quality, {**record.costs, name: found}))
            step(number, len(front), f"{found:.2f} ms")
    return Front(tuple(records), front.metric, front.higher_is_better, front.history)


_MEASURED = "measured on this machine, one thread, batch 1"


def _write_layers(work: Work, family: Family) -> None:
    """Write what each layer of the largest and the smallest member costs."""
    archs: dict[str, Arch] = {
        "largest": family.space.largest,
        "smallest": family.space.smallest,
    }
    write_json(
        work.folder / "layers.json",
        {"members": {name: _layers(work, family, arch) for name, arch in archs.items()}},
    )


def _layers(work: Work, family: Family, arch: Arch) -> list[dict[str, Any]]:
    kept = ("path", "type", "macs", "parameters")
    layers = by_layer(family.extract(arch).eval(), work.material.example_inputs())
    return [
        {key: value for key, value in asdict(layer).items() if key in kept}
        for layer in layers
        if layer.macs or layer.parameters
    ]
