"""Writes the pages `speed` and `speed-large` of docs/results from what is stored beside this."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PAGES = RESULTS.parents[1] / "docs" / "results"
HEAD = """# Speed

<!-- Written by benchmarks/speed_page.py from benchmarks/results. -->

Ratios of times, taken side by side in one process on one thread: each round runs A B B A, and the
median of 11 rounds stands here with its quartiles. Both sides hold the same weights, and their
outputs are compared first. Absolute times depend on the machine and are not quoted. `make bench`
measures all of it again.
"""
LARGE_HEAD = """# Speed of larger networks

<!-- Written by benchmarks/speed_page.py from benchmarks/results. -->

The same ratios as on the page [Speed](speed.md), of a ViT-small (22 M weights) and of SmolLM2-135M
with sequences of 32 tokens, in 5 rounds: `python benchmarks/speed.py --large`, and
`python benchmarks/memory.py` for the memory.

One row needs a word. At a batch of 2 a narrower copy of SmolLM2's embeddings, and that copy's
gradient, weigh much beside few activations; at batch 128 no copy does, see the page
[Speed](speed.md).
"""
Rows = Mapping[str, Any]


def stored(name: str) -> Rows:
    path = RESULTS / f"{name}.json"
    found: Rows = json.loads(path.read_text())["results"] if path.is_file() else {}
    return found


def text(value: Any) -> str:
    """Return a ratio with its quartiles, or a plain number."""
    if isinstance(value, Mapping):
        low, high = value["lower"], value["upper"]
        return f"{number(value['median'])} ({number(low)} to {number(high)})"
    return f"{value:.4f}"


def number(value: float) -> str:
    return f"{value:.2f}" if value >= 0.01 else f"{value:.5f}"


def middle(value: Any) -> float:
    return float(value["median"] if isinstance(value, Mapping) else value)


def section(title: str, words: str, bar: float, rows: Rows) -> Iterator[str]:
    """Yield a heading, what is measured, and a table that says which rows keep the limit."""
    if not rows:
        return
    kept = sum(middle(value) <= bar for value in rows.values())
    yield f"\n## {title}\n\n{words} The limit is {bar:g}; {kept} of {len(rows)} keep it.\n"
    yield "| | ratio | |\n|---|---|---|"
    for name, value in rows.items():
        yield f"| {name} | {text(value)} | {'' if middle(value) <= bar else 'above'} |"


def forward(rows: Rows) -> Iterator[str]:
    """Yield the three tables of a member against the same extracted."""
    by = {
        "forward, batch 8": (1.03, "batch 8 forward"),
        "forward, batch 4": (1.03, "batch 4 forward"),
        "forward, batch 1": (1.08, "batch 1 forward"),
        "forward and backward": (1.10, "forward and backward"),
    }
    for title, (bar, ending) in by.items():
        chosen = {
            name.removesuffix(" forward").removesuffix(" forward and backward"): value
            for name, value in rows.items()
            if name.endswith(ending)
        }
        words = "A member in its family against the same arch extracted."
        yield from section(f"Member: {title}", words, bar, chosen)


def training(rows: Rows) -> Iterator[str]:
    """Yield the tables of a training step: its time, with distillation too, and its memory."""
    words = "A sandwich step against the sum of its four members' own steps"
    memory = {name: value for name, value in rows.items() if "memory" in name}
    distilled = {name: value for name, value in rows.items() if name.endswith("distilled")}
    plain = {n: value for n, value in rows.items() if n not in memory and n not in distilled}
    yield from section("Training step", f"{words}.", 1.03, plain)
    yield from section("Training step, distilled", f"{words}, which learn alone.", 1.08, distilled)
    words = (
        "Peak memory of ten sandwich steps against the largest alone: the same four archs in each "
        "step, or two of them drawn anew. Each new shape also fills oneDNN's cache of kernels."
    )
    yield from section("Training step, memory", words, 1.10, memory)


def family(speed: Rows) -> Iterator[str]:
    """Yield the tables of R1 to R5."""
    yield from forward(speed.get("R1", {}))
    switch = {k: v for k, v in speed.get("R2", {}).items() if isinstance(v, Mapping)}
    words = (
        "`family.at` of an arch seen before, against one forward of the smallest member, batch 1."
    )
    yield from section("Switching members", words, 0.001, switch)
    for name, value in speed.get("R2", {}).items():
        if not isinstance(value, Mapping):
            yield f"\nUnder `torch.compile`, {name}: {value}."
    words = "`family.extract` against a deep copy of the extracted member."
    yield from section("Extracting", words, 1.0, speed.get("R3", {}))
    words = "The family's files with n named members against the weights of its largest member."
    yield from section("Files", words, 1.01, speed.get("R4", {}))
    yield from training(speed.get("R5", {}))


def lines() -> Iterator[str]:
    """Yield the page."""
    speed = stored("speed")
    yield HEAD
    yield from family(speed)
    words = "Recalibrating batch-norm over 8 batches against 8 plain forwards."
    yield from section("Calibrating", words, 1.10, speed.get("R7", {}))
    if "import" in speed:
        words = (
            "Against `import torch`. `import manynet` loads no torch: each name is loaded when it "
            "is first used. The last row loads every room of the main job at once."
        )
        yield from section("Import", words, 1.05, speed["import"])
    yield from bindings(dict(sorted(stored("bindings").items())))
    yield from merging(stored("federated"))
    yield from conversion()
    yield from peers(stored("peers"))
    kills = stored("kill")
    if kills:
        runs = kills["runs_equal_to_the_undisturbed"]
        equal = sum(all(run.values()) for run in runs)
        damaged = sum(len(kill["damaged"]) for kill in kills["kills"])
        yield (
            f"\n## Killed runs\n\n`python benchmarks/kill.py`: {len(kills['kills'])} times "
            f"`kill -9` at random moments of {len(runs)} runs. Runs that ended with the front, "
            f"weights, evaluations and members of an undisturbed one: {equal} of {len(runs)}. "
            f"Damaged files: {damaged}."
        )


def large() -> Iterator[str]:
    """Yield the page of the larger networks."""
    speed = stored("speed_large")
    yield LARGE_HEAD
    yield from family(speed)
    words = "`mn.elastic`, all included, against `torch.export.export` of the same model."
    yield from section("Conversion", words, 0.35, speed.get("R6", {}))
    rows = {name: row for name, row in stored("memory").items() if "peak_ratio" in row}
    if rows:
        yield (
            "\n## Conversion, memory\n\nWhat `mn.elastic` adds at its peak to a process that holds "
            "the model, as a share of the model's own bytes.\n"
        )
        yield "| | share | seconds |\n|---|---|---|"
        for name, row in rows.items():
            yield f"| {name} | {row['peak_ratio']:.2f} | {row['seconds']:.1f} |"


def bindings(rows: Rows) -> Iterator[str]:
    """Yield the tables of computed bindings: a step's time, a folded forward, and memory."""
    words = (
        "A training step (forward, backward, SGD with momentum) at batch 32 with the weights of "
        "all blocks bound, against that of a plain module of the same shapes."
    )
    for limit in sorted({row["limit"] for row in rows.values()}):
        chosen = {name: row["step"] for name, row in rows.items() if row["limit"] == limit}
        names = ", ".join(dict.fromkeys(name.split()[0] for name in chosen))
        yield from section(f"Bindings, a step: {names}", words, limit, chosen)
    words = "A forward in eval mode, where bound weights are folded, against the plain module's."
    folded = {name: row["eval"] for name, row in rows.items()}
    yield from section("Bindings, folded", words, 1.02, folded)
    words = "What ten such steps add at their peak to a process, against the plain module's steps."
    held = {name: row["memory"] for name, row in rows.items()}
    yield from section("Bindings, memory", words, 1.2, held)


