"""The figures as plotly's JSON: what is drawn, and which color's name stands where.

A color is written `@name` and looked up in the page's style by `page.js`, which also redraws the
figures when the reader turns to dark mode. Plotly reads some HTML in every text, so whatever comes
from a run's files is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from manynet.report._budget import Stop
from manynet.report._format import (
    brief,
    cost_label,
    cost_text,
    quality_text,
    significant,
)
from manynet.report._read import Latency, Layer, Ranking, Record, Run, Step
from manynet.space import Value

__all__ = [
    "Figure",
    "Series",
    "axis_of_cost",
    "curves",
    "front_figure",
    "latency_figure",
    "layers_figure",
    "quality_axis",
    "ranking_figure",
    "title_of_cost",
    "training_figure",
    "training_series",
]

Figure = dict[str, Any]
MOST_POINTS = 2000  # faint points of evaluated members; more make the page slow, not clearer
MOST_STEPS = 300
MOST_LAYERS = 40
LOG_FROM = 8.0
STYLES = (("@first", "solid"), ("@second", "dash"), ("@third", "dot"), ("@fourth", "dashdot"))


@dataclass(frozen=True)
class Series:
    """One curve: what the page's figure and the drawing in `figures/` have in common."""

    name: str
    x: list[float]
    y: list[float]


def is_wide(values: Iterable[float]) -> bool:
    """Whether positive values span so much that a logarithmic axis shows them better."""
    known = list(values)
    return bool(known) and min(known) > 0 and max(known) > LOG_FROM * min(known)


