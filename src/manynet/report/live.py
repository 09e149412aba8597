"""The live page of a run: what its folder holds now, looked at again when a file has changed."""

from __future__ import annotations

import hashlib
import threading
import time
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from manynet._version import __version__
from manynet.deploy import read_manifest
from manynet.errors import ManynetError
from manynet.report._page import asset, embedded, fill, plotly_script, shown, slots_of
from manynet.report._read import Run, look_at
from manynet.report._status import state_of, status, title
from manynet.report._tail import Tail

__all__ = ["Live"]

Json = dict[str, Any]
_WATCHED = (
    *("config.yaml", "environment.json", "progress.json", "search.json", "training.jsonl"),
    *("front.json", "evaluations.json", "evaluations.sqlite", "evaluations.sqlite-wal"),
    *("family.json", "layers.json", "latency.json", "ranking.json"),
    "checkpoints/start/family.json",
)
_TABLES = ("front.csv", "front.json")
_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REST = 5.0
"""How many times as long as a look took, the next one waits: a run has better use for the core."""


class Live:
    """A run's folder as a page that follows it. It only reads, and only in that folder.

    Any file may be missing, half written, or damaged at any moment; the part of the page that
    needs it says so. Safe to share between threads.

    Args:
        folder: the run's folder; it may still be empty, and it may vanish.
    """

    policy = _POLICY
    """What a browser may load for the page: a `Content-Security-Policy`."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._stamp: object = None
        self._shown: Json = {}
        self._run = Run(self.folder, [])
        self._rested = 0.0
        self._tail = Tail()

    def state(self) -> Json:
        """Return all that the page shows, as JSON values; `revision` changes when they do."""
        with self._lock:
            stamp = self._look()
            if stamp != self._stamp and (not self._shown or time.monotonic() >= self._rested):
                began = time.monotonic()
                if self.folder.is_dir() or not self._shown:
                    self._run = look_at(self.folder, self._tail)
                self._shown = _state(self._run, stamp)
                self._stamp = stamp
                self._rested = time.monotonic() + _REST * (time.monotonic() - began)
            return self._shown

    def page(self, more: Json | None = None) -> str:
        """Return the page as HTML; it asks for `api/state`, `page.js`, `live.js`, `plotly.js`.

        Args:
            more: further values of the state, those of whoever serves it.
        """
        data = self.state() | (more or {})
        scripts = "\n".join(f'<script src="{name}.js"></script>' for name in _SCRIPTS)
        slots = slots_of(self._run, data) | {
            "policy": escape(_POLICY.replace("; frame-ancestors 'none'", "")),
            "scripts": scripts,
            "title": escape(data["title"]),
            "data": embedded(data),
            "footer": f"manynet {__version__} shows {escape(str(self.folder))} as it changes, and "
            "changes nothing in it.",
        }
        return fill(asset("page.html"), slots)

    def script(self, name: str) -> str:
        """Return a script of the page.

        Raises:
            KeyError: the page has no such script.
            MissingExtraError: plotly is not installed.
        """
        if name not in _SCRIPTS:
            raise KeyError(name)
        return plotly_script() if name == "plotly" else asset(f"{name}.js")

    def files(self) -> dict[str, Path]:
        """Return the files that may be downloaded, by their address below the page.

        They are those that the manifests of the exported members name, and the front as a table.
        A file that is a link to somewhere outside of the folder is not among them.
        """
        found = {name: self.folder / name for name in _TABLES}
        for manifest in (self.folder / "members").glob("*/manifest.json"):
            name = manifest.parent.name
            try:
                files = [record.name for record in read_manifest(manifest).files]
            except ManynetError:
                continue
            for file in ("manifest.json", *files):
                found[f"members/{quote(name)}/{quote(file)}"] = manifest.parent / file
        inside = self.folder.resolve()
        return {
            address: path
            for address, path in found.items()
            if path.is_file() and path.resolve().is_relative_to(inside)
        }

    def _look(self) -> object:
        """Return what changes when the folder does, without reading a file."""
        names = [self.folder / name for name in _WATCHED]
        names += sorted((self.folder / "members").glob("*/manifest.json"))
        return (*((str(path), _stat(path)) for path in names), state_of(self._run))


_SCRIPTS = ("plotly", "page", "live")


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _state(run: Run, stamp: object) -> Json:
    data = shown(run, live=True)
    data["html"] = {"status": status(run), **data["html"]}
    revision = hashlib.sha256(f"{stamp} {state_of(run)}".encode()).hexdigest()[:16]
    return data | {"revision": revision, "title": title(run), "state": state_of(run)}
