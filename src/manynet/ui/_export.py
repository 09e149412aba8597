"""Exporting a member when the page asks for it: in a process of its own, one at a time."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manynet.errors import InputError

__all__ = ["Exporter"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CALL = "import sys; from manynet.cli import main; sys.exit(main())"


class Exporter:
    """Runs `manynet extract`, then `manynet export` to ONNX, and knows how far that is.

    Args:
        folder: the run's folder.
        allowed: whether it may do so at all.
    """

    def __init__(self, folder: Path, *, allowed: bool) -> None:
        self.folder, self.allowed = folder, allowed
        self._lock = threading.Lock()
        self._job: dict[str, str] = {}
        self._changes = 0

    def state(self, revision: str) -> dict[str, Any]:
        """Return what the page shows of it, and the page's revision with it counted in."""
        with self._lock:
            return {
                "mayExport": self.allowed,
                "job": dict(self._job),
                "revision": f"{revision}-{self._changes}",
            }

    def begin(self, asked: Any) -> None:
        """Begin to export the best member within a budget.

        Args:
            asked: `cost`, `limit` and `name`, as the page sends them.

        Raises:
            InputError: it is not allowed, something is wrong with what was asked, or another
                export is going on.
        """
        if not self.allowed:
            raise InputError(
                "this page only reads; start it with `manynet ui --export`, or use the command"
            )
        commands = self._commands(asked)
        with self._lock:
            if self._job.get("state") == "working":
                raise InputError(f"{self._job['name']} is being exported; wait for it")
            self._note("working", str(asked["name"]))
        threading.Thread(target=self._work, args=(str(asked["name"]), commands)).start()

    def _commands(self, asked: Any) -> list[list[str]]:
        if not isinstance(asked, Mapping):
            raise InputError("send an object with cost, limit and name")
        cost, limit, name = (asked.get(key) for key in ("cost", "limit", "name"))
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InputError(
                f"the name {name!r} should be that of a folder: letters, digits, and . _ -"
            )
        if (self.folder / "members" / name).exists():
            raise InputError(f"there is a member {name} already; choose another name")
        if not isinstance(cost, str) or not re.fullmatch(r"\w+", cost):
            raise InputError(f"the cost {cost!r} should be a name such as macs")
        if (
            isinstance(limit, bool)
            or not isinstance(limit, int | float)
            or not math.isfinite(limit)
        ):
            raise InputError(f"the limit {limit!r} should be a number")
        start = [sys.executable, "-c", _CALL]
        where = [str(self.folder), "--name", name]
        return [
            [*start, "extract", *where, "--budget", f"{cost}={limit!r}", "-q"],
            [*start, "export", *where, "--format", "onnx", "-q"],
        ]

    def _work(self, name: str, commands: list[list[str]]) -> None:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["it ended without a word"]
                with self._lock:
                    self._note("failed", name, lines[-1].removeprefix("manynet: "))
                return
        with self._lock:
            self._note("done", name)

    def _note(self, state: str, name: str, text: str = "") -> None:
        self._job = {"state": state, "name": name, "text": text}
        self._changes += 1
