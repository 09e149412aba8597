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
Random members of each family are then measured, in four turns, in turn with one and the same
member; a time is the least of four passes, counted in the core's own time, so that other work on
the machine is not in it, but its use of caches and memory is. One thread, batch 1.

The bars are: Kendall's tau of at least 0.95, a mean error of at most 7 %, at most 60 s of building,
and a query in at most 0.1 % of a measured forward pass.

## What the clock can tell

Two of the turns against the other two say how far any prediction could agree: that *repeat noise*
is of the machine, which was shared (*load* is the mean length of its queue on two cores). The
median of all four, with which predictions are compared, has about 0.7 of it.
"""
WORDS = """
*Uniform* draws every member of the family alike. Where choices are many, most of these are deep and
middling: their *spread* (standard deviation as a share of the mean) is small, and they are hard to
rank. *By size* draws members whose choices are all near one level, from the smallest to the
largest. *Error* is the mean absolute error in percent of the latency; behind it stands the error
that is left after one factor for all members, which a machine needs whose speed has changed since
the building (*drift*: what the reference member took while comparing, over what it took while
building). *Building* is the core's own time; the wall clock, with the work of others, is behind it.
*Query* is the time of one prediction for a member that was not asked for before; behind it, in
percent of the median forward pass. A tau or error that is missed counts as *within noise* where two
halves of the measurements agree with each other no better than the prediction does.
"""
DRAWN = {"uniform": "uniform", "by_size": "by size"}
PREDICTORS = {"table": "`latency_table`", "fit": "`fit_latency`"}


def lines() -> Iterator[str]:
    yield HEAD
    found: dict[str, Any] = json.loads(RESULTS.read_text())["results"] if RESULTS.is_file() else {}
    if not found:
        yield "No results are stored: run `python benchmarks/latency_fit.py`.\n"
        return
    columns = "family runtime drawn members median_ms spread repeat_noise repeat_tau load drift"
    yield f"| {columns.replace(' ', ' | ').replace('_', ' ')} |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for case, row in found.items():
        for key, name in DRAWN.items():
            drawn = row[key]
            yield (
                f"| {named(case)} | {name} | {drawn['archs']} | {drawn['median_ms']:.2f} | "
                f"{drawn['spread_percent']:.1f} % | {drawn['repeat_noise_percent']:.1f} % | "
                f"{drawn['repeat_tau']:.3f} | {row['load']:.1f} | {row['reference_drift']:.2f} |"
            )
    yield "\n## What is predicted\n"
    yield "| family | runtime | drawn | predictor | tau | error | building | query | bars missed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case, row in found.items():
        for key, drawn in DRAWN.items():
            for made, name in PREDICTORS.items():
                yield f"| {named(case)} | {drawn} | {name} | {figures(row, key, made)} |"
    yield WORDS
    yield "To measure again: `python benchmarks/latency_fit.py --again`.\n"


def named(case: str) -> str:
    family, runtime = case.split(".")
    return f"{family} | {RUNTIMES[runtime]}"


def figures(row: Mapping[str, Any], drawn: str, made: str) -> str:
    building, one = row[made], row[drawn][made]
    built = f"{building['building_core_s']:.0f} s ({building['building_wall_s']:.0f} s)"
    query = f"{one['query_us']:.1f} µs ({one['query_percent']:.2g} %)"
    error = f"{one['mape']:.1f} % ({one['mape_drift_free']:.1f} %)"
    return f"{one['tau']:.3f} | {error} | {built} | {query} | {missed(row, drawn, made)}"


def missed(row: Mapping[str, Any], drawn: str, made: str) -> str:
    """Name the bars that were missed, and those of them that noise alone would make one miss."""
    one, noise = row[drawn][made], row[drawn]
    bars = {
        "tau": (one["tau"] >= TAU, one["tau"] >= noise["repeat_tau"]),
        "error": (one["mape"] <= MAPE, one["mape"] <= noise["repeat_noise_percent"]),
        "building": (row[made]["building_core_s"] <= SECONDS, False),
        "query": (one["query_percent"] <= SHARE, False),
    }
    words = [
        f"{name} (within noise)" if noisy else name
        for name, (kept, noisy) in bars.items()
        if not kept
    ]
    return ", ".join(words) or "none"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(lines()).rstrip("\n") + "\n", encoding="utf-8")
