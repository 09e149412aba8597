"""The parts of the page that are words and tables; every text of the run is escaped here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import yaml

from manynet.deploy import FileRecord, Manifest
from manynet.errors import InputError
from manynet.report._format import (
    bytes_text,
    cost_amount,
    cost_label,
    cost_text,
    count_text,
    kinds,
    quality_text,
    significant,
)
from manynet.report._read import Record, Run, cost_names
from manynet.space import Value

__all__ = [
    "became_elastic",
    "details",
    "environment",
    "exports",
    "front_table",
    "headline",
    "largest_arch",
    "model_name",
    "note",
    "section",
    "table",
]


def section(name: str, title: str, lead: str, body: str) -> str:
    """Return a titled part of the page; `lead` and `body` are HTML."""
    return (
        f'<section id="{name}" aria-labelledby="{name}-title">'
        f'<h2 id="{name}-title">{title}</h2>\n'
        + (f'<p class="lead">{lead}</p>\n' if lead else "")
        + f"{body}\n</section>"
    )


def note(text: str) -> str:
    """Return one line in the place of a figure that cannot be drawn; `commands` stand apart."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return f'<p class="note">{marked}</p>'


def details(summary: str, body: str) -> str:
    """Return a part that opens on a click."""
    return f'<details class="fold"><summary>{escape(summary)}</summary>{body}</details>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: int, label: str) -> str:
    """Return a table that scrolls on its own; its last `numbers` columns are right-aligned."""
    first = len(header) - numbers

    def cell(tag: str, place: int, text: str) -> str:
        kind = "number" if place >= first else "name"
        scope = ' scope="col"' if tag == "th" else ""
        return f'<{tag}{scope} class="{kind}">{escape(text)}</{tag}>'

    head = "".join(cell("th", i, text) for i, text in enumerate(header))
    body = "\n".join(
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def model_name(run: Run) -> str:
    """Return what the family was made of: `resnet18` of `torchvision:resnet18`."""
    source = run.family.get("source") or _configured(run).get("model") or ""
    if isinstance(source, Mapping):
        source = source.get("name", "")
    return str(source).partition("?")[0].rpartition(":")[2].rpartition("/")[2] or "the network"


def _configured(run: Run) -> dict[str, Any]:
    try:
        config = yaml.safe_load(run.config)
    except yaml.YAMLError:
        return {}
    return config if isinstance(config, dict) else {}


def largest_arch(run: Run) -> dict[str, Value]:
    """Return the largest arch of the space; without a space, the costliest of the front."""
    if run.space is not None:
        return dict(run.space.largest)
    return dict(_ends(run.front)[1].arch) if run.front else {}


def _ends(records: Sequence[Record]) -> tuple[Record, Record]:
    cost = next(iter(cost_names(records)), "")
    ordered = sorted(records, key=lambda record: record.costs.get(cost, 0.0))
    return ordered[0], ordered[-1]


def headline(run: Run) -> str:
    """Say what came out: the family, its ends, its span, and what that does not say."""
    if not run.front:
        return _headline_before(run)
    name = model_name(run)
    count = _count(run)
    title = f"{name}: one set of weights" + (f", {count_text(count)} networks" if count else "")
    cards = "\n".join(
        f'<li><p class="label">{escape(label)}</p><strong>{escape(value)}</strong>'
        f"<small>{escape(more)}</small></li>"
        for label, value, more in _cards(run)
    )
    return (
        f"<h1>{escape(title)}</h1>\n"
        f'<p class="made">{escape(_made(run))}{_exported(run)}</p>\n'
        f'<ul class="cards">{cards}</ul>\n'
        f'<p class="limits">{escape(_limits(run))}</p>'
    )


def _headline_before(run: Run) -> str:
    """Say what is in the making, before a member was judged."""
    count = _count(run)
    title = model_name(run) + (
        f": one set of weights, {count_text(count)} networks" if count else ""
    )
    return f"<h1>{escape(title)}</h1>\n" + (
        f'<p class="made">{escape(_made(run))}</p>' if run.space is not None else ""
    )


def _count(run: Run) -> int | None:
    """Return how many members the family has, where that can be told."""
    try:
        return None if run.space is None else run.space.count
    except InputError:
        return None


def _made(run: Run) -> str:
    names = run.space.names if run.space is not None else list(run.front[0].arch)
    groups = [
        f"{kind} ({len(found)} {'choice' if len(found) == 1 else 'choices'})"
        for kind, found in kinds(names).items()
    ]
    data = _configured(run).get("data")
    if isinstance(data, Mapping):
        data = data.get("name")
    trained = f" Trained once on {data}; every" if data else " Every"
    return (
        f"Elastic in {_listed(groups)}.{trained} member reads the same weights, "
        "so taking one out needs no training."
    )


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _exported(run: Run) -> str:
    if not run.exports:
        return ""
    members = "member was" if len(run.exports) == 1 else "members were"
    names = _listed([escape(_with_quality(*item)) for item in _by_cost(run)])
    return f' {len(run.exports)} {members} exported: <a href="#exports">{names}</a>.'


def _with_quality(name: str, manifest: Manifest) -> str:
    if manifest.quality is None:
        return name
    return f"{name} ({quality_text(manifest.metric or '', manifest.quality)})"


def _by_cost(run: Run) -> list[tuple[str, Manifest]]:
    """Return the exported members, the cheapest first."""
    cost = next(iter(cost_names(run.front)), "")
    return sorted(run.exports.items(), key=lambda item: item[1].costs.get(cost, 0.0))


def _cards(run: Run) -> list[tuple[str, str, str]]:
    known = [
        *run.front,
        *(one for one in run.evaluated if one.costs.keys() == run.front[0].costs.keys()),
    ]
    space = run.space
    small, large = _ends(run.front)
    words = ["Smallest on the front", "Largest on the front"]
    if space is not None:
        at = {frozenset(record.arch.items()): record for record in reversed(known)}
        exact = [at.get(frozenset(arch.items())) for arch in (space.smallest, space.largest)]
        small, large = exact[0] or small, exact[1] or large
        words = [
            short if found else word
            for short, found, word in zip(
                ("Smallest member", "Largest member"), exact, words, strict=True
            )
        ]
    cost = next(iter(cost_names(run.front)), "")
    cards = [
        (word, quality_text(one.metric, one.quality), _cost_line(one))
        for word, one in ((words[1], large), (words[0], small))
    ]
    if cost and small.costs[cost] > 0:
        span = large.costs[cost] / small.costs[cost]
        ends = f"{cost_text(cost, small.costs[cost])} to {cost_text(cost, large.costs[cost])}"
        cards.append((f"Span in {cost_label(cost).title}", f"{significant(span)} times", ends))
    judged = f"of {len(run.evaluated):,} judged" if run.evaluated else "none beaten by another"
    cards.append(("Members on the front", f"{len(run.front):,}", judged))
    return cards


def _cost_line(record: Record) -> str:
    return " · ".join(cost_text(name, value) for name, value in [*record.costs.items()][:2])


def _limits(run: Run) -> str:
    """Say in one sentence what the figures of the page do not show."""
    metric = run.front[0].metric
    parts = [f"{metric} is that of the inherited weights on the data the search judged with"]
    if any("latency" in name for name in run.front[0].costs):
        parts.append("latency holds for the machine and thread count it was taken on")
    judged, count = len(run.evaluated), _count(run)
    if judged and count is not None and count > judged:
        parts.append(
            f"{judged:,} of {count_text(count)} members were judged, so a better one may exist"
        )
    else:
        parts.append("members that were not judged may be better")
    text = "; ".join(parts)
    return f"Limits: {text}."


def front_table(run: Run) -> str:
    """Return every member of the front as a table that opens on a click."""
    if not run.front:
        return ""
    names = cost_names(run.front)
    header = ["#", run.front[0].metric, *(cost_label(name).title for name in names)]
    rows = [
        [
            str(place),
            quality_text(one.metric, one.quality),
            *(cost_amount(name, one.costs[name]) for name in names),
        ]
        for place, one in enumerate(run.front, start=1)
    ]
    listing = table(header, rows, len(header) - 1, "All members of the front")
    return details(f"All {len(run.front)} members of the front as a table", listing)


def exports(run: Run, *, link: bool = False) -> str:
    """Return a card for each exported member, the cheapest first; its files may be links."""
    cards = "".join(_export(name, manifest, link=link) for name, manifest in _by_cost(run))
    return f'<div class="members">{cards}</div>'


def _export(name: str, manifest: Manifest, *, link: bool) -> str:
    metric = manifest.metric or "accuracy"
    facts = [(cost_label(cost).title, cost_amount(cost, v)) for cost, v in manifest.costs.items()]
    if manifest.quality is not None:
        facts.insert(0, (metric, quality_text(metric, manifest.quality)))
    listed = "".join(f"<dt>{escape(word)}</dt><dd>{escape(text)}</dd>" for word, text in facts)
    where = f"members/{quote(name)}/" if link else ""
    files = "".join(_file(file, metric, where) for file in manifest.files)
    return (
        f'<article class="member"><h3>{escape(name)}</h3><dl>{listed}</dl>'
        f'<ul class="files">{files}</ul></article>'
    )


def _file(file: FileRecord, metric: str, where: str) -> str:
    """Return a file's name, size and what was measured on it; a link to it if `where` is given."""
    words = [f"{file.format}, {bytes_text(file.bytes)}"]
    if file.quality is not None:
        words.append(f"{quality_text(metric, file.quality)} {metric}")
    text = escape(", ".join(words))
    if file.difference is not None:
        good = file.tolerance is None or file.difference <= file.tolerance
        kind = "good" if good else "bad"
        gap = f"off by at most {file.difference:.1e}" if file.difference else "equal to the member"
        text += f', <span class="{kind}">{gap}</span>'
    code = f"<code>{escape(file.name)}</code>"
    if where:
        code = f'<a href="{escape(where + quote(file.name))}" download>{code}</a>'
    return f"<li>{code}{text}</li>"


def became_elastic(run: Run) -> str:
    """Return what became elastic, what did not, and why, as the family's report had it."""
    report = run.family.get("report")
    if not isinstance(report, Mapping):
        return ""
    titles = {"elastic": "elastic", "fixed": "fixed", "warnings": "warning"}
    rows = [
        [word, *(str(cell) for cell in row)]
        for part, word in titles.items()
        for row in report.get(part, [])
    ]
    listing = table(["", "what", "how or why"], rows, 0, "What became elastic")
    fixed = sum(row[0] == "fixed" for row in rows)
    return details(f"What became elastic and what did not ({fixed} fixed)", listing)


def environment(values: Mapping[str, Any]) -> str:
    """Return the machine and the versions as a table."""
    rows = [[name, _plain(value)] for name, value in _flat(values)]
    return table(["what", "value"], rows, 0, "Environment of the run")


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
