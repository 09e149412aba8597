"""Small drawings for `figures/`: one function, no library, readable on light and dark ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from manynet.report._figures import Series, is_wide
from manynet.report._format import significant

__all__ = ["Axis", "draw"]

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 84, 616, 52, 312
DASHES = ("", "7 4", "2 4", "9 3 2 3")
STYLE = """
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:#5a6575}
.title{font-size:15px;font-weight:600;fill:#1a2029}
.ground{fill:#fff}.grid{stroke:#dde2e9}
.c0{stroke:#0b63ce;color:#0b63ce}.c1{stroke:#c2410c;color:#c2410c}
.c2{stroke:#0f766e;color:#0f766e}.c3{stroke:#7c3aed;color:#7c3aed}
circle{fill:currentColor}polyline,.key{fill:none;stroke-width:2}
@media(prefers-color-scheme:dark){
text{fill:#9aa7b8}.title{fill:#e7ecf2}.ground{fill:#161c24}.grid{stroke:#2a333f}
.c0{stroke:#62a8ff;color:#62a8ff}.c1{stroke:#ff9354;color:#ff9354}
.c2{stroke:#3fc5b0;color:#3fc5b0}.c3{stroke:#b79bff;color:#b79bff}}
"""


@dataclass(frozen=True)
class Axis:
    """What an axis is called, how its numbers are written, and whether it may be logarithmic."""

    title: str
    percent: bool = False
    may_be_log: bool = True


def draw(title: str, series: Sequence[Series], x: Axis, y: Axis, *, steps: bool = False) -> str:
    """Return a drawing of curves as SVG.

    Args:
        title: stands above it, and is what a screen reader says.
        series: the curves, at least one with a point.
        x: the axis below.
        y: the axis on the left; either may be logarithmic, where its values span more than 8x.
        steps: draw points, and level lines between them, as for a front.

    Example:
        >>> drawing = draw("a < b", [Series("s", [1, 2], [3, 4])], Axis("step"), Axis("loss"))
        >>> drawing.startswith("<svg"), "a &lt; b" in drawing
        (True, True)
    """
    across = _Scale.of([v for one in series for v in one.x], LEFT, RIGHT, x)
    up = _Scale.of([v for one in series for v in one.y], BOTTOM, TOP, y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}"><style>{STYLE}</style>'
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}" rx="10"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text>',
        *_grid(across, x, up, y),
    ]
    for index, one in enumerate(series):
        parts += _curve(index, one, across, up, steps)
    if len(series) > 1:
        parts += _legend(series)
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(frozen=True)
class _Scale:
    """Where on the drawing a value lies."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, axis: Axis) -> _Scale:
        log = axis.may_be_log and is_wide(values)
        shown = [math.log10(v) for v in values] if log else list(values)
        pad = 0.04 * (max(shown) - min(shown)) or abs(shown[0]) * 0.05 or 1.0
        return cls(min(shown) - pad, max(shown) + pad, start, end, log)

    def __call__(self, value: float) -> float:
        shown = math.log10(value) if self.log else value
        part = (shown - self.low) / (self.high - self.low)
        return round(self.start + part * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """Return round values within: 1, 2, 5 times a power of ten."""
        if self.log:
            decades = range(math.floor(self.low), math.ceil(self.high) + 1)
            found = [lead * 10.0**decade for decade in decades for lead in (1, 2, 5)]
            return [v for v in found if self.low <= math.log10(v) <= self.high]
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = unit * next(lead for lead in (1, 2, 5, 10) if lead * unit >= rough)
        first = math.ceil(self.low / step)
        return [place * step for place in range(first, math.floor(self.high / step) + 1)]


def _grid(across: _Scale, x: Axis, up: _Scale, y: Axis) -> list[str]:
    middle = (TOP + BOTTOM) / 2
    lines = [
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{up(v)}" y2="{up(v)}"/>'
        f'<text x="{LEFT - 8}" y="{up(v) + 4}" text-anchor="end">{_number(v, y)}</text>'
        for v in up.ticks()
    ]
    lines += [
        f'<text x="{across(v)}" y="{BOTTOM + 18}" text-anchor="middle">{_number(v, x)}</text>'
        for v in across.ticks()
    ]
    return [
        *lines,
        f'<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 10}" text-anchor="middle">'
        f"{escape(x.title)}</text>",
        f'<text transform="translate(22 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(y.title)}</text>",
    ]


def _number(value: float, axis: Axis) -> str:
    if axis.percent:
        return f"{significant(100 * value)} %"
    for step, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= step:
            return f"{significant(value / step)}{prefix}"
    return significant(value)


def _curve(index: int, one: Series, across: _Scale, up: _Scale, steps: bool) -> list[str]:
    points = [(across(x), up(y)) for x, y in zip(one.x, one.y, strict=True)]
    path = points[:1]
    for x, y in points[1:]:
        path += [(x, path[-1][1]), (x, y)] if steps else [(x, y)]
    text = " ".join(f"{x},{y}" for x, y in path)
    dash = f' stroke-dasharray="{DASHES[index % 4]}"' if DASHES[index % 4] else ""
    dots = points if steps or len(points) == 1 else []
    return [
        f'<polyline class="c{index % 4}"{dash} points="{text}"/>',
        *(f'<circle class="c{index % 4}" cx="{x}" cy="{y}" r="3.5"/>' for x, y in dots),
    ]


def _legend(series: Sequence[Series]) -> list[str]:
    place, parts = LEFT, []
    for index, one in enumerate(series):
        dash = f' stroke-dasharray="{DASHES[index % 4]}"' if DASHES[index % 4] else ""
        parts.append(
            f'<line class="key c{index % 4}"{dash} x1="{place}" x2="{place + 24}" y1="40" y2="40"/>'
            f'<text x="{place + 30}" y="44">{escape(one.name)}</text>'
        )
        place += 46 + 8 * len(one.name)
    return parts
