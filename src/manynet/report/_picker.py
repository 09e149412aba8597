"""The picker: what its slider needs, and how it stands before a script has run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from manynet.deploy import Manifest
from manynet.report._budget import Stop, rank, stops
from manynet.report._format import (
    bytes_text,
    cost_amount,
    cost_label,
    cost_text,
    quality_text,
    share,
)
from manynet.report._read import Record, Run, cost_names
from manynet.space import Value

__all__ = ["pick_slots", "picker"]

Json = dict[str, Any]


def picker(run: Run, largest: Mapping[str, Value]) -> Json:
    """Return what the slider needs: the members in words, and each cost with its stops."""
    command = f"manynet extract {shlex.quote(str(run.folder))} --budget "
    return {
        "metric": run.metric,
        "members": [
            _member(record, largest) | {"files": _files(run, record)} for record in run.front
        ],
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
        "costTexts": [[name, cost_amount(name, value)] for name, value in record.costs.items()],
        "label": _label(record),
        "choices": choices,
        "summary": f"{below} of {len(choices)} smaller than the largest's"
        if below
        else "those of the largest member",
    }


def _label(record: Record) -> str:
    """Return a member in a few words, as in a list to choose from."""
    costs = [cost_text(name, value) for name, value in record.costs.items()]
    return " \N{MIDDLE DOT} ".join([quality_text(record.metric, record.quality), *costs[:1]])


def _files(run: Run, record: Record) -> list[Json]:
    """Return where the member was exported to: the name, and each file with its address."""
    return [
        {"name": name, "files": [_link(name, manifest, file.name) for file in manifest.files]}
        for name, manifest in run.exports.items()
        if manifest.arch is not None and dict(manifest.arch) == record.arch
    ]


def _link(name: str, manifest: Manifest, file: str) -> list[str]:
    return [file, f"members/{quote(name)}/{quote(file)}", bytes_text(manifest[file].bytes)]


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
                "name": _folder_name(name, limit),
                "valueText": f"at most {limit}: {_quality(front[stop.member])}",
                "status": _status(front, name, stop, limit),
                "command": command + shlex.quote(f"{name}={stop.limit!r}"),
            }
            for stop in found
            for limit in [cost_text(name, stop.limit)]
        ],
    }


def _folder_name(cost: str, limit: str) -> str:
    """Return a name for the best member within a budget: `macs-105k`."""
    number = re.sub(r"[^0-9.kKMGTB]", "", limit.partition(" MACs")[0])
    return f"{cost.partition('_')[0]}-{number}"


def _quality(record: Record) -> str:
    return f"{quality_text(record.metric, record.quality)} {record.metric}"


def _status(front: list[Record], name: str, stop: Stop, limit: str) -> str:
    count = sum(record.costs[name] <= stop.limit for record in front)
    which = f"The best of {count} members" if count > 1 else "The only member"
    return f"{which} on the front with at most {limit}."


def pick_slots(run: Run, data: Json) -> dict[str, str]:
    """Return the picker as it stands before a script has run: the middle stop of the first cost."""
    if not data["costs"]:
        return dict.fromkeys(_SLOTS, "") | {"hidden": "hidden", "pick_lead": _LEAD}
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
        "hidden": "",
        "front_label": f"{run.metric} of {len(run.front)} members against what they cost",
        "status": stop["status"],
        "quality": member["qualityText"],
        "metric": run.metric,
        "arch_summary": member["summary"],
        "pick_lead": _LEAD,
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


_LEAD = (
    "Say what a network may cost; this is the best member of the family that fits. It needs no "
    "further training."
)
_SLOTS = (
    *("limit", "last_stop", "first_stop", "value_text", "least", "most", "unit", "front_label"),
    *("status", "quality", "metric", "arch_summary"),
    *("cost_options", "command", "costs", "arch"),
)
"""What `pick_slots` fills in."""


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
