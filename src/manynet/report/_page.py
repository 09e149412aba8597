"""The page: everything of a run in one file that opens without a network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib import resources
from typing import Any

from manynet._version import __version__
from manynet.errors import MissingExtraError
from manynet.report import _sections as sections
from manynet.report._picker import pick_slots, picker
from manynet.report._read import Run
from manynet.report._regions import drawn, regions

__all__ = ["asset", "embedded", "fill", "plotly_script", "render", "shown", "slots_of"]

Json = dict[str, Any]
TITLES = {
    "pick": "Members",
    "compare": "Compare",
    "training": "Training",
    "search": "Search",
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
    plotly, own = plotly_script(), asset("page.js")
    data = shown(run)
    date = datetime.now(UTC).strftime("%d %B %Y")
    slots = slots_of(run, data) | {
        "policy": _policy(plotly, own),
        "scripts": f"<script>{plotly}</script>\n<script>{own}</script>",
        "footer": f"Made by manynet {__version__} on {date}. "
        "This file is complete: it needs no network.",
    }
    del data["html"]  # it stands in the page
    return fill(asset("page.html"), slots | {"data": embedded(data)})


def shown(run: Run, *, live: bool = False) -> Json:
    """Return all that the script shows: the members, the figures, and the HTML of each region."""
    largest = sections.largest_arch(run)
    found = drawn(run, largest)
    html = {
        "headline": sections.headline(run),
        "front_table": sections.front_table(run),
        **regions(run, found, live=live),
    }
    return picker(run, largest) | {"figures": found, "html": html}


def slots_of(run: Run, data: Json) -> dict[str, str]:
    """Return what stands in the page before a script has run."""
    html = data["html"]
    apart = ("headline", "front_table", "status")
    parts = [_region(name, text) for name, text in html.items() if name not in apart]
    return pick_slots(run, data) | {
        "version": escape(__version__),
        "title": escape(f"{sections.model_name(run)} \N{MIDDLE DOT} manynet"),
        "style": asset("page.css"),
        "nav": " ".join(f'<a href="#{name}">{title}</a>' for name, title in TITLES.items()),
        "headline": _region("headline", html["headline"]),
        "status_region": _region("status", html["status"]) if "status" in html else "",
        "front_table": _region("front_table", html["front_table"]),
        "sections": "\n".join(parts),
        "live": "true" if "status" in html else "false",
    }


def _region(name: str, html: str) -> str:
    return f'<div data-region="{name}">{html}</div>'


def fill(template: str, slots: Mapping[str, str]) -> str:
    """Put each slot's text where the template says `{{name}}`; what is put in is not read again.

    Example:
        >>> fill("<p>{{a}}{{b}}</p>", {"a": "{{b}}", "b": "!"})
        '<p>{{b}}!</p>'
    """
    return re.sub(r"\{\{(\w+)\}\}", lambda match: slots[match[1]], template)


def asset(name: str) -> str:
    """Return a file that lies beside this one."""
    return resources.files("manynet.report").joinpath(name).read_text(encoding="utf-8")


def plotly_script() -> str:
    """Return plotly. Raises `MissingExtraError` where it is not installed."""
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


def embedded(data: Json) -> str:
    """Return JSON that cannot end the script element that it stands in."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c")
