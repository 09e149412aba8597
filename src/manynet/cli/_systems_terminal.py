"""The published systems in a terminal: their list, and a proof while it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from manynet.errors import StorageError
from manynet.systems import CATALOG, Measured, Result, System, built, judge, read_result

__all__ = ["Telling", "listing", "print_listing", "print_result"]


def listing(folder: Path) -> list[dict[str, Any]]:
    """Return what is known of every system, its measured figures from `folder` included."""
    return [_entry(number, built().get(number), folder) for number in CATALOG]


def _entry(number: int, system: System | None, folder: Path) -> dict[str, Any]:
    name, paper = CATALOG[number]
    entry: dict[str, Any] = {"number": number, "name": name, "paper": paper, "built": False}
    if system is None:
        return entry
    entry |= {"built": True, "year": system.year, "claim": system.claim}
    try:
        result = judge(system, read_result(folder / f"{number:02}-{name}.json"))
    except StorageError:
        return entry
    return entry | {
        "metric": result.metric,
        "ours": result.mean(result.ours),
        "baseline": result.mean(result.baseline),
        "difference": result.difference,
        "margin": result.main.required(result.arms),
        "seeds": len(result.arms[result.ours]),
        "verdict": result.verdict,
    }


def print_listing(entries: Sequence[Mapping[str, Any]]) -> None:
    """Print the figures of each system with its claim below; then those that are not built."""
    console = Console(highlight=False)
    ready = [entry for entry in entries if entry["built"]]
    widest = max((len(entry["name"]) for entry in ready), default=0)
    words = (f"{'system':<{widest}}", "measured", "baseline", "difference", "verdict (margin)")
    if ready:
        console.print("    " + _line(words), style="dim", soft_wrap=True)
    for entry in ready:
        figures = _line((f"{entry['name']:<{widest}}", *_figures(entry)))
        console.print(f"{entry['number']:02}  {figures}", soft_wrap=True)
        console.print(Padding(entry["claim"], (0, 0, 0, 4)), style="dim")
    if ready:
        console.print("Prove one with: manynet reproduce NAME", style="bold")
    missing = [f"{e['number']:02} {e['name']}" for e in entries if not e["built"]]
    if missing:
        console.print(f"Not built yet ({len(missing)}):", style="dim")
        console.print(Columns(missing, equal=True))


def _line(cells: Sequence[str]) -> str:
    name, ours, baseline, difference, verdict = cells
    return f"{name}  {ours:>8}  {baseline:>8}  {difference:>10}  {verdict}"


def _figures(entry: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if "verdict" not in entry:
        return "", "", "", "not measured"
    return (
        f"{entry['ours']:.4g}",
        f"{entry['baseline']:.4g}",
        f"{entry['difference']:+.3g}",
        f"{entry['verdict']} ({entry['margin']:+.3g})",
    )


def print_result(system: System, result: Result, path: Path) -> None:
    """Print claim, arms and verdict."""
    console = Console(highlight=False)
    console.print(f"{system.number:02} {system.name}: {system.paper}", style="bold")
    console.print(f"Claim: {result.claim}")
    table = Table(title=result.metric, title_justify="left", box=None, pad_edge=False)
    for word in ("arm", "mean", "spread", "samples", "seconds"):
        table.add_column(word, justify="left" if word == "arm" else "right", header_style="dim")
    for arm, records in result.arms.items():
        table.add_row(
            f"{arm}{' (ours)' if arm == result.ours else ''}"
            f"{' (baseline)' if arm == result.baseline else ''}",
            f"{result.mean(arm):.4g}",
            f"{result.spread(arm):.2g}",
            f"{records[0].samples_seen:,}",
            f"{sum(record.seconds for record in records):,.0f}",
        )
    console.print(table)
    thinned = "" if result.budget == 1 else f", at {result.budget:g} of the full size"
    console.print(
        f"The claim {result.verdict}: {result.difference:+.3g} against a margin of "
        f"{result.main.required(result.arms):+.3g} over "
        f"{_seeds(len(result.arms[result.ours]))}{thinned}.",
        style="bold",
    )
    for condition in result.conditions:
        console.print(
            f"  {'holds ' if result.holds(condition) else 'misses'} "
            f"{condition.figure or result.metric}: {condition.arm} against {condition.than}, "
            f"{result.difference_of(condition):+.3g}, margin "
            f"{condition.required(result.arms):+.3g}"
        )
    console.print(f"Written to {path}", style="dim", soft_wrap=True)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


class Telling:
    """Tells of arms that begin or end; of one that ran before, about how long it takes."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def __call__(self, arm: str, seed: int, measured: Measured | None) -> None:
        """Tell that an arm begins, or what was measured of it."""
        if measured is None:
            known = self._seconds.get(arm)
            about = "" if known is None else f" about {known:,.0f} s"
            words = f"{arm}, seed {seed} ...{about}"
        else:
            self._seconds[arm] = measured.seconds
            words = f"{arm}, seed {seed}: {measured.value:.4g} ({measured.seconds:,.0f} s)"
        print(words, file=sys.stderr, flush=True)
