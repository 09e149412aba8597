"""The page `docs/results/transformers-survey.md`, from the results of `transformers_survey.py`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["write_page"]

PAGE = Path(__file__).parent.parent / "docs" / "results" / "transformers-survey.md"
Row = Mapping[str, Any]

_HEAD = """# Survey of transformers

Every model type of `AutoModel`'s mapping in `transformers` {version}, made small and given to
`mn.elastic` as it is. `python benchmarks/transformers_survey.py` measures it and writes this page.

A type's default config is made smaller by the names of its attributes (widths, heads, depths,
vocabularies, images), the model is built from it with random weights, and inputs are found by the
names of its arguments and by trying; nothing of this is written for one model. It is a **correct
family** if all checks of [the coverage table](coverage.md) hold, depth or heads being elastic as
well as widths, and at least half of the parameters removable. A type *does not build* where no
smaller config is valid or more than 60 million parameters are left, and *does not run* where none
of the inputs that are tried fits. `AutoModel` is the model without its head: its hidden states are
outputs, which are never cut, so that the width of the residual stream stays whole in most rows.

A choice is one of heads where it is called so, or where it counts groups of a linear layer's rows,
each of several, as the heads of a query do.

A model that its config freezes trains for the checks. The order in which types are checked is
shuffled and the same in every run; `--failed` checks again what was no correct family, and other
rows are as they were when their type was last checked.
"""


def write_page(results: Mapping[str, Row], types: Sequence[str]) -> None:
    """Write the page, and print its figures."""
    import transformers

    lines = list(_lines(results, types))
    PAGE.write_text(_HEAD.format(version=transformers.__version__) + "\n".join(lines) + "\n")
    print("\n".join(lines[: lines.index("")]))


def _lines(results: Mapping[str, Row], types: Sequence[str]) -> Iterator[str]:
    stages = Counter(row["stage"] for row in results.values())
    good = sum(not row["reason"] for row in results.values())
    runs = stages["family"]
    built = runs + stages["run"]
    yield "| | model types | correct families |"
    yield "|---|---|---|"
    yield f"| in the mapping | {len(types)} | |"
    yield f"| checked | {len(results)} | {_share(good, len(results))} |"
    yield f"| build small | {built} | {_share(good, built)} |"
    yield f"| run on the inputs tried | {runs} | {_share(good, runs)} |"
    yield ""
    yield "## Reasons\n"
    yield "| why no correct family | types |"
    yield "|---|---|"
    for reason, names in _classes(results):
        yield f"| {_escaped(reason)} | {len(names)}: {', '.join(_escaped(n) for n in names)} |"
    yield "\n## Types\n"
    yield "| type | class | parameters | inputs | result | choices | removable |"
    yield "|---|---|---|---|---|---|---|"
    for name in sorted(results):
        yield _row(name, results[name])


def _share(part: int, whole: int) -> str:
    return f"**{part}** ({part / whole:.1%})" if whole else "0"


def _classes(results: Mapping[str, Row]) -> list[tuple[str, list[str]]]:
    """Return the types that fail by the reason without its numbers and names, most first."""
    classes: dict[str, list[str]] = {}
    for name in sorted(results):
        row = results[name]
        if row["reason"]:
            classes.setdefault(_class(row), []).append(name)
    return sorted(classes.items(), key=lambda item: (-len(item[1]), item[0]))


def _class(row: Row) -> str:
    if row["stage"] != "family":
        return f"does not {row['stage']}"
    reason = re.sub(r"'[^']*'", "…", row["reason"])
    reason = re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?%?", "N", reason)
    return reason[:70]


def _row(name: str, row: Row) -> str:
    count = f"{row['parameters']:,}" if "parameters" in row else ""
    removable = f"{row['removable']:.0%}" if "removable" in row else ""
    given = ", ".join(row.get("given", ()))
    return (
        f"| {_escaped(name)} | {row.get('class', '')} | {count} | {_escaped(given)} "
        f"| {_verdict(row)} | {_choices(row)} | {removable} |"
    )


def _verdict(row: Row) -> str:
    if row["reason"]:
        stage = "" if row["stage"] == "family" else f"does not {row['stage']}: "
        return f"✗ {stage}{_escaped(row['reason'][:160])}"
    notes = ["²"] if row["precision"] == "float64" else []
    notes += [row["export"]] if row["export"] != "equal" else []
    return " ".join(["✓", *notes])


def _choices(row: Row) -> str:
    if "widths" not in row:
        return ""
    kinds = [f"{row[kind]} {kind}" for kind in ("widths", "depths", "heads") if row[kind]]
    return ", ".join(kinds)


def _escaped(text: str) -> str:
    text = " ".join(text.split())
    for mark in "|<*_[]":
        text = text.replace(mark, {"<": "&lt;"}.get(mark, "\\" + mark))
    return text
