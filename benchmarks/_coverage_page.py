"""The page `docs/results/coverage.md`, written from the results of `model_coverage.py`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_page"]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "coverage.md"
Rows = Mapping[str, Mapping[str, Any]]

_HEAD = """# Coverage

Which models `mn.elastic` turns into correct families, without a line written for them.
`python benchmarks/model_coverage.py` measures it and writes this page.

A model counts only if all of this holds, on random weights:

- **Right axes.** A random permutation of every elastic axis leaves its outputs unchanged.
- **The original inside.** The largest member computes what the model computes.
- **Right members.** Five random members equal their extraction, in outputs and in the gradients of
  all parameters; what a member does not have receives no gradient. Gradients are taken in training
  mode where the model itself runs in it on this input.
- **Room.** Widths are elastic and at least half of the parameters can be removed. Depth or heads
  are elastic too, where a block of the model adds its own input to its result; where the trace
  finds none, as in VGG, DenseNet or an LSTM, the table says *no block can be left out*: such a
  model counts, but not under *with depth or heads*, unless an axis of it counts heads. A
  model of `transformers` counts only with depth or heads.
- **Out again.** An extracted member loads through `state_dict`, and `torch.export` of it computes
  the same. Where the original does not export either, the table says so.

Equal means: within 1e-5 of the largest value, in single precision; where rounding alone exceeds
that, in double precision (marked ²). Torch-Pruning halves every group of the same model, with its
defaults and the last linear layer ignored; it is usable if the result runs, has at most 60 % of
the parameters, and is there within a minute. Times are the better of two turns, taken alternately
on one thread.
"""


def write_page(results: Mapping[str, Rows]) -> None:
    """Write the page."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(_lines(results)) + "\n")


def _lines(results: Mapping[str, Rows]) -> Iterator[str]:
    yield _HEAD
    yield (
        "| group | correct | with depth or heads | Torch-Pruning usable | seconds, median "
        "| Torch-Pruning's |"
    )
    yield "|---|---|---|---|---|---|"
    for group, rows in results.items():
        yield _total(f"[{group}](#{group})", list(rows.values()))
    yield _total("all", [row for rows in results.values() for row in rows.values()])
    for group, rows in results.items():
        yield f"\n## {group}\n"
        parts = {row["part"] for row in rows.values() if row.get("part")}
        if parts:
            yield f"Checked of each: {'; '.join(sorted(parts))}.\n"
        yield "| model | parameters | result | choices | removable | seconds | Torch-Pruning |"
        yield "|---|---|---|---|---|---|---|"
        for name in sorted(rows):
            yield _row(name, rows[name])


def _total(label: str, rows: list[Mapping[str, Any]]) -> str:
    good = [row for row in rows if not row["reason"]]
    deep = [row for row in good if row["depths"] or row["heads"]]
    peers = [row["torch-pruning"] for row in rows if "torch-pruning" in row]
    usable = sum(peer["usable"] is True for peer in peers)
    return (
        f"| {label} | **{len(good)} of {len(rows)}** | {len(deep)} | {usable} of {len(peers)} "
        f"| {_median([row['seconds'] for row in rows if 'seconds' in row])} "
        f"| {_median([peer['seconds'] for peer in peers])} |"
    )


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else ""


def _row(name: str, row: Mapping[str, Any]) -> str:
    peer = row.get("torch-pruning", {})
    usable = peer.get("usable")
    theirs = "" if usable is None else "usable" if usable is True else _failure(usable)
    seconds = f"{peer['seconds']:.2f} s, " if peer else ""
    own = f"{row['seconds']:.2f}" if "seconds" in row else ""
    count = f"{row['parameters']:,}" if "parameters" in row else ""
    removable = f"{row['removable']:.0%}" if "removable" in row else ""
    return (
        f"| {name} | {count} | {_verdict(row)} | {_choices(row)} | {removable} | {own} "
        f"| {seconds}{theirs} |"
    )


def _failure(usable: object) -> str:
    return "too little removed" if usable is False else _escaped(str(usable).split(":")[0])


def _verdict(row: Mapping[str, Any]) -> str:
    if row["reason"]:
        return f"✗ {_escaped(row['reason'])}"
    notes = ["²"] if row["precision"] == "float64" else []
    if row["export"] != "equal":
        notes.append(row["export"])
    if row["gradients in"] == "evaluation":
        notes.append("does not train at this size")
    return " ".join(["✓", *notes])


def _choices(row: Mapping[str, Any]) -> str:
    if "widths" not in row:
        return ""
    words = [f"{row['widths']} widths"]
    words += [f"{row[kind]} {kind}" for kind in ("depths", "heads") if row[kind]]
    if not row["depths"]:
        words.append("no block can be left out")
    return ", ".join(words)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
