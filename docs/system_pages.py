"""Writes the pages of the published systems from their recipes and results: `make system-pages`.

`docs/systems/index.md` lists all fifty, `docs/systems/NN-name.md` tells of one that is built, and
`docs/assets/systems/NN-name.svg` shows its arms.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
from collections import Counter
from collections.abc import Iterator
from html import escape
from pathlib import Path

from manynet.errors import StorageError
from manynet.systems import CATALOG, Result, System, built, judge, read_result

DOCS = Path(__file__).parent
PAGES, RESULTS, DRAWINGS = DOCS / "systems", DOCS / "results", DOCS / "assets" / "systems"
WRITTEN = "<!-- Written by docs/system_pages.py; `make system-pages` renews it after a change. -->"
INTRODUCTION = f"""\
# Published systems

{WRITTEN}

Fifty published methods of weight sharing, as recipes made of manynet's rooms. Each has a proof: the
method against an honest baseline at equal cost, on real data, for several seeds. `manynet systems`
lists them in a terminal, `manynet reproduce NAME` runs a proof and prints claim, figures and
verdict: at a size meant for half an hour on two cores (`--workers 2` measures two seeds at a time),
with `--share 1` at its full size. `make prove` runs all. A claim holds where its margin is reached
and what it asks for beside is met too; one that does not appear at this scale is shown as a miss.
*Lines* are those of code in the system's own file, without blank ones, comments and docstrings;
where its proof has a file too, that one's follow after a plus. What others can
use lies in the shared rooms.

| | system | paper | measured | baseline | verdict | lines |
|---|---|---|---|---|---|---|"""


USES = """\
## What each is made of

The shared parts that each system and its proof import, by room; read from their files. In bold
those that no other of these systems uses: what it added, or what
waits for its next user.

| | system | parts |
|---|---|---|"""


def sources_of(system: System) -> list[str]:
    """Return the text of a system's own file, and of its proof's where that has one."""
    file = Path(inspect.getfile(importlib.import_module(system.module)))
    proof = file.with_name(f"_{file.stem}_proof.py")
    return [one.read_text(encoding="utf-8") for one in (file, proof) if one.is_file()]


def parts_of(system: System) -> dict[str, list[str]]:
    """Return the names that a system's files import from the other rooms, by room."""
    source = "\n".join(sources_of(system))
    tree = ast.parse(source.replace("from __future__ import annotations\n", ""))
    found: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        words = node.module.split(".") if isinstance(node, ast.ImportFrom) and node.module else []
        if words[:1] == ["manynet"] and words[1:2] not in (["systems"], ["errors"]):
            room = words[1] if len(words) > 1 and not words[1].startswith("_") else "manynet"
            found.setdefault(room, []).extend(alias.name for alias in node.names)
    return {room: sorted(set(names)) for room, names in sorted(found.items())}


def _uses() -> Iterator[str]:
    parts = {number: parts_of(system) for number, system in built().items()}
    users = Counter((r, n) for found in parts.values() for r, names in found.items() for n in names)
    for number, found in parts.items():
        rooms = []
        for room, names in found.items():
            shown = [f"**{n}**" if users[room, n] == 1 else n for n in names]
            rooms.append(f"*{room}*: {', '.join(shown)}")
        name = CATALOG[number][0]
        yield f"| {number:02} | [{name}]({number:02}-{name}.md) | {'; '.join(rooms)} |"


def result_of(system: System) -> Result | None:
    """Return the stored result of a system; None if it has not been proved."""
    try:
        return judge(system, read_result(RESULTS / f"{system.number:02}-{system.name}.json"))
    except StorageError:
        return None


def index() -> str:
    """Return the page that lists all fifty."""
    return "\n".join([INTRODUCTION, *map(row, CATALOG), "", USES, *_uses()]) + "\n"


def row(number: int) -> str:
    name, paper = CATALOG[number]
    system = built().get(number)
    if system is None:
        return f"| {number:02} | {name} | {paper} | | | not built yet | |"
    linked, result = f"[{name}]({number:02}-{name}.md)", result_of(system)
    lines = " + ".join(str(lines_of_code(source)) for source in sources_of(system))
    if result is None:
        return f"| {number:02} | {linked} | {paper} | | | not measured yet | {lines} |"
    found = f"{result.mean(result.ours):.4g} | {result.mean(result.baseline):.4g}"
    return f"| {number:02} | {linked} | {paper} | {found} | {result.verdict} | {lines} |"


def lines_of_code(source: str) -> int:
    """Return how many lines hold code: no blank ones, comments or docstrings."""
    spans = [
        (node.lineno, node.end_lineno or node.lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    ]
    words = {line for first, last in spans for line in range(first, last + 1)}
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in words
        for number, line in enumerate(source.splitlines(), start=1)
    )


def page(system: System) -> str:
    """Return the page of one system."""
    return "\n".join(_lines(system)) + "\n"


def _lines(system: System) -> Iterator[str]:
    words = inspect.getdoc(importlib.import_module(system.module)) or ""
    title, _, rest = words.partition("\n\n")
    yield f"# {system.number:02} {system.name}\n\n{WRITTEN}\n"
    yield f"**{title}**\n\n*{system.paper}*, {system.reference}.\n\n{rest.strip()}\n"
    yield f"**Claim.** {system.claim}\n"
    yield "**Made of.** " + ", ".join(system.parts) + ".\n\n## Measured\n"
    result = result_of(system)
    if result is None:
        yield f"Not measured yet; `manynet reproduce {system.name}` does it.\n"
    else:
        yield from _measured(system, result)
    yield "## On a model of your own\n\n```python\n" + system.example.strip() + "\n```"


