"""Writes `docs/results/latency.md` from the stored results: `python benchmarks/latency_page.py`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "latency_fit.json"
PAGE = RESULTS.parents[2] / "docs" / "results" / "latency.md"
RUNTIMES = {"torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
TAU, MAPE, SECONDS, SHARE = 0.95, 7.0, 60.0, 0.1
HEAD = """# Predicted latency

<!-- Written by benchmarks/latency_page.py from benchmarks/results/latency_fit.json. -->

How well the latency of members that were never run is predicted from a minute of measuring:
`mn.latency_table` sums blocks that were timed alone, `mn.fit_latency` fits rates to whole members.
Random members of each family are then measured, twice, in turn with one and the same member; a
time is the least of four passes, counted in the core's own time, so that other work on the machine
is not in it. The second measurement against the first says how far any prediction could agree:
that repeat noise is of the machine, which was shared and busy. One thread, batch 1.

The bars are: Kendall's tau of at least 0.95, a mean error of at most 7 %, at most 60 s of building,
and a query in at most 0.1 % of a measured forward pass.
"""
WORDS = """
*Spread* is the standard deviation of the measured latencies, as a share of their mean: members
drawn at random differ by little where many choices average out, and are then hard to rank.
*Error* is the mean absolute error in percent of the latency; behind it stands the error that is
left after one factor for all members, which a machine needs whose speed has changed since the
building. *Building* is the core's own time; the wall clock, with the work of others, is behind it.
*Query* is the time of one prediction for a member that was not asked for before; behind it, in
percent of the median forward pass.
"""


def lines() -> Iterator[str]:
    yield HEAD
    found: dict[str, Any] = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else {}
    if not found:
        yield "No results are stored: run `python benchmarks/latency_fit.py`.\n"
        return
    yield "| family | runtime | members | median ms | spread | repeat noise | repeat tau |"
    yield "|---|---|---|---|---|---|---|"
    for case, row in found.items():
        noise, tau = row["repeat_noise_percent"], row["repeat_tau"]
        yield (
            f"| {named(case)} | {row['archs']} | {row['median_ms']:.2f} | "
            f"{row['spread_percent']:.1f} % | {noise:.1f} % | {tau:.3f} |"
        )
    yield "\n| family | runtime | predictor | tau | error | building | query | bars missed |"
    yield "|---|---|---|---|---|---|---|---|"
    for case, row in found.items():
        for key, name in (("table", "`latency_table`"), ("fit", "`fit_latency`")):
            yield f"| {named(case)} | {name} | {figures(row[key])} |"
    yield WORDS
    yield "To measure again: `python benchmarks/latency_fit.py --again`.\n"


def named(case: str) -> str:
    family, runtime = case.split(".")
    return f"{family} | {RUNTIMES[runtime]}"


def figures(row: Mapping[str, Any]) -> str:
    built = f"{row['building_core_s']:.0f} s ({row['building_wall_s']:.0f} s)"
    query = f"{row['query_us']:.0f} µs ({row['query_percent']:.2g} %)"
    error = f"{row['mape']:.1f} % ({row['mape_drift_free']:.1f} %)"
    return f"{row['tau']:.3f} | {error} | {built} | {query} | {missed(row)}"


def missed(row: Mapping[str, Any]) -> str:
    bars = {
        "tau": row["tau"] >= TAU,
        "error": row["mape"] <= MAPE,
        "building": row["building_core_s"] <= SECONDS,
        "query": row["query_percent"] <= SHARE,
    }
    return ", ".join(name for name, kept in bars.items() if not kept) or "none"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines()).rstrip("\n") + "\n", encoding="utf-8")
