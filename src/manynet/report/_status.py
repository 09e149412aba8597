"""What a run is doing now, or how it ended: the bar at the top of a live page."""

from __future__ import annotations

import os
import platform
import shlex
import time
from html import escape

from manynet.report._read import Progress, Run, Stage
from manynet.report._sections import details

__all__ = ["duration_text", "state_of", "status", "title"]

_SILENT = 120.0
"""Seconds without news after which a run on another machine is thought to have ended."""
_PILLS = {
    "running": "Running",
    "finished": "Finished",
    "failed": "Failed",
    "stopped": "Stopped",
    "waiting": "Waiting",
    "gone": "Gone",
}


def state_of(run: Run) -> str:
    """Return what a run is doing: `running`, `finished`, `failed`, `stopped`, `waiting`, `gone`.

    A run that was killed could not say so: its process is looked for.
    """
    if not run.folder.is_dir():
        return "gone"
    progress = run.progress
    if progress is None:
        return "finished" if run.front else "waiting"
    if progress.state == "running" and not _lives(progress):
        return "stopped"
    return progress.state


def _lives(progress: Progress) -> bool:
    if progress.host != platform.node() or os.name != "posix":
        return time.time() - progress.updated < _SILENT
    try:
        os.kill(progress.process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it lives, but is not ours
        return True
    return True


def duration_text(seconds: float) -> str:
    """Return a time as people say it.

    Example:
        >>> duration_text(7.6), duration_text(200), duration_text(7500)
        ('8 s', '3 min 20 s', '2 h 5 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest and minutes < 10 else f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"


def title(run: Run) -> str:
    """Return what a browser's tab says."""
    state, stage = state_of(run), _last(run)
    share = f"{100 * stage.done / stage.total:.0f} %" if stage and stage.total else ""
    word = f"{share} {stage.stage}".strip() if state == "running" and stage else _PILLS[state]
    return f"{word} \N{MIDDLE DOT} {run.folder.resolve().name} \N{MIDDLE DOT} manynet"


def _last(run: Run) -> Stage | None:
    return run.progress.stages[-1] if run.progress and run.progress.stages else None


def status(run: Run) -> str:
    """Return the bar as HTML: what it does, how far it is, and what to do next."""
    state, stage = state_of(run), _last(run)
    running = state == "running" and stage is not None
    left = _left(stage) if running and stage else ""
    parts = [
        '<div class="news">'
        f'<strong class="pill {state}">{_PILLS[state]}</strong>'
        f"<p>{_words(run, state)}</p>"
        f'<span class="left">{escape(left)}</span></div>'
    ]
    if running and stage and stage.total:
        share = min(1.0, stage.done / stage.total)
        parts.append(
            f'<div class="meter" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{100 * share:.0f}" aria-label="{escape(stage.stage)}">'
            f'<i style="width:{share:.1%}"></i></div>'
        )
    if after := _next(run, state):
        parts.append(f'<p class="next">{after}</p>')
    parts.append(
        '<p class="next bad" id="lost" role="alert" hidden>The server does not answer: what stands '
        "here may be out of date. Start <code>manynet ui</code> again.</p>"
    )
    if run.progress and run.progress.stages:
        parts.append(_stages(run.progress, state))
    return f'<section id="now" aria-label="What the run is doing">{"".join(parts)}</section>'


def _words(run: Run, state: str) -> str:
    stage = _last(run)
    if state == "gone":
        return f"{escape(str(run.folder))} is no longer there."
    if state == "waiting":
        return "No stage has begun yet."
    if state == "failed" and run.progress:
        return escape(run.progress.message or "It ended with an error.")
    if state == "stopped":
        where = f" during “{escape(stage.stage)}”" if stage else ""
        return f"It was interrupted{where}. Nothing that was saved is lost."
    if state == "finished":
        return escape(_whole(run))
    text = f": {stage.text}" if stage and stage.text else ""
    return escape((stage.stage[:1].upper() + stage.stage[1:] if stage else "") + text)


def _whole(run: Run) -> str:
    progress = run.progress
    if progress is None or not progress.stages:
        return "The run is complete."
    took = duration_text(progress.updated - progress.stages[0].began)
    done = {"train": "The family is trained", "search": "The search is complete"}
    return f"{done.get(progress.verb, 'The run is complete')}, after {took}."


def _next(run: Run, state: str) -> str:
    """Return the command that goes on, where there is one."""
    folder, verb = shlex.quote(str(run.folder)), run.progress.verb if run.progress else "run"
    if state in {"stopped", "failed", "waiting"}:
        said = "Start it with" if state == "waiting" else "Go on with"
        return f"{said} <code>{escape(f'manynet {verb} {folder}')}</code>"
    if state == "finished" and verb == "train" and not run.front:
        return f"Go on with <code>{escape(f'manynet search {folder}')}</code>"
    return ""


def _left(stage: Stage) -> str:
    took = stage.updated - stage.began
    if not stage.total or stage.done < 1 or took < 2 or stage.done >= stage.total:
        return ""
    return f"about {duration_text(took * (stage.total - stage.done) / stage.done)} left"


def _stages(progress: Progress, state: str) -> str:
    rows = []
    for place, stage in enumerate(progress.stages):
        last = place == len(progress.stages) - 1
        done = stage.total > 0 and stage.done >= stage.total
        mark = "✓" if done else "▸" if last and state == "running" else "·"
        rows.append(
            f'<li><span class="{"good" if done else "muted"}" aria-hidden="true">{mark}</span>'
            f"<span>{escape(stage.stage)}</span>"
            f'<span class="muted text">{escape(stage.text)}</span>'
            f'<span class="time">{duration_text(stage.updated - stage.began)}</span></li>'
        )
    return details("Stages", f'<ol class="stages">{"".join(rows)}</ol>')