def _measured(system: System, result: Result) -> Iterator[str]:
    seeds = len(result.arms[result.ours])
    thinned = "" if result.budget == 1 else f" All arms ran at {result.budget:g} of the full size."
    margin = f"{result.main.required(result.arms):+.3g}"
    if result.relative:
        margin += f" ({result.margin:.0%} of the baseline)"
    yield (
        f"The claim **{result.verdict}** here: `{result.ours}` against `{result.baseline}` differ "
        f"by {result.difference:+.3g} over {seeds} seeds, against a margin of {margin}; "
        f"{result.metric}.{thinned}\n"
    )
    if result.conditions:
        yield from _conditions(result)
    yield f"![{result.metric}](../assets/systems/{drawing_of(system).name})\n"
    yield "| arm | mean | spread | each seed | samples a seed | seconds a seed |"
    yield "|---|---|---|---|---|---|"
    for arm, records in result.arms.items():
        each = ", ".join(f"{record.value:.4g}" for record in records)
        seconds = sum(record.seconds for record in records) / len(records)
        yield (
            f"| {arm} | {result.mean(arm):.4g} | {result.spread(arm):.2g} | {each} "
            f"| {records[0].samples_seen:,} | {seconds:,.0f} |"
        )
    more = sorted({name for records in result.arms.values() for r in records for name in r.more})
    if more:
        yield "\n| arm | " + " | ".join(more) + " |\n|---|" + "---|" * len(more)
        for arm, records in result.arms.items():
            means = [
                sum(record.more.get(name, float("nan")) for record in records) / len(records)
                for name in more
            ]
            yield (
                f"| {arm} | "
                + " | ".join("" if math.isnan(mean) else f"{mean:.4g}" for mean in means)
                + " |"
            )
    yield f"\n`{result.command}`, {result.date}.\n"


def _conditions(result: Result) -> Iterator[str]:
    yield (
        "It also asks for the following, in means over the seeds; a positive difference is better."
        "\n"
    )
    yield "| figure | of | is | against | is | difference | margin | |"
    yield "|---|---|---|---|---|---|---|---|"
    for condition in result.conditions:
        own, other = condition.means(result.arms)
        than = f"`{condition.than}`" if isinstance(condition.than, str) else "the bound"
        if condition.other_figure is not None:
            than += f", {condition.other_figure}"
        yield (
            f"| {condition.figure or 'the metric'} | `{condition.arm}` | {own:.4g} | {than} "
            f"| {other:.4g} | {result.difference_of(condition):+.3g} "
            f"| {condition.required(result.arms):+.3g} "
            f"| {'holds' if result.holds(condition) else 'misses'} |"
        )
    yield ""


def drawing_of(system: System) -> Path:
    return DRAWINGS / f"{system.number:02}-{system.name}.svg"


def drawing(result: Result) -> str:
    """Return the arms as one line each: every seed a dot, the mean a bar."""
    values = [record.value for records in result.arms.values() for record in records]
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    low, high = low - pad, high + pad

    def across(value: float) -> float:
        return round(170 + 450 * (value - low) / (high - low), 1)

    height = 60 + 44 * len(result.arms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img" '
        f'aria-label="{escape(result.metric)}"><style>{STYLE}</style>'
        f'<rect class="ground" width="640" height="{height}" rx="10"/>',
    ]
    for tick in (low + pad, (low + high) / 2, high - pad):
        parts.append(
            f'<line class="grid" x1="{across(tick)}" x2="{across(tick)}" y1="20" '
            f'y2="{height - 46}"/><text x="{across(tick)}" y="{height - 30}" '
            f'text-anchor="middle">{tick:.4g}</text>'
        )
    for place, (arm, records) in enumerate(result.arms.items()):
        y, mean = 42 + 44 * place, across(result.mean(arm))
        kind = "ours" if arm == result.ours else "other"
        parts.append(f'<text x="156" y="{y + 4}" text-anchor="end">{escape(arm)}</text>')
        parts.append(f'<line class="{kind}" x1="{mean}" x2="{mean}" y1="{y - 13}" y2="{y + 13}"/>')
        parts += [
            f'<circle class="{kind}" cx="{across(record.value)}" cy="{y}" r="5"/>'
            for record in records
        ]
    parts.append(
        f'<text x="395" y="{height - 10}" text-anchor="middle">{escape(result.metric)}</text></svg>'
    )
    return "\n".join(parts) + "\n"


STYLE = """
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#5a6575}
.ground{fill:#fff}.grid{stroke:#dde2e9}line{stroke-width:2}circle{fill-opacity:.55}
.ours{stroke:#0b63ce;fill:#0b63ce}.other{stroke:#8a94a3;fill:#8a94a3}
@media(prefers-color-scheme:dark){text{fill:#9aa7b8}.ground{fill:#161c24}.grid{stroke:#2a333f}
.ours{stroke:#62a8ff;fill:#62a8ff}}
"""


def files() -> dict[Path, str]:
    """Return what every file of the systems should hold."""
    found = {PAGES / "index.md": index()}
    for system in built().values():
        found[PAGES / f"{system.number:02}-{system.name}.md"] = page(system)
        result = result_of(system)
        if result is not None:
            found[drawing_of(system)] = drawing(result)
    return found


def rejudge() -> None:
    """Let every stored result say what its system asks for now."""
    for system in built().values():
        result = result_of(system)
        if result is not None:
            result.write(RESULTS)


if __name__ == "__main__":
    rejudge()
    for path, text in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
