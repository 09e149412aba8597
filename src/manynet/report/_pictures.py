"""The drawings of a run in `figures/`, for a README or a slide."""

from __future__ import annotations

from manynet.report._budget import stops
from manynet.report._figures import Series, curves, title_of_cost, training_series
from manynet.report._read import Run, cost_names
from manynet.report._sections import model_name
from manynet.report._svg import Axis, draw

__all__ = ["pictures"]


def pictures(run: Run) -> dict[str, str]:
    """Return the SVG of each drawing by its file's name."""
    name, metric = model_name(run), run.front[0].metric
    found = {}
    for cost in cost_names(run.front):
        kept = [run.front[stop.member] for stop in stops(run.front, cost)]
        curve = Series(cost, [one.costs[cost] for one in kept], [one.quality for one in kept])
        x = Axis(title_of_cost(cost))
        title = f"{name}: {metric} of the best member within a budget"
        found[f"front-{_plain(cost)}.svg"] = draw(
            title, [curve], x, _axis(metric, curve), steps=True
        )
    for what in curves(run):
        if series := training_series(run.training, what):
            title = f"{name}: {what} while training"
            found[f"training-{what}.svg"] = draw(
                title, series, Axis("step", may_be_log=False), _axis(what, *series)
            )
    return found


def _axis(what: str, *series: Series) -> Axis:
    share = all(0 <= value <= 1 for one in series for value in one.y)
    accuracy = what.endswith("accuracy")
    return Axis(what.replace("_", " "), percent=accuracy and share, may_be_log=not accuracy)


def _plain(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in name)
