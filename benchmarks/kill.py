"""Kill `manynet run` at random moments, go on, and compare with a run that nobody disturbed.

`python benchmarks/kill.py [COUNT] [SEED]` writes `benchmarks/results/kill.json`. A run is killed
with SIGKILL, all files that it left are checked, it is started again, killed again, and so on
until it ends; then its front, its shared weights, its evaluations and its members must be those
of the undisturbed run, bit for bit. Only what a clock measured is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors

import _measure

CONFIG = """
model: manynet:small_cnn?widths=[8,16]
data: {name: digits, limit: 600}
seed: 3
threads: 1
train: {epochs: 4, checkpoint_every: 5}
search: {evaluations: 32, calibration: 128, latency_samples: 8}
ranking: {archs: 2, epochs: 1}
deploy: {members: 2, formats: [onnx, safetensors]}
"""
LANDMARKS = {
    "config.yaml": "begun",
    "checkpoints/start/family.json": "training",
    "family.json": "latency",
    "latency-predictor.json": "search",
    "front.json": "alone",
    "ranking.json": "members",
    "report.html": "end",
}
"""What a run is busy with once a file is there."""
CLOCK = {"latency_ms", "created", "seconds"}
KILLS_A_RUN = 3
"""So that every stage is met: a run that is killed again and again stays in its training."""


@dataclass(frozen=True)
class Kill:
    """One kill: in which run, after how many seconds of its process, while it did what."""

    run: int
    after_s: float
    doing: str
    whole: int
    damaged: tuple[str, ...]


def start(folder: Path, config: Path) -> subprocess.Popen[bytes]:
    """Begin the run, or go on with it."""
    command = [sys.executable, "-m", "manynet.cli", "run", str(config), "--out", str(folder), "-q"]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def doing(folder: Path) -> str:
    """Say what a run was busy with, from what it has left."""
    passed = [stage for name, stage in LANDMARKS.items() if (folder / name).exists()]
    return passed[-1] if passed else "starting"


def check(path: Path) -> None:
    """Raise if the file is not whole."""
    if path.suffix == ".json":
        json.loads(path.read_bytes())
    elif path.suffix == ".jsonl":
        for line in path.read_text().splitlines():
            json.loads(line)
    elif path.suffix == ".safetensors":
        with safetensors.safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                file.get_tensor(name)
    else:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            found = connection.execute("PRAGMA integrity_check").fetchall()
        if found != [("ok",)]:
            raise ValueError(str(found[0]))


def checked(folder: Path) -> tuple[int, tuple[str, ...]]:
    """Return how many files of a run are whole, and the names of those that are not."""
    kinds = {".json", ".jsonl", ".safetensors", ".sqlite"}
    paths = [path for path in folder.rglob("*") if path.suffix in kinds]
    damaged = []
    for path in paths:
        try:
            check(path)
        except Exception as error:
            damaged.append(f"{path.relative_to(folder)}: {type(error).__name__}: {error}")
    return len(paths) - len(damaged), tuple(damaged)


def timeless(value: object) -> object:
    """Leave out what a clock measured."""
    if isinstance(value, dict):
        return {key: timeless(one) for key, one in value.items() if key not in CLOCK}
    return [timeless(one) for one in value] if isinstance(value, list) else value


def essence(folder: Path) -> dict[str, str]:
    """Return a hash of each thing that a finished run must agree in."""
    with contextlib.closing(sqlite3.connect(folder / "evaluations.sqlite")) as connection:
        query = "SELECT arch_key, metric, context, arch, value FROM evaluations ORDER BY 1, 2, 3"
        rows = [row for row in connection.execute(query) if row[1] not in CLOCK]
    weights = {
        str(path.relative_to(folder)): path.read_bytes().hex()
        for path in sorted(folder.glob("members/*/model.safetensors"))
    }
    parts = {
        "front": timeless(json.loads((folder / "front.json").read_text())),
        "family": (folder / "family.safetensors").read_bytes().hex(),
        "evaluations": rows,
        "curves": (folder / "training.jsonl").read_text(),
        "ranking": json.loads((folder / "ranking.json").read_text()),
        "members": weights,
    }
    return {name: _hash(part) for name, part in parts.items()}


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def undisturbed(folder: Path, config: Path) -> float:
    """Run to the end and return the seconds that it took."""
    begun = time.perf_counter()
    if start(folder, config).wait() != 0:
        raise SystemExit("the undisturbed run failed")
    return time.perf_counter() - begun


def disturbed(
    number: int, folder: Path, config: Path, rng: random.Random, *, most: int, seconds: float
) -> list[Kill]:
    """Kill a run at most so often, at random moments, until it ends; return the kills."""
    kills: list[Kill] = []
    while True:
        process, after = start(folder, config), rng.uniform(0.1, 1.0) * seconds
        try:
            code = process.wait(timeout=after if len(kills) < most else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills.append(Kill(number, round(after, 2), doing(folder), *checked(folder)))
            show(kills[-1])
            continue
        if code != 0:
            raise SystemExit(f"run {number} failed when it went on after {len(kills)} kills")
        return kills


def show(kill: Kill) -> None:
    damage = "; ".join(kill.damaged) or "none"
    print(
        f"{kill.run:>4} {kill.after_s:>8.2f} {kill.doing:<10} {kill.whole:>6} {damage}", flush=True
    )


def main(count: int = 20, seed: int = 0) -> None:
    """Kill `count` times and write what came of it."""
    rng, kills, runs = random.Random(seed), [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = folder / "kill.yaml"
        config.write_text(CONFIG)
        seconds = undisturbed(folder / "whole", config)
        wanted = essence(folder / "whole")
        print(f"undisturbed: {seconds:.1f} s, {wanted}")
        print(f"{'run':>4} {'after s':>8} {'doing':<10} {'whole':>6} damaged files", flush=True)
        while len(kills) < count:
            here = folder / f"run-{len(runs) + 1}"
            most = min(KILLS_A_RUN, count - len(kills))
            kills += disturbed(len(runs) + 1, here, config, rng, most=most, seconds=seconds)
            found = essence(here)
            runs.append({part: found[part] == wanted[part] for part in wanted})
            print(f"  run {len(runs)} ended: {runs[-1]}", flush=True)
            left = [path.name for path in here.rglob(".*") if path.name != ".lock"]
            print(f"  left over: {left or 'nothing'}", flush=True)
    same = sum(all(run.values()) for run in runs)
    whole = sum(not kill.damaged for kill in kills)
    print(
        f"{len(kills)} kills in {len(runs)} runs; {whole} left every file whole; {same} runs equal"
    )
    results = {
        "config": CONFIG.strip().splitlines(),
        "seed": seed,
        "seconds_undisturbed": round(seconds, 1),
        "kills": [asdict(kill) for kill in kills],
        "runs_equal_to_the_undisturbed": runs,
    }
    _measure.write("kill", results)
    if same < len(runs) or whole < len(kills):
        raise SystemExit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
