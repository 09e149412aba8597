"""Files that only grow, read on from where the last look ended."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from manynet.search import Entry, read_entries
from manynet.search.store import count_entries

__all__ = ["Tail"]

T = TypeVar("T")
_LATE = 120.0
"""Seconds that a value may come into the store after it was created, and then some."""


class Tail:
    """What was read of a run's log and of its store; a file that was replaced is read anew."""

    def __init__(self) -> None:
        self._log: tuple[int, int, list[object]] = (0, 0, [])
        self._store: tuple[int, dict[tuple[str, str, str], Entry]] = (0, {})

    def lines(self, path: Path, parse: Callable[[object], T]) -> list[T]:
        """Return the rows of a JSON-lines file; a last line that is not finished waits.

        Args:
            path: the file; rows are only ever appended to it.
            parse: makes a row of JSON values; always the same function.

        Raises:
            OSError: the file cannot be read.
            ValueError: a finished line is not what it should be.
        """
        found = path.stat()
        file, place, rows = self._log
        if found.st_ino != file or found.st_size < place:
            place, rows = 0, []
        self._log = (0, 0, [])  # if a line is damaged, the next look begins anew
        with path.open("rb") as log:
            log.seek(place)
            data = log.read()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            if line.strip():
                try:
                    rows.append(parse(json.loads(line)))
                except ValueError as error:
                    raise ValueError(f"row {len(rows) + 1}: {error}") from error
        self._log = (found.st_ino, place + whole, rows)
        return list(rows)  # type: ignore[arg-type]

    def entries(self, path: Path) -> list[Entry]:
        """Return what a store holds, oldest first. Raises `StorageError` as `read_entries` does."""
        file = path.stat().st_ino
        known = self._store[1] if file == self._store[0] else {}
        if count_entries(path) < len(known):  # nothing is ever deleted: this is another store
            known = {}
        last = max((entry.created for entry in known.values()), default=0.0)
        for entry in read_entries(path, since=last - _LATE):
            known[entry.arch.key, entry.metric, entry.context] = entry
        self._store = (file, known)
        return sorted(known.values(), key=lambda entry: entry.created)
