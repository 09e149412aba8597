"""What a run is doing, in `progress.json`: for those who watch its folder from outside."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from manynet._files import write_json
from manynet.errors import StorageError
from manynet.run._events import Event, Tell

__all__ = ["PROGRESS", "Diary"]

PROGRESS = "progress.json"
_PAUSE = 1.0
"""Seconds between two lines about the same stage."""


class Diary:
    """Writes down each stage of a run, how far it is, and how the run ended.

    The first event makes the file, so that a run with nothing left to do changes nothing. A disk
    that cannot be written is not told here: what the run itself writes will tell it.

    Args:
        folder: the run's folder.
        verb: what was called, such as `"run"` or `"search"`.
        tell: hears every event too.
        done: a file whose presence at the end says that the run is complete.
    """

    def __init__(self, folder: Path, verb: str, tell: Tell, done: str = "") -> None:
        self.folder, self.verb, self._tell, self._done = folder, verb, tell, done
        self._stages: dict[str, dict[str, Any]] = {}
        self._written = 0.0

    def tell(self, event: Event) -> None:
        """Note an event and pass it on."""
        now = time.time()
        fresh = event.stage not in self._stages
        stage = self._stages.setdefault(event.stage, {"stage": event.stage, "began": now})
        stage |= {"done": event.done, "total": event.total, "text": event.text, "updated": now}
        if fresh or event.done >= event.total or time.monotonic() - self._written > _PAUSE:
            self._write("running")
        self._tell(event)

    def __enter__(self) -> Diary:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._stages:
            return
        if error is None or (self._done and (self.folder / self._done).is_file()):
            self._write("finished")
        elif isinstance(error, Exception):
            self._write("failed", f"{error}")
        else:
            self._write("stopped")

    def _write(self, state: str, message: str = "") -> None:
        self._written = time.monotonic()
        document = {
            "verb": self.verb,
            "state": state,
            "message": message,
            "process": os.getpid(),
            "host": platform.node(),
            "updated": time.time(),
            "stages": list(self._stages.values()),
        }
        with contextlib.suppress(StorageError):
            write_json(self.folder / PROGRESS, document)
