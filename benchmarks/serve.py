"""A served family under a bursty load: switching members against the largest member alone.

    python benchmarks/serve.py            # trains a family first, once
    python benchmarks/serve.py --page     # writes docs/results/serve.md from the result

Two servers hold the same family; one switches members, the other serves with the best member of
the front only. Two client processes send requests at the same seeded times to one server and then
to the other, in turns (A B B A …), so that a drift of the machine's speed meets both. The rates are
multiples of what the server without switching can take, which is measured before each block. Every
answer is compared with what the member that it names computes outside the server.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import _measure
import manynet as mn

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "results" / "serve.md"
ARMS = {"switching": "in_time", "largest alone": "largest"}
SAMPLES, CLIENTS = 8, 2
CALM, BURST, PERIOD_S, BURST_S = 0.4, 2.0, 4.0, 1.0
"""Rates as multiples of the capacity without switching; each period ends with a burst."""
TARGET = 8.0
"""The latency target, as a multiple of the time that the server without switching takes for a
request when there is always one more: one over its capacity."""
CAPACITY_S = 2.0


def train(folder: Path) -> None:
    mn.run(
        "manynet:small_cnn?widths=[128,256]&depths=[3,3]",
        "digits",
        folder=folder,
        train={"epochs": 6, "batch_size": 64},
        search={"evaluations": 60, "latency_samples": 0},
        ranking={"archs": 0},
        deploy={"formats": ["safetensors"]},
    )


# -- servers -----------------------------------------------------------------------------------


class Server:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    def get(self, path: str) -> Any:
        """Return what a path answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}") as reply:
            return json.load(reply)

    def rss_mib(self) -> float:
        """Return the memory that the process holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return round(int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024, 1)


@contextlib.contextmanager
def server(run: Path, policy: str) -> Iterator[Server]:
    verb = [sys.executable, "-m", "manynet.cli", "serve", str(run)]
    command = [*verb, "--port", "0", "--policy", policy, "--max-batch", "16"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if found is None:
            raise RuntimeError("the server did not start; what it said is above")
        yield Server(process, int(found[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60) != 0:
            raise RuntimeError(f"the server ended with {process.returncode}")


# -- what is right -----------------------------------------------------------------------------


def write_wanted(run: Path, names: list[str], path: Path) -> dict[str, float]:
    """Write what each member answers to each test image, computed without a server.

    Returns the tolerance, and how far apart the two closest members are on their closest image.
    """
    import torch

    from manynet.run import saved_config, trained_family

    found = trained_family(run)
    test = mn.load_data("digits", seed=saved_config(run).seed).test
    images = torch.stack([test[n][0] for n in range(len(test))])
    labels = np.array([int(test[n][1]) for n in range(len(test))])
    wanted = {}
    for record in found.front:
        if record.arch.key in names:
            member = found.calibrated(found.family.extract(record.arch).eval())
            with torch.no_grad():
                wanted[record.arch.key] = member(images).numpy()
    pairs = [(a, b) for n, a in enumerate(names) for b in names[:n]]
    closest = min(float(np.abs(wanted[a] - wanted[b]).max(1).min()) for a, b in pairs)
    tolerance = 1e-4
    np.savez(path, images=images.numpy(), labels=labels, tolerance=tolerance, **wanted)
    return {"tolerance": tolerance, "closest_members_differ_by": closest}


# -- load --------------------------------------------------------------------------------------


def arrivals(rng: np.random.Generator, rate: float, seconds: float) -> list[float]:
    """Return the times of a Poisson process whose rate is calm, then bursts, period by period.

    It is drawn at the highest rate and thinned (Lewis and Shedler, 1979).
    """
    count = rng.poisson(BURST * rate * seconds)
    times = np.sort(rng.uniform(0.0, seconds, count))
    bursting = times % PERIOD_S >= PERIOD_S - BURST_S
    kept = bursting | (rng.uniform(size=count) < CALM / BURST)
    return [float(time) for time in times[kept]]


def clients(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run one client process a plan and return all replies."""
    command = [sys.executable, str(HERE / "_serve_client.py")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, **pipes) for _ in plans]
    for process, plan in zip(running, plans, strict=True):
        process.stdin.write(json.dumps(plan))
        process.stdin.close()
    replies = [json.load(process.stdout) for process in running]
    for process in running:
        process.wait()
    return [reply for found in replies for reply in found]


