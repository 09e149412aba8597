"""R9: predicted latency against measured, on random members of four families.

For each family and runtime: build both predictors (`latency_table` from blocks, `fit_latency` from
whole members), then measure random members twice, in turn with one and the same member, and
compare. The two measurements against each other say how far any prediction could agree: repeat
noise. Times are the core's own (no other work counted), least of the passes of a visit, relative to
the reference member's, times its median milliseconds. `mape_drift_free` is the error after one
factor for all members, which a machine whose speed has changed since building would need.

    python benchmarks/latency_fit.py                    # four families, PyTorch and ONNX Runtime
    python benchmarks/latency_fit.py --only gpt_tiny.torch --archs 200 --seconds 60

A case that is stored already is not measured again, unless --again is given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import manynet as mn
from _measure import prepare, write
from _networks import NETWORKS
from manynet.cost import LatencyTable, exported_run, latency
from manynet.cost._predictor import _visit
from manynet.cost._regression import kendall_tau
from manynet.deploy import to_onnx_quickly
from manynet.space import Arch

FAMILIES = ("gpt_tiny", "resnet18", "mobilenet_v3", "vit_tiny")
RUNTIMES = ("torch", "onnx")
RESULTS = Path(__file__).parent / "results" / "latency_fit.json"
SEED = 20_260  # no builder draws with it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="FAMILY.RUNTIME, such as gpt_tiny.onnx")
    parser.add_argument("--archs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each builder, wall clock")
    parser.add_argument("--again", action="store_true", help="measure also what is stored")
    options = parser.parse_args()
    prepare()
    cases = options.only or [f"{name}.{runtime}" for runtime in RUNTIMES for name in FAMILIES]
    for case in cases:
        if options.again or case not in stored():
            found = measured(*case.split("."), options.archs, options.seconds)
            write("latency_fit", stored() | {case: found})  # read anew: another process may write
            print(case, json.dumps(found), flush=True)


def stored() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else {}


def measured(name: str, runtime: str, count: int, seconds: float) -> dict[str, Any]:
    model, inputs = NETWORKS[name](1)
    family = mn.elastic(model.eval(), inputs, importance=None).eval()
    rng = np.random.default_rng(SEED)
    archs = list(dict.fromkeys(family.space.sample(rng) for _ in range(count)))
    how: dict[str, Any] = {"runtime": runtime, "time_limit_s": seconds}
    table, table_s = timed(lambda: mn.latency_table(family, **how))
    print(table, flush=True)
    fitted, fitted_s = timed(lambda: mn.fit_latency(family, **how))
    print(fitted, flush=True)
    relative, unit = measurements(family, archs, inputs, runtime, table)
    first, second = relative * unit
    result: dict[str, Any] = {
        "archs": len(archs),
        "median_ms": float(np.median(first)),
        "spread_percent": float(100 * first.std() / first.mean()),
        "repeat_tau": kendall_tau(first, second),
        "repeat_noise_percent": float(100 * np.mean(np.abs(first - second) / first)),
        "reference_drift": float(unit / table.reference_ms),
    }
    for label, made, took in (("table", table, table_s), ("fit", fitted, fitted_s)):
        result[label] = took | compared(made, archs, first, (first + second) / 2)
    return rounded(result)


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
    """Return times relative to the reference's (two passes x archs), and its milliseconds."""
    clock = latency(runtime=runtime)
    with tempfile.TemporaryDirectory() as folder:
        run = runner(family, inputs, runtime, Path(folder))
        found = np.zeros((2, len(archs), 2))
        with clock.settings():
            reference = clock.clock_of(run(table.reference))
            for turn in range(2):
                for i in range(len(archs)) if turn == 0 else reversed(range(len(archs))):
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


def compared(made: Any, archs: list[Arch], first: np.ndarray, mean: np.ndarray) -> dict[str, Any]:
    marks = []
    for _ in range(2):
        marks.append(time.thread_time_ns())
        found = np.array([made.predict(arch) for arch in archs])
    marks.append(time.thread_time_ns())
    query_us, again_us = np.diff(marks) / 1e3 / len(archs)
    factor = float(np.median(first / found))
    return {
        "query_us": float(query_us),
        "query_again_us": float(again_us),
        "query_percent": 100 * float(query_us) / 1e3 / float(np.median(first)),
        "tau": kendall_tau(found, first),
        "mape": mape(found, first),
        "mape_drift_free": mape(found * factor, first),
        "tau_of_mean": kendall_tau(found, mean),
        "mape_of_mean_drift_free": mape(found * float(np.median(mean / found)), mean),
        "claimed_mape": made.mape,
        "claimed_tau": made.tau,
        "members_measured": made.samples,
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
