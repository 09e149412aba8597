"""The page: everything of a run in one file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Any

from manynet._version import __version__
from manynet.errors import MissingExtraError
from manynet.report import _figures as figures
from manynet.report import _sections as sections
from manynet.report._budget import Stop, rank, stops
from manynet.report._format import (
    cost_label,
    cost_text,
    quality_text,
    share,
    significant,
)
from manynet.report._read import Record, Run, cost_names
from manynet.space import Value

__all__ = ["render"]

Json = dict[str, Any]
TITLES = {
    "pick": "Members",
    "training": "Training",
    "layers": "Layers",
    "latency": "Latency",
    "ranking": "Ranking",
    "exports": "Exported",
    "about": "Run",
}


def render(run: Run) -> str:
    """Return the page of a run as HTML.

    Raises:
        MissingExtraError: plotly, which draws the figures, is not installed.
    """
    plotly, script = _plotly(), _asset("page.js")
    largest = sections.largest_arch(run)
    drawn = _drawn(run, largest)
    data = _picker(run, largest) | {"figures": drawn}
    slots = _pick_slots(run, data) | {
        "policy": _policy(plotly, script),
        "version": escape(__version__),
        "date": datetime.now(UTC).strftime("%d %B %Y"),
        "title": escape(f"{sections.model_name(run)} · manynet"),
        "style": _asset("page.css"),
        "nav": " ".join(f'<a href="#{name}">{title}</a>' for name, title in TITLES.items()),
        "headline": sections.headline(run),
        "front_table": sections.front_table(run),
        "sections": _sections(run, drawn),
        "data": _embedded(data),
        "plotly": plotly,
        "script": script,
    }
    return fill(_asset("page.html"), slots)


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Put each slot's text where the template says `{{name}}`; what is put in is not read again.

    Example:
        >>> fill("<p>{{a}}{{b}}</p>", {"a": "{{b}}", "b": "!"})
        '<p>{{b}}!</p>'
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], template)


def _asset(name: str) -> str:
    return resources.files("manynet.report").joinpath(name).read_text(encoding="utf-8")


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise MissingExtraError("plotly", "report") from error
    return str(get_plotlyjs())


def _policy(*scripts: str) -> str:
    """Return the rules a browser holds the page to: these scripts only, and no network."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    ]
    allowed = " ".join(f"'sha256-{text}'" for text in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _embedded(data: Json) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")


# -- the picker ----------------------------------------------------------------------------------


def _picker(run: Run, largest: Mapping[str, Value]) -> Json:
    """Return what the slider needs: the members in words, and each cost with its stops."""
    command = f"manynet extract {shlex.quote(str(run.folder))} --budget "
    return {
        "members": [_member(record, largest) for record in run.front],
        "costs": [
            _cost(name, run.front, stops(run.front, name), command)
            for name in cost_names(run.front)
        ],
    }


def _member(record: Record, largest: Mapping[str, Value]) -> Json:
    choices = [
        [name, str(value), str(largest.get(name, "")), share(value, largest.get(name))]
        for name, value in record.arch.items()
    ]
    below = sum(largest.get(name) != value for name, value in record.arch.items())
    return {
        "quality": record.quality,
        "rank": rank(record),
        "qualityText": quality_text(record.metric, record.quality),
        "costs": record.costs,
        "costTexts": [[name, cost_text(name, value)] for name, value in record.costs.items()],
        "choices": choices,
        "summary": f"{below} of {len(choices)} smaller than the largest's"
        if below
        else "those of the largest member",
    }


def _cost(name: str, front: list[Record], found: list[Stop], command: str) -> Json:
    label = cost_label(name)
    return {
        "name": name,
        "title": label.title,
        "unit": label.unit,
        "example": cost_text(name, found[-1].limit).removesuffix(label.unit).strip(),
        "stops": [
            {
                "cost": stop.cost,
                "limit": stop.limit,
                "member": stop.member,
                "limitText": limit,
                "valueText": f"at most {limit}: {_quality(front[stop.member])}",
                "status": _status(front, name, stop, limit),
                "command": command + shlex.quote(f"{name}={stop.limit!r}"),
            }
            for stop in found
            for limit in [cost_text(name, stop.limit)]
        ],
    }


def _quality(record: Record) -> str:
    return f"{quality_text(record.metric, record.quality)} {record.metric}"


def _status(front: list[Record], name: str, stop: Stop, limit: str) -> str:
    count = sum(record.costs[name] <= stop.limit for record in front)
    which = f"The best of {count} members" if count > 1 else "The only member"
    return f"{which} on the front with at most {limit}."


def _pick_slots(run: Run, data: Json) -> dict[str, str]:
    """Return the picker as it stands before a script has run: the middle stop of the first cost."""
    cost = data["costs"][0]
    place = (len(cost["stops"]) - 1) // 2
    stop = cost["stops"][place]
    member = data["members"][stop["member"]]
    words = {
        "limit": stop["limitText"],
        "last_stop": str(len(cost["stops"]) - 1),
        "first_stop": str(place),
        "value_text": stop["valueText"],
        "least": cost["stops"][0]["limitText"],
        "most": cost["stops"][-1]["limitText"],
        "unit": cost["unit"],
        "front_label": f"{run.front[0].metric} of {len(run.front)} members against what they cost",
        "status": stop["status"],
        "quality": member["qualityText"],
        "metric": run.front[0].metric,
        "arch_summary": member["summary"],
        "pick_lead": "Say what a network may cost; this is the best member of the family that "
        "fits. It needs no further training.",
    }
    return {name: escape(text) for name, text in words.items()} | {
        "cost_options": "".join(
            f'<option value="{escape(one["name"])}">{escape(one["title"])}</option>'
            for one in data["costs"]
        ),
        "command": _in_parts(stop["command"]),
        "costs": "".join(
            f"<dt>{escape(cost_label(name).title)}</dt><dd>{escape(text)}</dd>"
            for name, text in member["costTexts"]
        ),
        "arch": "".join(_row(*choice) for choice in member["choices"]),
    }


def _in_parts(command: str) -> str:
    """Return a command that may break before its option, but not within it."""
    start, option, value = command.rpartition(" --")
    return (
        f'<span>{escape(start)} </span><span class="option">{escape(option + value).strip()}</span>'
    )


def _row(name: str, value: str, largest: str, part: float | None) -> str:
    return (
        f'<tr><th scope="row">{escape(name).replace(".", ".<wbr>")}</th>'
        f'<td class="number">{escape(value)}</td>'
        f'<td class="number muted">{escape(largest)}</td><td class="share">'
        + ("" if part is None else f'<div class="meter"><i style="width:{part:.1%}"></i></div>')
        + "</td></tr>"
    )


# -- figures and sections ------------------------------------------------------------------------


def _drawn(run: Run, largest: Mapping[str, Value]) -> Json:
    """Return every figure that the run has the data for, by its name on the page."""
    found: Json = {
        "front": {
            name: figures.front_figure(
                name, run.front, stops(run.front, name), run.evaluated, largest
            )
            for name in cost_names(run.front)
        }
    }
    for what in figures.curves(run):
        if series := figures.training_series(run.training, what):
            found[what] = figures.training_figure(series, what)
    layers = {what: figures.layers_figure(run.layers, what) for what in ("macs", "parameters")}
    if kept := {what: figure for what, figure in layers.items() if figure is not None}:
        found["layers"] = kept
    if run.latency is not None and run.latency.measured:
        found["latency"] = figures.latency_figure(run.latency)
    if run.ranking is not None and run.ranking.members:
        found["ranking"] = figures.ranking_figure(run.ranking, largest, run.front[0].metric)
    return found


def _plot(name: str, label: str, height: float | None = None) -> str:
    style = f' style="height:{height:.0f}px"' if height else ""
    return (
        f'<figure><div class="plot" data-figure="{name}" role="img" '
        f'aria-label="{escape(label)}"{style}></div></figure>'
    )


def _sections(run: Run, drawn: Json) -> str:
    parts = [
        _training(run, drawn),
        _layers(run, drawn),
        f'<div class="pair">{_latency(run, drawn)}\n{_ranking(run, drawn)}</div>',
        _exports(run),
        _about(run),
    ]
    return "\n".join(parts)


def _missing(run: Run, file: str, how: str) -> str:
    """Say why a file's section is empty: it is damaged, or how to get it."""
    return sections.note(run.notes.get(file) or how)


def _training(run: Run, drawn: Json) -> str:
    plots = [
        _plot(what, f"{what} of the largest, the smallest and random members while training")
        for what in figures.curves(run)
        if what in drawn
    ]
    body = f'<div class="charts">{"".join(plots)}</div>'
    if not plots:
        body = _missing(run, "training.jsonl", "No training.jsonl here: `manynet train` writes it.")
    lead = "How the members did while they trained together, one set of weights for all."
    return sections.section("training", "Training", lead if plots else "", body)


def _layers(run: Run, drawn: Json) -> str:
    title = "Where the costs lie"
    if "layers" not in drawn:
        body = _missing(run, "layers.json", "No layers.json here: `manynet run` writes it.")
        return sections.section("layers", title, "", body)
    options = "".join(
        f'<option value="{what}">{cost_label(what).title}</option>' for what in drawn["layers"]
    )
    height = next(iter(drawn["layers"].values()))["layout"]["height"]
    body = (
        '<div class="controls"><label class="field" for="layers-of">Show'
        f'<select id="layers-of" data-switch="layers">{options}</select></label></div>'
        + _plot("layers", "cost of each layer in a few members", height)
    )
    lead = "Layer by layer, in the network's order; the bars of smaller members lie inside."
    return sections.section("layers", title, lead, body)


def _latency(run: Run, drawn: Json) -> str:
    title = "Latency: predicted against measured"
    if run.latency is None or "latency" not in drawn:
        how = "No latency.json here: search with a latency cost and `manynet run` writes it."
        body = _missing(run, "latency.json", how)
        return sections.section("latency", title, "", body)
    found = run.latency
    facts = [f"{len(found.measured)} members measured on {found.device}"]
    if found.threads is not None:
        facts.append(f"{found.threads} thread{'s' if found.threads != 1 else ''}")
    if found.mape is not None:
        facts.append(f"mean error {100 * found.mape:.1f} %")
    if found.tau is not None:
        facts.append(f"Kendall's tau {significant(found.tau, 2)}")
    body = _plot("latency", "predicted against measured latency of members")
    return sections.section("latency", title, escape(", ".join(facts) + "."), body)


def _ranking(run: Run, drawn: Json) -> str:
    title = "Shared weights against training alone"
    if run.ranking is None or "ranking" not in drawn:
        how = "No ranking.json here: `manynet run` writes it when it trains some members alone."
        body = _missing(run, "ranking.json", how)
        return sections.section("ranking", title, "", body)
    count = len(run.ranking.members)
    lead = f"{count} archs, each judged with inherited weights and after training alone."
    if run.ranking.tau is not None:
        lead += f" Kendall's tau of the two rankings: {significant(run.ranking.tau, 2)}"
        lead += " (1 is the same order, 0 none)."
    body = _plot("ranking", "quality with inherited weights against quality trained alone")
    return sections.section("ranking", title, escape(lead), body)


def _exports(run: Run) -> str:
    wrong = [text for name, text in run.notes.items() if name.endswith("/manifest.json")]
    body = "".join(sections.note(text) for text in wrong)
    if run.exports:
        body = sections.exports(run) + body
    elif not wrong:
        body = sections.note("No member was exported yet: `manynet export` writes one.")
    lead = "Files that run elsewhere, each compared with the member that it was made from."
    return sections.section("exports", "Exported members", lead if run.exports else "", body)


def _about(run: Run) -> str:
    parts = [sections.became_elastic(run)]
    if run.config:
        config = '<div class="scroll" tabindex="0" role="region" aria-label="config.yaml">'
        config += f'<pre style="padding:12px">{escape(run.config)}</pre></div>'
        parts.append(sections.details("Config as resolved (config.yaml)", config))
    if run.environment:
        listing = sections.environment(run.environment)
        parts.append(sections.details("Environment: machine and versions", listing))
    for name in ("config.yaml", "environment.json", "family.json", "evaluations.sqlite"):
        if name in run.notes:
            parts.append(sections.note(run.notes[name]))
    body = "".join(parts) or sections.note("No config.yaml and no environment.json here.")
    return sections.section("about", "The run itself", "", body)