def plan_of(server: Server, wanted: Path, target_ms: float, **more: Any) -> dict[str, Any]:
    path = f"/predict?latency_ms={target_ms:.3f}"
    return {"port": server.port, "path": path, "wanted": str(wanted), **more}


def capacity(server: Server, wanted: Path, images: int, seconds: float) -> float:
    """Return the requests a second that a server takes when there is always one more."""
    rows = np.random.default_rng(0).integers(images, size=(64, SAMPLES)).tolist()
    how = {"seconds": seconds, "under_way": 8, "rows": rows}
    plans = [plan_of(server, wanted, 1e6, **how) for _ in range(CLIENTS)]
    replies = clients(plans)
    if any(reply["status"] != 200 for reply in replies):
        raise RuntimeError(f"the server refuses: {replies[0]}")
    return len(replies) / seconds


def summary(replies: list[dict[str, Any]]) -> dict[str, Any]:
    answered = [reply for reply in replies if reply["status"] == 200]
    times = sorted(reply["ms"] for reply in answered)
    members = collections.Counter(reply["member"] for reply in answered)
    by_block: dict[int, list[dict[str, Any]]] = {}
    for reply in replies:
        by_block.setdefault(reply["block"], []).append(reply)
    return {
        "requests": len(replies),
        "answered": len(answered),
        "refused": sum(reply["status"] == 503 for reply in replies),
        "failed": sum(reply["status"] not in (200, 503) for reply in replies),
        "within_target": sum(reply["within"] for reply in replies) / len(replies),
        "within_target_by_block": [
            float(np.mean([reply["within"] for reply in some])) for some in by_block.values()
        ],
        "wrong_answers": sum(not reply["right"] for reply in answered),
        "accuracy": sum(reply["hits"] for reply in answered) / len(answered) / SAMPLES,
        "ms": {f"p{q}": round(float(np.percentile(times, q)), 2) for q in (50, 90, 95, 99)},
        "mean_batch": float(np.mean([reply["batch"] for reply in answered])),
        "members": {name: count / len(answered) for name, count in members.most_common()},
    }


def measure(run: Path, seconds: float, blocks: int, seed: int) -> dict[str, Any]:
    with contextlib.ExitStack() as stack:
        servers = {arm: stack.enter_context(server(run, ARMS[arm])) for arm in ARMS}
        wanted = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "wanted.npz"
        members = servers["largest alone"].get("/members")["members"]
        checks = write_wanted(run, [one["name"] for one in members], wanted)
        with np.load(wanted) as file:
            images = len(file["images"])
        rss = {arm: [one.rss_mib()] for arm, one in servers.items()}
        found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
        rates, targets = [], []
        for block in range(blocks):
            rate = capacity(servers["largest alone"], wanted, images, CAPACITY_S)
            target_ms = TARGET * 1e3 / rate
            rates.append(rate)
            targets.append(target_ms)
            order = list(ARMS) if block % 2 == 0 else list(ARMS)[::-1]
            rng = np.random.default_rng((seed, block))
            draws = [arrivals(rng, rate / CLIENTS, seconds / blocks) for _ in range(CLIENTS)]
            rows = [rng.integers(images, size=(len(times), SAMPLES)).tolist() for times in draws]
            for arm in order:
                plans = [
                    plan_of(servers[arm], wanted, target_ms, times=times, rows=some)
                    for times, some in zip(draws, rows, strict=True)
                ]
                replies = clients(plans)
                for reply in replies:
                    reply["block"] = block
                    reply["within"] = reply["status"] == 200 and reply["ms"] <= target_ms
                found[arm] += replies
                rss[arm].append(servers[arm].rss_mib())
                share = sum(reply["within"] for reply in replies) / len(replies)
                told = f"block {block + 1}, {arm}: {100 * share:.1f} % within {target_ms:.1f} ms"
                print(f"{told}, {len(replies)} requests", flush=True)
        return {
            "seconds": seconds,
            "blocks": blocks,
            "seed": seed,
            "cores": len(os.sched_getaffinity(0)),
            "samples_a_request": SAMPLES,
            "capacity_requests_a_second": rates,
            "target_ms": targets,
            "checks": checks,
            "rss_mib": rss,
            "members": members,
            "arms": {arm: summary(replies) for arm, replies in found.items()},
        }


