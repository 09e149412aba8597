"""The regions of the page below the picker: figures by name, and the words around them."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from manynet.report import _figures as figures
from manynet.report import _sections as sections
from manynet.report._budget import stops
from manynet.report._course import course_costs, growth, growth_figure, judged_figure
from manynet.report._format import cost_label, significant
from manynet.report._read import Run, cost_names
from manynet.space import Value

__all__ = ["drawn", "regions"]

Json = dict[str, Any]


def drawn(run: Run, largest: Mapping[str, Value]) -> Json:
    """Return every figure that the run has the data for, by its name on the page."""
    found: Json = {
        "front": {
            name: figures.front_figure(
                name, run.front, stops(run.front, name), run.evaluated, largest
            )
            for name in cost_names(run.front)
        }
    }
    for what in (*figures.curves(run), "learning_rate"):
        if series := figures.training_series(run.training, what):
            found[what] = figures.training_figure(series, what)
    found |= _course(run)
    layers = {what: figures.layers_figure(run.layers, what) for what in ("macs", "parameters")}
    if kept := {what: figure for what, figure in layers.items() if figure is not None}:
        found["layers"] = kept
    if run.latency is not None and run.latency.measured:
        found["latency"] = figures.latency_figure(run.latency)
    if run.ranking is not None and run.ranking.members:
        found["ranking"] = figures.ranking_figure(run.ranking, largest, run.metric)
    return found


def _plot(name: str, label: str, height: float | None = None) -> str:
    style = f' style="height:{height:.0f}px"' if height else ""
    return (
        f'<figure><div class="plot" data-figure="{name}" role="img" '
        f'aria-label="{escape(label)}"{style}></div></figure>'
    )


def _course(run: Run) -> Json:
    """Return how the search went, where the store says so."""
    costs = course_costs(run)
    series = growth(run.evaluated, costs)
    if not costs or not series.x:
        return {}
    total = run.search.evaluations if run.search else 0
    return {
        "growth": growth_figure(series, costs, total),
        "judged": judged_figure(run.evaluated, total),
    }


def regions(run: Run, drawn: Json, *, live: bool = False) -> dict[str, str]:
    """Return the HTML of each region by its name, in the order of the page.

    Args:
        run: what is shown.
        drawn: its figures.
        live: leave out what has nothing to show yet, and link to the files.
    """
    found = {
        "training": _training(run, drawn, live=live),
        "search": _search(run, drawn, live=live),
        "layers": _layers(run, drawn),
        "pair": _pair(run, drawn, live=live),
        "exports": _exports(run, live=live),
        "about": _about(run),
    }
    if live and "layers" not in drawn:
        found["layers"] = ""
    return found


def _missing(run: Run, file: str, how: str) -> str:
    """Say why a file's section is empty: it is damaged, or how to get it."""
    return sections.note(run.notes.get(file) or how)


def _pair(run: Run, drawn: Json, *, live: bool) -> str:
    parts = {"latency": _latency(run, drawn), "ranking": _ranking(run, drawn)}
    shown = [text for name, text in parts.items() if name in drawn or not live]
    return f'<div class="pair">{"".join(shown)}</div>' if shown else ""


def _training(run: Run, drawn: Json, *, live: bool) -> str:
    words = {"learning_rate": "learning rate of each step"}
    plots = [
        _plot(
            what, words.get(what, f"{what} of the largest, the smallest and random members by step")
        )
        for what in (*figures.curves(run), "learning_rate")
        if what in drawn
    ]
    body = f'<div class="charts curves">{"".join(plots)}</div>'
    if not plots:
        how = "No training.jsonl here: `manynet train` writes it."
        body = _missing(run, "training.jsonl", _YET["training"] if live else how)
    lead = "How the members did while they trained together, one set of weights for all."
    return sections.section("training", "Training", lead if plots else "", body)


def _search(run: Run, drawn: Json, *, live: bool) -> str:
    if "growth" not in drawn:
        how = "No evaluations.sqlite here: `manynet search` writes it."
        body = _missing(run, "evaluations.sqlite", _YET["search"] if live else how)
        return sections.section("search", "Search", "", body)
    names = " and ".join(cost_label(name).title for name in course_costs(run))
    lead = (
        f"{len(run.evaluated):,} members were judged, {len(run.front):,} are on the front. The "
        f"hypervolume is the share of what {run.metric} against {names} could dominate; a curve "
        "that has gone flat says that more searching will find little."
    )
    label = "hypervolume after each member judged"
    plots = _plot("growth", label) + _plot("judged", "quality of each member judged, in order")
    return sections.section("search", "Search", escape(lead), f'<div class="charts">{plots}</div>')


_YET = {
    "training": "Nothing yet: the curves appear with the first lines of training.jsonl.",
    "search": "Nothing yet: the search begins when the family is trained.",
    "exports": "Nothing yet: members are exported when the search has ended.",
}
"""What a live page says in the place of figures that are to come."""


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


def _exports(run: Run, *, live: bool) -> str:
    wrong = [text for name, text in run.notes.items() if name.endswith("/manifest.json")]
    body = "".join(sections.note(text) for text in wrong)
    if run.exports:
        body = sections.exports(run, link=live) + body
    elif not wrong:
        how = "No member was exported yet: `manynet export` writes one."
        working = live and (run.progress is None or run.progress.state == "running")
        body = sections.note(_YET["exports"] if working else how)
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
    told = ("config.yaml", "environment.json", "family.json", "evaluations.sqlite")
    for name in (*told, "front.json", "search.json", "progress.json"):
        if name in run.notes:
            parts.append(sections.note(run.notes[name]))
    body = "".join(parts) or sections.note("No config.yaml and no environment.json here.")
    return sections.section("about", "The run itself", "", body)
