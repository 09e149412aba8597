"""The same search on one and on two Ray workers: same front, time ratio, and what is lost to kills.

A family of a small CNN is trained on the digits. Each evaluation calibrates a member's batch norm
on the training images and measures its accuracy on the validation images; both are the same in
every process. The search is then run

- without workers, which gives the front that all others must have, bit for bit;
- on one worker and on two, in turn (1 2 2 1), several rounds, with the cluster running already;
- the same with evaluations that also wait 0.6 s, as for a device elsewhere: waiting needs no core,
  so other work on the machine hardly counts;
- on two workers, of which one is killed (SIGKILL) half-way while it judges a member;
- on two workers by a driver of its own, which is killed half-way; the same call then goes on from
  the store.

Every evaluation writes a line when it begins and one when it ends, whatever process it is in, so
that what was paid twice can be counted.

    python benchmarks/workers.py            # about eight minutes; not pinned to one core
    python benchmarks/workers.py --waiting  # the part that waits, alone
    python benchmarks/workers.py --page     # write docs/results/workers.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

import manynet as mn
from _measure import prepare, write
from manynet.search import Front, Metric, RayWorkers, read_entries
from manynet.search._cluster import connected

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "workers.json"
PAGE = ROOT / "docs" / "results" / "workers.md"
EVALUATIONS, POPULATION, ROUNDS, EPOCHS = 48, 12, 3, 4
WIDTHS = (64, 128)
WAIT_S = 0.6
REFERENCE = {"accuracy": 0.0, "macs": 1e8}


@dataclass
class Noted:
    """An accuracy that writes down when each call ends, in whatever process."""

    folder: Path
    judge: Metric
    wait_s: float = 0.0
    name: str = "accuracy"
    higher_is_better: bool = True
    fingerprint: str = "validation images of the digits"

    def __call__(self, member: nn.Module) -> float:
        """Return the accuracy of a member."""
        found = self.judge(member)
        time.sleep(self.wait_s)
        note(self.folder, "end")
        return found


def note(folder: Path, line: str) -> None:
    with (folder / f"calls-{os.getpid()}").open("a") as file:
        file.write(f"{line} {time.time()}\n")


def calls(folder: Path, what: str) -> list[float]:
    """Return when evaluations have begun, or ended, in all processes."""
    lines = [line for path in folder.glob("calls-*") for line in path.read_text().splitlines()]
    return [float(when) for kind, when in map(str.split, lines) if kind == what]


@dataclass
class Bench:
    """The family and its data, and the search that is run again and again."""

    family: mn.Family
    data: Any
    wait_s: float = 0.0

    @classmethod
    def trained(cls, folder: Path) -> Bench:
        """Train the family, or load it where it was saved."""
        data = mn.load_data("digits", seed=0)
        torch.manual_seed(0)
        model = mn.build("manynet:small_cnn", widths=WIDTHS)
        if (folder / "family.json").is_file():
            return cls(mn.load(folder, model=model), data)
        family = mn.elastic(model, data.example_inputs(), width=(0.25, 0.5, 0.75, 1.0))
        mn.train(family, data.train, epochs=EPOCHS, seed=0)
        family.save(folder)
        return cls(family, data)

    def search(self, workers: int | RayWorkers, notes: Path, **more: Any) -> Front:
        """Search; each evaluation is noted in a folder."""
        data = self.data

        def calibrated(member: nn.Module) -> nn.Module:
            note(notes, "begin")
            return mn.calibrate(member, data.train, batches=24)

        return mn.search(
            self.family,
            Noted(notes, mn.accuracy(data.val), self.wait_s),
            costs=[mn.macs()],
            evaluations=EVALUATIONS,
            population=POPULATION,
            calibrate=calibrated,
            workers=workers,
            seed=0,
            **more,
        )

    def timed(self, workers: int) -> tuple[Front, dict[str, float]]:
        """Search, and return seconds, cores' seconds, and how many evaluations were under way."""
        with tempfile.TemporaryDirectory() as notes:
            start, core = time.perf_counter(), core_seconds()
            front = self.search(workers, Path(notes))
            seconds, core = time.perf_counter() - start, core_seconds() - core
            inside = sum(calls(Path(notes), "end")) - sum(calls(Path(notes), "begin"))
        return front, {"s": seconds, "core_s": core, "in_flight": inside / seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", action="store_true", help="write the page of what is stored")
    parser.add_argument("--waiting", action="store_true", help="measure the part that waits, alone")
    parser.add_argument("--drive", nargs=2, metavar=("FAMILY", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.page:
        PAGE.write_text(page(json.loads(RESULTS.read_text())["results"]), encoding="utf-8")
        return
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 gives way to all other work
    prepare()
    if options.drive:
        drive(*map(Path, options.drive))
        return
    with tempfile.TemporaryDirectory() as name:
        if options.waiting:
            found = json.loads(RESULTS.read_text())["results"]
            bench = Bench.trained(Path(name) / "family")
            write("workers", found | {"waiting": waiting(bench, essence(bench.timed(0)[0]))})
        else:
            write("workers", measured(Path(name)))


def drive(family: Path, folder: Path) -> None:
    """Search on two workers, with a store."""
    front = Bench.trained(family).search(2, folder, store=folder / "evaluations.sqlite")
    (folder / "front.json").write_text(json.dumps(essence(front)))


def measured(folder: Path) -> dict[str, Any]:
    """Run all of it."""
    load = psutil.getloadavg()
    bench = Bench.trained(folder / "family")
    bench.timed(0)  # counts the layers' costs, which are looked up later
    alone, took = bench.timed(0)
    alone_s = took["s"]
    print(f"without workers: {alone_s:.1f} s, {len(alone)} on the front", flush=True)
    wanted = essence(alone)
    result: dict[str, Any] = {
        "cores": len(os.sched_getaffinity(0)),
        "load_before": [round(value, 2) for value in load],
        "members": bench.family.space.count,
        "evaluations": EVALUATIONS,
        "front": len(alone),
        "hypervolume": alone.hypervolume(REFERENCE),
        "seconds_without_workers": round(alone_s, 2),
        "rounds": rounds(bench, wanted, ROUNDS),
        "waiting": waiting(bench, wanted),
        "worker_killed": worker_killed(bench, folder / "worker", wanted),
        "driver_killed": driver_killed(folder / "family", folder / "driver", wanted),
    }
    result["load_after"] = [round(value, 2) for value in psutil.getloadavg()]
    return result


def essence(front: Front) -> list[Any]:
    """Return what two fronts must agree in: every evaluation in its order, and all its values."""
    return [[r.arch.to_json(), r.quality, dict(r.costs)] for r in front.history]


def waiting(bench: Bench, wanted: list[Any]) -> list[dict[str, Any]]:
    """Search with evaluations that wait for something else, too."""
    return rounds(dataclasses.replace(bench, wait_s=WAIT_S), wanted, 1)


def rounds(bench: Bench, wanted: list[Any], count: int) -> list[dict[str, Any]]:
    """Search on one and on two workers in turn; the cluster runs already, and has warmed up."""
    found = []
    begun = time.perf_counter()
    with connected(RayWorkers(2), 256 * 2**20):
        print(f"starting Ray: {time.perf_counter() - begun:.1f} s", flush=True)
        bench.timed(2)  # workers import what they need
        for number in range(count):
            times: dict[int, list[dict[str, float]]] = {1: [], 2: []}
            same = True
            for workers in (1, 2, 2, 1):
                front, took = bench.timed(workers)
                times[workers].append(took)
                same &= essence(front) == wanted
            row: dict[str, Any] = {"same": same, "load": round(psutil.getloadavg()[0], 2)}
            for workers, name in ((1, "one"), (2, "two")):
                for key in times[workers][0]:
                    mean = statistics.mean(one[key] for one in times[workers])
                    row[f"{name}_{key}"] = round(mean, 2)
            print(f"round {number + 1}: {row}", flush=True)
            found.append(row)
    return found


def core_seconds() -> float:
    """Return the seconds that cores have worked for this process and its cluster's workers."""
    here = psutil.Process()
    own = [one for one in here.children(recursive=True) if is_worker(one)]
    return sum(sum(one.cpu_times()[:2]) for one in [here, *own])


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a worker of Ray, busy or idle."""
    line = process.cmdline()
    return bool(line) and line[0].startswith(("ray::judge", "ray::IDLE"))


def worker_killed(bench: Bench, folder: Path, wanted: list[Any]) -> dict[str, Any]:
    """Kill a worker that judges a member, half-way."""
    folder.mkdir()
    killed: list[int] = []

    def kill(done: int, total: int, info: Mapping[str, float]) -> None:
        if done >= total // 2 and not killed and (busy := judging()):
            busy[0].send_signal(signal.SIGKILL)
            killed.append(done)

    front = bench.search(2, folder, progress=kill, store=folder / "evaluations.sqlite")
    result = {
        "killed_after": killed[0] if killed else None,
        "same": essence(front) == wanted,
        "hypervolume": front.hypervolume(REFERENCE),
        "begun": len(calls(folder, "begin")),
        "ended": len(calls(folder, "end")),
    }
    print(f"a worker killed: {result}", flush=True)
    return result


def judging() -> list[psutil.Process]:
    """Return the workers of this process's cluster that judge a member now."""
    children = psutil.Process().children(recursive=True)
    return [one for one in children if one.cmdline() and one.cmdline()[0] == "ray::judge"]


def driver_killed(family: Path, folder: Path, wanted: list[Any]) -> dict[str, Any]:
    """Kill the process that searches, half-way, and begin again with its store."""
    folder.mkdir()
    command = [sys.executable, __file__, "--drive", str(family), str(folder)]
    driver = subprocess.Popen(command)
    wait(lambda: len(calls(folder, "end")) >= EVALUATIONS // 2, driver)
    driver.kill()
    driver.wait()
    time.sleep(5)  # what it started ends with it
    stored = {entry.arch for entry in read_entries(folder / "evaluations.sqlite")
              if entry.metric == "accuracy"}  # fmt: skip
    begun, ended = len(calls(folder, "begin")), len(calls(folder, "end"))
    subprocess.run(command, check=True)
    result = {
        "begun_before": begun,
        "ended_before": ended,
        "stored_before": len(stored),
        "begun_after": len(calls(folder, "begin")) - begun,
        "same": json.loads((folder / "front.json").read_text()) == json.loads(json.dumps(wanted)),
    }
    print(f"the driver killed: {result}", flush=True)
    return result


def wait(true: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait until something is so, while a process runs."""
    while not true():
        if process.poll() is not None:
            raise SystemExit("the driver ended before it was killed")
        time.sleep(0.02)


def page(found: Mapping[str, Any]) -> str:
    """Return the page."""
    rows = found["rounds"]
    ratios = sorted(row["two_s"] / row["one_s"] for row in rows)
    worker, driver = found["worker_killed"], found["driver_killed"]
    named = [
        *((str(number), row) for number, row in enumerate(rows, start=1)),
        *(("waiting", row) for row in found["waiting"]),
    ]
    words = {
        "median": statistics.median(ratios),
        "least": ratios[0],
        "most": ratios[-1],
        "numbered": len(rows),
        "at_once": statistics.median(row["two_in_flight"] for row in rows),
        "cores_one": statistics.median(row["one_core_s"] / row["one_s"] for row in rows),
        "cores_two": statistics.median(row["two_core_s"] / row["two_s"] for row in rows),
        "core": statistics.median(row["two_core_s"] / row["one_core_s"] for row in rows),
        "same": sum(row["same"] for _, row in named),
        "rounds": len(named),
        "wait_s": WAIT_S,
        "waiting": statistics.median(row["two_s"] / row["one_s"] for row in found["waiting"]),
        "evaluations": found["evaluations"],
        "worker_after": worker["killed_after"],
        "worker_same": said(worker["same"]),
        "worker_again": worker["begun"] - worker["ended"],
        "driver_same": said(driver["same"]),
        "driver_again": driver["begun_before"] + driver["begun_after"] - found["evaluations"],
        **{key: value for key, value in driver.items() if key != "same"},
    }
    table = [
        f"| {name} | {side(row, 'one')} | {side(row, 'two')} | "
        f"{row['two_s'] / row['one_s']:.3f} | {said(row['same'])} | {row['load']:.1f} |"
        for name, row in named
    ]
    load = " ".join(f"{value:g}" for value in found["load_before"])
    each = 1e3 * found["seconds_without_workers"] / found["evaluations"]
    head = HEAD.format(**found, load=load, each=each)
    return "\n".join([head, *TABLE, *table, REST.format(**words)])


def side(row: Mapping[str, Any], name: str) -> str:
    """Return the seconds of a search, what was under way at once, and how many cores it got."""
    seconds = row[f"{name}_s"]
    at_once, cores = row[f"{name}_in_flight"], row[f"{name}_core_s"] / seconds
    return f"{seconds:.1f} | {at_once:.2f} | {cores:.2f}"


def said(same: bool) -> str:
    return "yes" if same else "**no**"


HEAD = """# Search on workers

<!-- Written by benchmarks/workers.py --page from benchmarks/results/workers.json. -->

A family of a small CNN on the digits ({members:,} members) is searched with {evaluations}
evaluations of NSGA-II: each calibrates a member and measures its accuracy. Without workers that
takes {seconds_without_workers:.1f} s here, {each:.0f} ms an evaluation. On one and on two Ray
workers, of the same priority (Ray gives its own a lower one, unless `RAY_worker_niceness=0` says
otherwise), it was then run in turn, with the cluster running already. The machine has {cores}
cores, and its load before (mean length of the queue over 1, 5 and 15 minutes) was {load}; where
that is not far below the number of cores, the ratio is of what other work left to each side.
"""
TABLE = (
    "| round | one, s | at once | cores | two, s | at once | cores | ratio | same fronts | load |",
    "|---|---|---|---|---|---|---|---|---|---|",
)
REST = """
Each round is 1 2 2 1. *At once* is how many evaluations were under way in the mean, *cores* is how
many the scheduler gave to the search, its workers included.

The median ratio of the first {numbered} rounds is **{median:.3f}** ({least:.3f} to {most:.3f});
0.5 would be two workers that never wait, on two free cores. With two, {at_once:.1f} evaluations
were under way in the mean, and they got {cores_two:.2f} cores together, where one had got
{cores_one:.2f}; the work itself took {core:.2f} times the core seconds.

With evaluations that also wait {wait_s:g} s, as for a device elsewhere, which needs no core, the
ratio is **{waiting:.3f}**. In {same} of {rounds} rounds all fronts were those without workers:
every evaluation, its order and its values.

## Killed

| what was killed (SIGKILL) | when | front unchanged | evaluations begun again |
|---|---|---|---|
| a worker, while it judged | after {worker_after} | {worker_same} | {worker_again} |
| the process that searches | after {stored_before} | {driver_same} | {driver_again} |

When the searching process was killed, {begun_before} evaluations had begun, {ended_before} had
ended and {stored_before} were in the store. The same call then began {begun_after} more: those that
were missing, and none that was stored. What a worker has ended, but the process has not yet stored,
counts as under way.

`python benchmarks/workers.py` measures it again; [Many workers](../how-to/cluster.md) says how to
use them.
"""


if __name__ == "__main__":
    main()