# -- the page ----------------------------------------------------------------------------------


def page(found: dict[str, Any]) -> str:
    """Return the page of a result."""
    a, b = (found["arms"][arm] for arm in ARMS)
    rows = [
        ("requests", *(f"{one['requests']:,}" for one in (a, b))),
        ("**within the target**", *(f"**{100 * one['within_target']:.1f} %**" for one in (a, b))),
        ("median, ms", *(f"{one['ms']['p50']:.1f}" for one in (a, b))),
        ("95th percentile, ms", *(f"{one['ms']['p95']:.1f}" for one in (a, b))),
        ("99th percentile, ms", *(f"{one['ms']['p99']:.1f}" for one in (a, b))),
        ("refused (503)", *(f"{one['refused']:,}" for one in (a, b))),
        ("failed", *(f"{one['failed']:,}" for one in (a, b))),
        ("wrong answers", *(f"{one['wrong_answers']:,}" for one in (a, b))),
        ("accuracy of the answers", *(f"{100 * one['accuracy']:.2f} %" for one in (a, b))),
        ("samples a pass", *(f"{one['mean_batch']:.1f}" for one in (a, b))),
        ("memory when ready, MiB", *(f"{found['rss_mib'][arm][0]:.0f}" for arm in ARMS)),
        ("after the first block, MiB", *(f"{found['rss_mib'][arm][1]:.0f}" for arm in ARMS)),
        ("after the last block, MiB", *(f"{found['rss_mib'][arm][-1]:.0f}" for arm in ARMS)),
    ]  # fmt: skip
    table = "\n".join(f"| {name} | {left} | {right} |" for name, left, right in rows)
    shares = [
        f"| `{one['name']}` | {100 * one['quality']:.2f} % | {one['times_ms']['1']:.2f} | "
        f"{one['times_ms']['16']:.2f} | {100 * a['members'].get(one['name'], 0.0):.1f} % |"
        for one in found["members"]
    ]
    nl = "\n"
    takes, targets = found["capacity_requests_a_second"], found["target_ms"]
    return f"""\
# Serving under a bursty load

<!-- Written by benchmarks/serve.py --page from benchmarks/results/serve.json. -->

Two servers hold the same family (a small CNN on digits); they and the clients share {found["cores"]} core(s), of
which other work took a part that came and went, so that single blocks can go either way. One
[switches members](../how-to/serve.md), the other serves with the best member of the front only. Two client processes
send requests of {found["samples_a_request"]} images at the same seeded times to both, in {found["blocks"]} blocks in
turns, {found["seconds"]:.0f} seconds to each. Before each block it is measured how many requests a second the server
without switching can take: {min(takes):.0f} to {max(takes):.0f}. The rate is {CALM:g} times that, and {BURST:g} times in
the last second of every four. The target is the time of {TARGET:g} requests
at that capacity, {min(targets):.0f} to {max(targets):.0f} ms, counted by the client from when the request was due.

| | switching | largest alone |
|---|---|---|
{table}

Each answer was compared with what the member that it names computes on its own, outside the server. They agree to
{found["checks"]["tolerance"]:g}; the two closest members differ by {found["checks"]["closest_members_differ_by"]:.2g} on
the image on which they differ least.

## Who served

| member | accuracy in the search | ms alone | ms for 16 | share of requests |
|---|---|---|---|---|
{nl.join(shares)}

Times are the server's own, measured at its start. `python benchmarks/serve.py` repeats all of it.
"""  # noqa: E501 - prose


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/serve-benchmark"))
    parser.add_argument("--seconds", type=float, default=60.0, help="of load for each server")
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write the page and measure nothing")
    given = parser.parse_args()
    if given.page:
        result = json.loads((HERE / "results" / "serve.json").read_text())["results"]
        PAGE.write_text(page(result), encoding="utf-8")
        return
    if not (given.run / "result.json").is_file():
        train(given.run)
    _measure.prepare()
    _measure.write("serve", measure(given.run, given.seconds, given.blocks, given.seed))


if __name__ == "__main__":
    main()
