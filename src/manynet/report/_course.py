"""The course of a search: how the front grew with each member that was judged."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manynet.report._figures import Figure, Series, quality_axis, title_of_cost
from manynet.report._format import quality_text, significant
from manynet.report._read import Record, Run, cost_names
from manynet.search.front import hypervolume, non_dominated

__all__ = ["course_costs", "growth", "growth_figure", "judged_figure"]

MOST_POINTS = 2000
REFERENCE = 1.1
"""The worst that counts of each objective, where 0 is the best judged and 1 the worst."""


def course_costs(run: Run) -> list[str]:
    """Return the costs that the search looked at: what the hypervolume is taken over.

    Three objectives or more need `moocore`, which comes with pymoo; without it the first cost
    stands for all.
    """
    known = cost_names(run.evaluated)
    found = [name for name in run.search.costs if name in known] if run.search else known
    return found if find_spec("moocore") else found[:1]


def growth(evaluated: Sequence[Record], costs: Sequence[str]) -> Series:
    """Return the hypervolume after each evaluation, as a share of what could be dominated.

    Each objective is scaled to what was judged so far, and the reference point lies a tenth of
    that beyond the worst.

    Args:
        evaluated: what was judged, in that order.
        costs: what counts besides the quality; records that lack one are passed over.

    Example:
        >>> def record(macs, quality):
        ...     return Record(arch={}, quality=quality, costs={"macs": macs})
        >>> found = growth([record(1, 0.0), record(2, 1.0), record(3, 0.5)], ["macs"])
        >>> found.x, [round(y, 3) for y in found.y]
        ([1, 2, 3], [0.091, 0.587, 0.587])
    """
    known = [one for one in evaluated if all(name in one.costs for name in costs)]
    if not known:
        return Series("hypervolume", [], [])
    points = np.array([_objectives(one, costs) for one in known], dtype=np.float64)
    return Series("hypervolume", list(range(1, len(known) + 1)), _volumes(points))


def _objectives(record: Record, costs: Sequence[str]) -> list[float]:
    """Return what is to be small."""
    quality = -record.quality if record.higher_is_better else record.quality
    return [quality, *(record.costs[name] for name in costs)]


def _volumes(points: NDArray[np.float64]) -> list[float]:
    low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low) / np.where(high > low, high - low, 1.0)
    reference = np.full(points.shape[1], REFERENCE)
    whole = float(np.prod(reference))
    front, volume = np.empty((0, points.shape[1])), 0.0
    found = []
    for point in unit:
        if not (front <= point).all(axis=1).any():
            front = np.vstack([front, point])
            front = front[non_dominated(front)]
            volume = hypervolume(front, reference) / whole
        found.append(volume)
    return found


def growth_figure(series: Series, costs: Sequence[str], total: int) -> Figure:
    """Draw the hypervolume over the evaluations, with room for those to come."""
    series = _thinned(series)
    line = {"color": "@first", "width": 2, "shape": "hv"}
    names = " and ".join(title_of_cost(name) for name in costs)
    text = [f"{100 * y:.2f} % after {x:,.0f}" for x, y in zip(series.x, series.y, strict=True)]
    trace = {
        "name": f"quality against {names}",
        "x": series.x,
        "y": series.y,
        "text": text,
        "mode": "lines" if len(series.x) > 1 else "markers",
        "line": line,
        "marker": {"color": "@first", "size": 8},
        "hovertemplate": "%{text}<extra></extra>",
    }
    low = series.y[len(series.y) // 10]  # the first steps are steep; what follows tells more
    layout = {
        "xaxis": _evaluations(series, total),
        "yaxis": {
            "title": {"text": "hypervolume"},
            "tickformat": "~%",
            "nticks": 6,
            "range": [max(0.0, low - 0.15 * (1 - low) - 0.02), 1.01],
        },
        "showlegend": False,
    }
    return {"data": [trace], "layout": layout}


def judged_figure(evaluated: Sequence[Record], total: int) -> Figure:
    """Draw the quality of each member judged, in that order, and the best one so far."""
    first = evaluated[0]
    values = [one.quality for one in evaluated]
    sign = 1.0 if first.higher_is_better else -1.0
    best = (sign * np.maximum.accumulate(sign * np.array(values))).tolist()
    places = [float(place) for place in range(1, len(values) + 1)]
    dots, line = _thinned(Series("judged", places, values)), _thinned(Series("best", places, best))
    layout = {
        "xaxis": _evaluations(dots, total),
        "yaxis": quality_axis(first.metric, values),
    }
    return {
        "data": [
            _dots(dots, first.metric),
            {
                "name": "best so far",
                "x": line.x,
                "y": line.y,
                "mode": "lines",
                "line": {"color": "@second", "width": 2, "shape": "hv"},
                "hoverinfo": "skip",
            },
        ],
        "layout": layout,
    }


def _dots(series: Series, metric: str) -> dict[str, Any]:
    return {
        "name": "judged",
        "x": series.x,
        "y": series.y,
        "text": [
            f"{quality_text(metric, y)}, number {significant(x, 9)}" for x, y in _pairs(series)
        ],
        "mode": "markers",
        "marker": {"color": "@first", "size": 6, "opacity": 0.55},
        "hovertemplate": "%{text}<extra></extra>",
    }


def _pairs(series: Series) -> list[tuple[float, float]]:
    return list(zip(series.x, series.y, strict=True))


def _evaluations(series: Series, total: int) -> dict[str, Any]:
    most = max(total, *map(int, series.x))
    return {"title": {"text": "members judged"}, "nticks": 7, "range": [0, 1.03 * most]}


def _thinned(series: Series) -> Series:
    """Return every n-th point of a long course, and its last one."""
    step = -(-len(series.x) // MOST_POINTS) or 1
    kept = sorted({*range(0, len(series.x), step), len(series.x) - 1})
    return Series(series.name, [series.x[i] for i in kept], [series.y[i] for i in kept])