def merging(rows: Rows) -> Iterator[str]:
    """Yield the table of the server's aggregation, with other ways of doing the same."""
    if not rows:
        return
    words = (
        "`manynet.federate.merge` of the updates of ten clients, 12.4 million floats or the "
        "part of them that a narrower client has, against reading what was sent once."
    )
    found = {f"{title} widths": row["merge"] for title, row in rows.items()}
    yield from section("Merging", words, 1.5, found)
    yield "\nOther ways, against the same:\n\n| | equal widths | nested widths |\n|---|---|---|"
    ways = {
        "reading, and writing as much as the result": "read_and_write",
        "a sum and a count an entry": "sum_and_count",
        "blocks in NumPy": "numpy_blocks",
        "Flower's `aggregate`": "flower_arrays",
        "Flower's `aggregate_arrayrecords`": "flower_messages",
        "manynet's running mean, eight at a time": "running_mean_8",
    }
    for label, way in ways.items():
        cells = [text(rows[t][way]) if way in rows[t] else "" for t in ("equal", "nested")]
        yield f"| {label} | {cells[0]} | {cells[1]} |"


def peers(rows: Rows) -> Iterator[str]:
    """Yield the table of what Once-for-All and manynet take for the same."""
    pairs = [name.removeprefix("ofa ") for name in rows if name.startswith("ofa ")]
    if pairs:
        yield (
            "\n## Against Once-for-All\n\nOnce-for-All's MobileNetV3, and the family that manynet "
            "makes of its largest network, each against its own extracted members.\n"
        )
        yield "| | Once-for-All | manynet |\n|---|---|---|"
        for name in pairs:
            yield f"| {name} | {text(rows[f'ofa {name}'])} | {text(rows[f'manynet {name}'])} |"


def conversion() -> Iterator[str]:
    """Yield the table of the conversion, with the peer's figures."""
    rows = stored("conversion")
    if not rows:
        return
    found = sorted(middle(row["manynet"]) for row in rows.values())
    yield (
        "\n## Conversion\n\n`mn.elastic`, all included, against `torch.export.export` of the same "
        "model; beside it Torch-Pruning's graph and halving, where the result runs. The median of "
        f"{len(found)} models is {found[len(found) // 2]:.3g}; the limit is 0.35. AlexNet and VGG "
        "hold hundreds of MB in few layers: there the copy of the weights is all of it.\n"
    )
    yield "| | manynet | Torch-Pruning |\n|---|---|---|"
    for name, row in rows.items():
        theirs = row["torch-pruning"]
        peer = text(theirs) if theirs else f"not usable ({row['torch-pruning usable']})"
        yield f"| {name} | {text(row['manynet'])} | {peer.replace('|', ' ')} |"


if __name__ == "__main__":
    PAGES.mkdir(exist_ok=True)
    for name, page in (("speed", lines()), ("speed-large", large())):
        (PAGES / f"{name}.md").write_text("\n".join(page) + "\n", encoding="utf-8")
