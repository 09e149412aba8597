"""R9: predicted latency against measured, on random members of five families.

For each family and runtime: build both predictors (`latency_table` from blocks, `fit_latency` from
whole members), then measure random members in four turns, in turn with one and the same member, and
compare. The halves of the turns against each other say how far any prediction could agree: repeat
noise. Times are the core's own (no other work counted), least of the passes of a visit, relative to
the reference member's, times its median milliseconds; what is predicted is the median of the turns.
`mape_drift_free` is the error after one factor for all members, which a machine whose speed has
changed since building would need.

Members are drawn twice: uniformly (each member of the family as likely as any other, which makes
most of them deep and middling), and by size, with all choices near one level from low to high.

    python benchmarks/latency_fit.py                    # five families, PyTorch and ONNX Runtime
    python benchmarks/latency_fit.py --only gpt_tiny.torch --archs 200 --seconds 60

A case that is stored already is not measured again, unless --again is given.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manynet as mn
from _measure import prepare, write
from _networks import NETWORKS
from manynet.cost import LatencyTable, exported_run, latency
from manynet.cost._drawn import leveled
from manynet.cost._predictor import _visit
from manynet.cost._regression import kendall_tau
from manynet.deploy import to_onnx_quickly
from manynet.space import Arch

FAMILIES = ("gpt_tiny", "resnet18", "mobilenet_v3", "vit_tiny", "gcn")
RUNTIMES = ("torch", "onnx")
RESULTS = Path(__file__).parent / "results" / "latency_fit.json"
SEED = 20_260  # no builder draws with it
TURNS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="FAMILY.RUNTIME, such as gpt_tiny.onnx")
    parser.add_argument("--archs", type=int, default=200, help="drawn uniformly")
    parser.add_argument("--by-size", type=int, default=60, help="drawn by size")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each builder, wall clock")
    parser.add_argument("--again", action="store_true", help="measure also what is stored")
    options = parser.parse_args()
    prepare()
    cases = options.only or [f"{name}.{runtime}" for runtime in RUNTIMES for name in FAMILIES]
    for case in cases:
        if options.again or case not in stored():
            counts = {"uniform": options.archs, "by_size": options.by_size}
            found = measured(*case.split("."), counts, options.seconds)
            write("latency_fit", stored() | {case: found})  # read anew: another process may write
            print(case, json.dumps(found), flush=True)


def stored() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else {}


def measured(name: str, runtime: str, counts: dict[str, int], seconds: float) -> dict[str, Any]:
    model, inputs = NETWORKS[name](1)
    family = mn.elastic(model.eval(), inputs, importance=None).eval()
    rng = np.random.default_rng(SEED)
    drawn = {
        "uniform": unlike(family.space.sample(rng) for _ in range(counts["uniform"])),
        "by_size": unlike(leveled(family.space, rng) for _ in range(counts["by_size"])),
    }
    how: dict[str, Any] = {"runtime": runtime, "time_limit_s": seconds}
    load = os.getloadavg()[0]
    table, table_s = timed(lambda: mn.latency_table(family, **how))
    print(table, flush=True)
    fitted, fitted_s = timed(lambda: mn.fit_latency(family, **how))
    print(fitted, flush=True)
    relative, unit = measurements(
        family, [*itertools.chain(*drawn.values())], inputs, runtime, table
    )
    result: dict[str, Any] = {"load": load, "reference_drift": float(unit / table.reference_ms)}
    start = 0
    for label, archs in drawn.items():
        times = relative[:, start : start + len(archs)] * unit
        start += len(archs)
        result[label] = agreement(times) | {
            "table": compared(table, archs, times), "fit": compared(fitted, archs, times)
        }  # fmt: skip
    for label, made, took in (("table", table, table_s), ("fit", fitted, fitted_s)):
        result[label] = took | {
            "claimed_mape": made.mape, "claimed_tau": made.tau, "members_measured": made.samples
        }  # fmt: skip
    return rounded(result)


def unlike(archs: Iterable[Arch]) -> list[Arch]:
    return list(dict.fromkeys(archs))


def agreement(times: np.ndarray) -> dict[str, Any]:
    """Say how the measurements (turns x archs) agree with each other."""
    found = np.median(times, axis=0)
    first, second = (np.median(times[half::2], axis=0) for half in (0, 1))
    return {
        "archs": times.shape[1],
        "median_ms": float(np.median(found)),
        "spread_percent": float(100 * found.std() / found.mean()),
        "repeat_tau": kendall_tau(first, second),
        "repeat_noise_percent": float(100 * np.mean(np.abs(first - second) / first)),
    }


def timed(build: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    wall, core = time.perf_counter(), time.process_time()
    made = build()
    took = {
        "building_core_s": time.process_time() - core,
        "building_wall_s": time.perf_counter() - wall,
    }
    return made, took


def measurements(
    family: mn.Family, archs: list[Arch], inputs: Any, runtime: str, table: LatencyTable
) -> tuple[np.ndarray, float]:
    """Return times relative to the reference's (turns x archs), and its milliseconds."""
    clock = latency(runtime=runtime)
    with tempfile.TemporaryDirectory() as folder:
        run = runner(family, inputs, runtime, Path(folder))
        found = np.zeros((TURNS, len(archs), 2))
        with clock.settings():
            reference = clock.clock_of(run(table.reference))
            for turn in range(TURNS):
                for i in range(len(archs)) if turn % 2 == 0 else reversed(range(len(archs))):
                    found[turn, i] = _visit(clock.clock_of(run(archs[i])), reference)
    return found[:, :, 0], float(np.median(found[:, :, 1]))


def runner(
    family: mn.Family, inputs: Any, runtime: str, folder: Path
) -> Callable[[Arch], Callable[[], object]]:
    arrays = [tensor.numpy() for tensor in inputs]

    def run(arch: Arch) -> Callable[[], object]:
        if runtime == "torch":
            member = family.at(arch)
            return lambda: member(*inputs)
        path = folder / f"{arch.key}.onnx"
        if not path.exists():
            path.write_bytes(to_onnx_quickly(family.at(arch), inputs))
        return exported_run(path.read_bytes(), arrays, runtime=runtime)

    return run


def compared(made: Any, archs: list[Arch], times: np.ndarray) -> dict[str, Any]:
    marks = []
    for _ in range(2):
        marks.append(time.thread_time_ns())
        found = np.array([made.predict(arch) for arch in archs])
    marks.append(time.thread_time_ns())
    query_us, again_us = np.diff(marks) / 1e3 / len(archs)
    true = np.median(times, axis=0)
    return {
        "query_us": float(query_us),
        "query_again_us": float(again_us),
        "query_percent": 100 * float(query_us) / 1e3 / float(np.median(true)),
        "tau": kendall_tau(found, true),
        "mape": mape(found, true),
        "mape_drift_free": mape(found * float(np.median(true / found)), true),
    }


def mape(found: np.ndarray, true: np.ndarray) -> float:
    return float(100 * np.mean(np.abs(found - true) / true))


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