def axis_of_cost(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the axis of a cost; logarithmic where the cost spans more than 8x."""
    label = cost_label(name)
    axis: dict[str, Any] = {
        "title": {"text": escape(title_of_cost(name))},
        "tickformat": label.ticks,
        "nticks": 8,
    }
    if is_wide(values):
        axis |= {"type": "log", "dtick": "D2" if max(values) < 100 * min(values) else 1}
        axis["range"] = [math.log10(min(values)) - 0.05, math.log10(max(values)) + 0.05]
    return axis


def title_of_cost(name: str) -> str:
    """Return what stands at the axis of a cost.

    Example:
        >>> title_of_cost("macs"), title_of_cost("latency_ms")
        ('MACs', 'Latency (ms)')
    """
    label = cost_label(name)
    known = not label.unit or label.unit.casefold() == label.title.casefold()
    return label.title if known else f"{label.title} ({label.unit})"


def quality_axis(metric: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the axis of a quality; an accuracy counts in percent."""
    percent = metric.endswith("accuracy") and all(0 <= value <= 1 for value in values)
    axis: dict[str, Any] = {"title": {"text": escape(metric.replace("_", " "))}, "nticks": 7}
    return axis | ({"tickformat": "~%"} if percent else {"tickformat": "~g"})


def front_figure(
    cost: str,
    front: Sequence[Record],
    worth: Sequence[Stop],
    evaluated: Sequence[Record],
    largest: Mapping[str, Value],
) -> Figure:
    """Draw quality against one cost; the last trace is the member that the slider picked."""
    faint = [record for record in evaluated if cost in record.costs]
    faint = faint[:: -(-len(faint) // MOST_POINTS) or 1]
    best = {stop.member for stop in worth}
    steps = [front[stop.member] for stop in worth]
    other = [record for index, record in enumerate(front) if index not in best]
    line = {"color": "@first", "width": 1.5, "shape": "hv"}
    traces = [
        _points("evaluated", faint, cost, largest, {"color": "@faint", "size": 5}),
        _points("best for another cost", other, cost, largest, _hollow("@first", 8)),
        _points("best within its cost", steps, cost, largest, {"color": "@first", "size": 8})
        | {"mode": "lines+markers", "line": line},
        {
            "name": "picked",
            "x": [],
            "y": [],
            "mode": "markers",
            "marker": _hollow("@second", 18) | {"line": {"color": "@second", "width": 3}},
            "hoverinfo": "skip",
        },
    ]
    shown = [*faint, *front]
    layout = {
        "xaxis": axis_of_cost(cost, [record.costs[cost] for record in shown]),
        "yaxis": quality_axis(front[0].metric, [record.quality for record in shown]),
    }
    return {"data": [trace for trace in traces if trace["x"] or trace["name"] == "picked"]} | {
        "layout": layout
    }


def _hollow(color: str, size: int) -> dict[str, Any]:
    return {
        "symbol": "circle-open",
        "color": color,
        "size": size,
        "line": {"color": color, "width": 1.5},
    }


def _points(
    name: str,
    records: Sequence[Record],
    cost: str,
    largest: Mapping[str, Value],
    marker: dict[str, Any],
) -> dict[str, Any]:
    return {
        "name": name,
        "x": [record.costs[cost] for record in records],
        "y": [record.quality for record in records],
        "text": [_hover(record, largest) for record in records],
        "mode": "markers",
        "marker": marker,
        "hovertemplate": "%{text}<extra></extra>",
    }


def _hover(record: Record, largest: Mapping[str, Value]) -> str:
    costs = [cost_text(name, value) for name, value in record.costs.items()]
    lines = [
        f"{record.metric} {quality_text(record.metric, record.quality)}",
        " · ".join(costs[:3]),
        *brief(record.arch, largest),
    ]
    return "<br>".join(escape(_short(line, 64)) for line in lines)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def curves(run: Run) -> tuple[str, ...]:
    """Return what is drawn over the steps of a training: the loss, and what judges members."""
    return tuple(dict.fromkeys(("loss", "accuracy", run.metric)))


def training_series(steps: Sequence[Step], what: str) -> list[Series]:
    """Return the curve of each kind of member for one of `curves`, or the learning rate's."""
    if what == "learning_rate":
        rate = _curve("learning rate", [(step.step, step.learning_rate) for step in steps])
        return [rate] if rate.x else []
    names = list(dict.fromkeys(name for step in steps for name in step.members))
    found = [
        _curve(name, [(step.step, step.members.get(name, {}).get(what)) for step in steps])
        for name in names
    ]
    if what == "loss" and not any(series.x for series in found):
        found = [_curve("all members", [(step.step, step.loss) for step in steps])]
    return [series for series in found if series.x]


def _curve(name: str, points: Iterable[tuple[float, float | None]]) -> Series:
    """Make a curve of the finite points; of a long one, averages over equal stretches."""
    known = [(x, y) for x, y in points if y is not None and math.isfinite(y)]
    size = -(-len(known) // MOST_STEPS) or 1
    groups = [known[start : start + size] for start in range(0, len(known), size)]
    middle = [group[len(group) // 2][0] for group in groups]
    return Series(name, middle, [sum(y for _, y in group) / len(group) for group in groups])


def training_figure(series: Sequence[Series], what: str) -> Figure:
    """Draw the curves of the members while the family trained."""
    values = [y for one in series for y in one.y]
    yaxis = quality_axis(what, values)
    if what == "loss" and is_wide(values):
        yaxis |= {"type": "log", "dtick": "D2" if max(values) < 100 * min(values) else 1}
    data = []
    for index, one in enumerate(series):
        color, dash = STYLES[index % len(STYLES)]
        data.append(
            {
                "name": escape(one.name),
                "x": one.x,
                "y": one.y,
                "text": [quality_text(what, y) for y in one.y],
                "mode": "lines" if len(one.x) > 1 else "markers",
                "line": {"color": color, "width": 2, "dash": dash},
                "hovertemplate": "%{text}",
            }
        )
    layout = {
        "xaxis": {"title": {"text": "step"}},
        "yaxis": yaxis,
        "hovermode": "x unified",
        "showlegend": len(data) > 1,
    }
    return {"data": data, "layout": layout}


def layers_figure(members: Mapping[str, Sequence[Layer]], what: str) -> Figure | None:
    """Draw a bar a layer, those of smaller members inside those of larger ones."""
    totals = {name: _amounts(layers, what) for name, layers in members.items()}
    order = sorted(totals, key=lambda name: -sum(totals[name].values()))
    paths = _worth_showing([totals[name] for name in order])
    if not paths:
        return None
    data = []
    for index, name in enumerate(order):
        amounts = [totals[name].get(path, 0.0) for path in paths]
        if len(paths) >= MOST_LAYERS:
            amounts[-1] = sum(totals[name].values()) - sum(amounts[:-1])
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": escape(f"{name}: {cost_text(what, sum(totals[name].values()))}"),
                "x": amounts,
                "y": list(range(len(paths))),
                "text": [
                    escape(f"{path}: {cost_text(what, x)}")
                    for path, x in zip(paths, amounts, strict=True)
                ],
                "textposition": "none",
                "hovertemplate": "%{text}<extra></extra>",
                "width": 0.84 * (1 - index / len(order)),
                "marker": {"color": ("@faintbar", "@firstbar", "@second", "@third")[index % 4]},
            }
        )
    label = cost_label(what)
    layout = {
        "barmode": "overlay",
        "height": 120 + 22 * len(paths),
        "hovermode": "closest",
        "xaxis": {"title": {"text": label.title}, "tickformat": "~s", "nticks": 6},
        "yaxis": {
            "tickvals": list(range(len(paths))),
            "ticktext": [escape(_tail(path)) for path in paths],
            "range": [len(paths) - 0.5, -0.5],
            "ticks": "",
            "showgrid": False,
        },
    }
    return {"data": data, "layout": layout}


def _amounts(layers: Sequence[Layer], what: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for layer in layers:
        value = layer.macs if what == "macs" else layer.parameters
        if value > 0:
            found[layer.path] = found.get(layer.path, 0.0) + value
    return found


def _worth_showing(totals: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the layers in the network's order; of many, the costliest and a rest."""
    paths = list(dict.fromkeys(path for amounts in totals for path in amounts))
    if len(paths) <= MOST_LAYERS:
        return paths
    costly = sorted(paths, key=lambda path: -max(a.get(path, 0.0) for a in totals))
    kept = set(costly[: MOST_LAYERS - 1])
    return [path for path in paths if path in kept] + [f"{len(paths) - len(kept)} smaller layers"]


def _tail(path: str, most: int = 20) -> str:
    return path if len(path) <= most else f"…{path[1 - most :]}"


def latency_figure(latency: Latency) -> Figure:
    """Draw predicted against measured latencies; on the line they agree."""
    text = [
        f"predicted {significant(p)} ms<br>measured {significant(m)} ms"
        for p, m in zip(latency.predicted, latency.measured, strict=True)
    ]
    return _agreement(
        latency.measured, latency.predicted, text, ("measured (ms)", "predicted (ms)"), {}
    )


def ranking_figure(ranking: Ranking, largest: Mapping[str, Value], metric: str) -> Figure:
    """Draw inherited quality against that of training alone; on the line they agree."""
    values = [value for one in ranking.members for value in (one.inherited, one.alone)]
    text = []
    for one in ranking.members:
        lines = [
            f"inherited {quality_text(metric, one.inherited)}",
            f"alone {quality_text(metric, one.alone)}",
            *([cost_text("macs", one.macs)] if one.macs is not None else []),
            *brief(one.arch, largest),
        ]
        text.append("<br>".join(escape(_short(line, 64)) for line in lines))
    return _agreement(
        [one.alone for one in ranking.members],
        [one.inherited for one in ranking.members],
        text,
        ("trained alone", "with inherited weights"),
        quality_axis(metric, values),
    )


def _agreement(
    x: Sequence[float],
    y: Sequence[float],
    text: Sequence[str],
    titles: tuple[str, str],
    axis: Mapping[str, Any],
) -> Figure:
    """Draw y against x on equal axes, with the line on which they are equal."""
    values = [*x, *y]
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = 0.06 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    line = {"color": "@muted", "width": 1, "dash": "dash"}
    data = [
        {"name": "equal", "x": ends, "y": ends, "mode": "lines", "line": line, "hoverinfo": "skip"},
        {
            "name": "members",
            "x": list(x),
            "y": list(y),
            "text": list(text),
            "mode": "markers",
            "marker": {"color": "@first", "size": 9, "opacity": 0.8},
            "hovertemplate": "%{text}<extra></extra>",
        },
    ]
    both = {"range": ends, "nticks": 7, **axis}
    layout = {
        "xaxis": both | {"title": {"text": titles[0]}},
        "yaxis": both | {"title": {"text": titles[1]}},
    }
    return {"data": data, "layout": layout}
