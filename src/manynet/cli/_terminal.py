"""What the command line shows: progress while it works, tables when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from manynet.report import cost_label, cost_text, quality_text

if TYPE_CHECKING:
    from manynet.cost import LatencyTable
    from manynet.deploy import Manifest
    from manynet.run import Event, RunResult
    from manynet.search import Front, Record

__all__ = ["Screen", "print_front", "print_member", "print_result", "print_table"]

_ROWS = 12
"""How many members of a front are listed; the page has them all."""
_HEADS = {
    "macs": "MACs",
    "parameters": "weights",
    "bytes": "size",
    "latency_ms": "latency",
    "peak_memory": "memory",
    "kv_cache_bytes": "KV cache",
    "token_ms": "a token",
}
"""What the costs are called at the head of a narrow column."""


class Screen:
    """Shows the events of a run: bars in a terminal, a line a stage elsewhere, or nothing.

    Args:
        folder: the run's folder, named first.
        quiet: show nothing.
    """

    def __init__(self, folder: Path, *, quiet: bool = False) -> None:
        self.folder, self.quiet = folder, quiet
        self.console = Console(stderr=True, highlight=False)
        self.live = self.console.is_terminal and not quiet
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=27, no_wrap=True)),
            BarColumn(bar_width=14),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn(
                "{task.fields[text]}",
                style="dim",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=self.console,
            expand=True,
        )
        self.stages: dict[str, TaskID] = {}
        self.began: dict[str, float] = {}

    def __enter__(self) -> Screen:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.live and self.began:
            self.bars.stop()

    def tell(self, event: Event) -> None:
        """Show an event; the first one begins the picture."""
        began = self.began.setdefault(event.stage, time.monotonic())
        if self.live:
            if len(self.began) == 1 and not self.stages:
                self._head()
                self.bars.start()
            self._draw(event)
        elif not self.quiet and event.done >= event.total and event.stage not in self.stages:
            if not self.stages:
                self._head()
            self.stages[event.stage] = TaskID(0)
            text = f": {event.text}" if event.text else ""
            seconds = time.monotonic() - began
            print(f"{event.stage}{text} ({seconds:.1f} s)", file=sys.stderr, flush=True)

    def _head(self) -> None:
        self.console.print(f"Working in {self.folder}", markup=False, soft_wrap=True)

    def _draw(self, event: Event) -> None:
        words = event.stage[:1].upper() + event.stage[1:]
        if event.stage not in self.stages:
            self.stages[event.stage] = self.bars.add_task(words, total=event.total, text="")
        self.bars.update(
            self.stages[event.stage],
            completed=event.done,
            total=max(event.total, 1),
            text=event.text,
        )


def print_result(result: RunResult) -> None:
    """Print the front, the members that were shipped, and the page to open."""
    summary = result.summary
    console = Console(highlight=False)
    print_front(
        result.front, {_key(member["arch"]): name for name, member in summary["members"].items()}
    )
    console.print(_members(summary))
    metric = summary["metric"]
    ends = {
        name: found[f"test_{metric}"]
        for name, found in summary["ends"].items()
        if f"test_{metric}" in found
    }
    if ends:
        words = ", ".join(f"{name} {quality_text(metric, v)}" for name, v in ends.items())
        console.print(f"On test, of all {summary['space']:,} members: {words}.")
    console.print(f"Open {result.report} in a browser.", soft_wrap=True, style="bold")


def print_front(front: Front, shipped: Mapping[Any, str] | None = None) -> None:
    """Print the members of a front, or some spread over it where there are many."""
    console = Console(highlight=False)
    names = [name for name in _HEADS if name in front.costs]
    names += [name for name in front.costs if name not in names]
    title = f"{len(front)} members on the front"
    known = shipped or {}
    rows = _listed(front, known)
    if len(rows) < len(front):
        title += f", {len(rows)} of them here"
    table = _table(
        title, [front.metric, *(_HEADS.get(name) or cost_label(name).title for name in names), ""]
    )
    for record in rows:
        costs = [_short(name, record.costs[name]) for name in names]
        quality = quality_text(front.metric, record.quality)
        table.add_row(quality, *costs, Text(known.get(_key(record.arch), ""), style="bold"))
    console.print(table)


def print_table(found: LatencyTable) -> None:
    """Print the blocks of a latency table, and how well it predicts."""
    console = Console(highlight=False)
    table = _table("Milliseconds of the blocks", [])
    for word, side in (("place", "left"), ("block", "left"), ("timed", "right"), ("ms", "right")):
        table.add_column(word, justify=side, header_style="dim", overflow="fold")  # type: ignore[arg-type]
    for row in found.rows():
        timed = f"{row['timed']} of {row['combinations']}"
        span = f"{row['least_ms']:.3f} to {row['most_ms']:.3f}"
        table.add_row(row["path"], row["block"], timed, span)
    console.print(table)
    how = ", ".join(f"{name} {value}" for name, value in found.conditions.items())
    console.print(f"{found}\n{how}", markup=False)


def _listed(front: Front, shipped: Mapping[Any, str]) -> list[Record]:
    spread = {record.arch for record in front.pick(min(len(front), _ROWS - len(shipped)))}
    return [r for r in front if r.arch in spread or _key(r.arch) in shipped]


def _key(arch: Mapping[str, Any]) -> Any:
    return frozenset(arch.items())


def _short(name: str, value: float) -> str:
    """Return a cost as in `cost_text`, without the unit that stands at the head of its column.

    No line breaks in it: where the terminal is narrow, the heads of the columns do.
    """
    text = cost_text(name, value).removesuffix(" MACs").removesuffix(" parameters")
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _table(title: str, header: list[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for word in header:
        table.add_column(word, justify="right", header_style="dim", overflow="fold")
    return table


def _members(summary: Mapping[str, Any]) -> Table:
    table = _table("\nShipped in members/", [])
    head = ["member", summary["metric"], "on test", "MACs", "files", "differ by"]
    for number, word in enumerate(head):
        side = "left" if number in {0, 4} else "right"
        table.add_column(word, justify=side, header_style="dim", no_wrap=number != 4)  # type: ignore[arg-type]
    for name, member in summary["members"].items():
        test = member["notes"].get(f"test_{summary['metric']}")
        gaps = [gap for gap in member["files"].values() if gap is not None]
        table.add_row(
            Text(name, style="bold"),
            quality_text(summary["metric"], member["quality"]),
            "" if test is None else quality_text(summary["metric"], test),
            _short("macs", member["costs"]["macs"]) if "macs" in member["costs"] else "",
            _files(member["files"]),
            f"{max(gaps):.0e}" if gaps else "not compared",
        )
    return table


def _files(gaps: Mapping[str, float | None]) -> str:
    """Return the files that were compared with the member, and how many lie beside them."""
    main = [name for name, gap in gaps.items() if gap is not None] or list(gaps)
    rest = len(gaps) - len(main)
    return ", ".join(main) + (f" and {rest} more" if rest else "")


def _gap(difference: float) -> str:
    return f"within {difference:.0e} of the member" if difference else "equal to the member"


def print_member(run: Path, name: str, manifest: Manifest) -> None:
    """Print what a member's folder holds."""
    console = Console(highlight=False)
    folder = run / "members" / name
    quality = quality_text(manifest.metric or "quality", manifest.quality or 0.0)
    costs = ", ".join(cost_text(cost, value) for cost, value in manifest.costs.items())
    console.print(f"{name}: {manifest.metric} {quality}, {costs}", soft_wrap=True)
    for record in manifest.files:
        gap = "" if record.difference is None else f", {_gap(record.difference)}"
        size = cost_text("bytes", record.bytes)
        console.print(f"  {folder / record.name} ({size}{gap})", soft_wrap=True)
