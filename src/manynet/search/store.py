"""The evaluation store: every (arch, metric, value) ever measured, in one SQLite file.

Several processes may use one store at once, and any of them may be killed at any moment: a value
is there as soon as `add` or `replace` returns, and the first value stored for an arch, metric and
context is the one that everybody gets. A store is data; opening one runs no code from it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias, TypeVar
from urllib.parse import quote

from manynet.errors import InputError, StorageError
from manynet.space import Arch

__all__ = ["Entry", "Store", "count_entries", "read_entries"]

_T = TypeVar("_T", str, float)
_Row: TypeAlias = tuple[str, str, str, str, float, float, float]

_APPLICATION = 0x6D6E6574  # "mnet", SQLite's own field for the kind of a file
_VERSION = 1
_BUSY_SECONDS = 60.0

_SCHEMA = """CREATE TABLE IF NOT EXISTS evaluations (
    arch_key TEXT NOT NULL,
    metric TEXT NOT NULL,
    context TEXT NOT NULL,
    arch TEXT NOT NULL,
    value REAL NOT NULL,
    seconds REAL NOT NULL,
    created REAL NOT NULL,
    PRIMARY KEY (arch_key, metric, context)
) WITHOUT ROWID"""
_COLUMNS = "arch_key, metric, context, arch, value, seconds, created"
_ADD = f"INSERT INTO evaluations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT "
_OVERWRITE = (
    "(arch_key, metric, context) DO UPDATE SET "
    "value = excluded.value, seconds = excluded.seconds, created = excluded.created"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored value: `metric` of `arch`, measured in `context`, in `seconds`, at `created`.

    `context` says what the value depends on besides the arch (a fingerprint of the weights, the
    data, the settings); `created` counts seconds since 1970.
    """

    arch: Arch
    metric: str
    value: float
    context: str = ""
    seconds: float = 0.0
    created: float = 0.0


class Store:
    """Values measured for archs, kept in the SQLite file `path`, which is made if it is missing.

    Safe to share between threads and processes, to pickle (a copy opens the same file), and to be
    killed. While it is open SQLite keeps two files of its own beside it (`-wal` and `-shm`); copy
    a store only after `close`.

    Raises:
        StorageError: the file is damaged, not a store, of a newer version, or cannot be written.

    Example:
        >>> import tempfile
        >>> from manynet.space import Arch
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/e.sqlite") as store:
        ...     _ = store.add(Arch({"width": 8}), {"accuracy": 0.75})
        ...     store.get(Arch({"width": 8}), "accuracy")
        0.75
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._process = os.getpid()
        self._connection: sqlite3.Connection | None = _open(self.path)

    def get(self, arch: Arch | str, metric: str, *, context: str = "") -> float | None:
        """Return the value of `metric` for `arch` (or its key), or None if there is none."""
        return self.values(arch).get((metric, context))

    def values(self, arch: Arch | str) -> dict[tuple[str, str], float]:
        """Return every value stored for `arch` (or its key), by metric and context."""
        key = arch if isinstance(arch, str) else arch.key
        with self._guarded("read") as connection:
            rows = connection.execute(
                "SELECT metric, context, value FROM evaluations WHERE arch_key = ?", (key,)
            )
            return {(metric, context): value for metric, context, value in rows}

    def add(
        self,
        arch: Arch,
        values: Mapping[str, float],
        *,
        context: str | Mapping[str, str] = "",
        seconds: float | Mapping[str, float] = 0.0,
    ) -> dict[str, float]:
        """Store `values` (by metric) of `arch`, all or none, where there are none yet.

        Args:
            arch: what was measured.
            values: finite numbers by the name of their metric.
            context: what else they depend on; one for all, or one for each metric.
            seconds: what measuring took; one for all, or one for each metric.

        Returns:
            The values that now hold: those of another process if it was faster.

        Raises:
            InputError: a value is not finite.
            StorageError: the file cannot be written; nothing was stored.
        """
        rows = _rows(arch, values, context, seconds)
        if self._write(rows, _ADD + "DO NOTHING") == len(rows):
            return {str(row[1]): float(row[4]) for row in rows}
        stored = self.values(arch)
        return {metric: stored[metric, _pick(context, metric, "")] for metric in values}

    def replace(
        self,
        arch: Arch,
        values: Mapping[str, float],
        *,
        context: str | Mapping[str, str] = "",
        seconds: float | Mapping[str, float] = 0.0,
    ) -> None:
        """Store `values` as `add` does, in place of those that are there (a new measurement).

        Raises:
            InputError: a value is not finite.
            StorageError: the file cannot be written; the old values are still there.
        """
        self._write(_rows(arch, values, context, seconds), _ADD + _OVERWRITE)

    def close(self) -> None:
        """Fold everything into the one file and close it; closing twice is allowed."""
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None and self._process == os.getpid():
                connection.close()

    def _write(self, rows: list[_Row], statement: str) -> int:
        """Write all rows or none; return how many were new or changed."""
        with self._guarded("write") as connection:
            before = connection.total_changes
            if len(rows) == 1:
                connection.execute(statement, rows[0])
                return connection.total_changes - before
            connection.execute("BEGIN IMMEDIATE")
            try:
                connection.executemany(statement, rows)
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
            return connection.total_changes - before

    @contextlib.contextmanager
    def _guarded(self, verb: str) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._process != os.getpid():  # a connection must not be used across a fork
                self._process, self._connection = os.getpid(), _open(self.path)
            if self._connection is None:
                raise StorageError(f"the evaluation store {self.path} was closed; open it again")
            try:
                yield self._connection
            except sqlite3.Error as error:
                raise _explained(error, self.path, verb) from error

    def __iter__(self) -> Iterator[Entry]:
        """Return every stored value, oldest first."""
        with self._guarded("read") as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM evaluations ORDER BY created, arch_key, metric, context"
            ).fetchall()
        return (_entry(self.path, row) for row in rows)

    def __len__(self) -> int:
        with self._guarded("read") as connection:
            (count,) = connection.execute("SELECT COUNT(*) FROM evaluations").fetchone()
        return int(count)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"


def read_entries(path: Path | str, *, since: float = 0.0) -> list[Entry]:
    """Return what a store holds, oldest first, while others may be writing it.

    The file is opened for reading only: nothing is created, locked for long, or folded together,
    so that one may look at a run that is not one's own.

    Args:
        path: the store's file.
        since: leave out what was created before, in seconds since 1970. A value may come in up to
            a minute after it was created, when its writer had to wait for others.

    Raises:
        StorageError: the file is missing, damaged, or not a store.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, Store(f"{folder}/e.sqlite") as store:
        ...     _ = store.add(Arch({"width": 8}), {"accuracy": 0.75})
        ...     [(entry.metric, entry.value) for entry in read_entries(store.path)]
        [('accuracy', 0.75)]
    """
    ask = (
        f"SELECT {_COLUMNS} FROM evaluations WHERE created >= ? "
        "ORDER BY created, arch_key, metric, context"
    )
    path = Path(path)
    return [_entry(path, row) for row in _looked_up(path, ask, since)]


def count_entries(path: Path | str) -> int:
    """Return how many values a store holds, without touching it, as `read_entries` does."""
    rows = _looked_up(Path(path), "SELECT COUNT(*) FROM evaluations WHERE created >= ?", 0.0)
    return int(str(rows[0][0])) if rows else 0


def _looked_up(path: Path, ask: str, since: float) -> list[tuple[object, ...]]:
    """Return rows of a store that is opened for reading only."""
    if not path.is_file():
        raise StorageError(f"{path} does not exist; check the folder's name")
    # Without a log beside it nobody has it open, and SQLite need not make one to read it.
    has_log = path.with_name(f"{path.name}-wal").is_file()
    try:
        try:
            return _read_only(path, ask, since, "mode=ro" if has_log else "mode=ro&immutable=1")
        except sqlite3.OperationalError:
            if not has_log or os.access(path.parent, os.W_OK):
                raise
            return _read_only(path, ask, since, "mode=ro&immutable=1")  # it cannot be written
    except sqlite3.Error as error:
        raise _explained(error, path, "read") from error


def _read_only(path: Path, ask: str, since: float, how: str) -> list[tuple[object, ...]]:
    where = f"file:{quote(str(path.absolute()))}?{how}"
    with contextlib.closing(sqlite3.connect(where, uri=True, timeout=5.0)) as connection:
        connection.execute("BEGIN")
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if not tables:  # somebody is just making it
            return []
        if application != _APPLICATION:
            raise StorageError(f"{path} is a database, but not an evaluation store of manynet")
        return connection.execute(ask, (since,)).fetchall()


def _rows(
    arch: Arch,
    values: Mapping[str, float],
    context: str | Mapping[str, str],
    seconds: float | Mapping[str, float],
) -> list[_Row]:
    document, now = json.dumps(arch.to_json()), time.time()
    rows: list[_Row] = []
    for metric, value in values.items():
        number = float(value)
        if not math.isfinite(number):
            raise InputError(
                f"{metric} of arch {arch.key} is {number}: only finite numbers are stored; "
                "look at the family's weights and the data that it was measured with"
            )
        where, took = _pick(context, metric, ""), _pick(seconds, metric, 0.0)
        rows.append((arch.key, metric, where, document, number, took, now))
    return rows


def _pick(choice: _T | Mapping[str, _T], name: str, missing: _T) -> _T:
    return choice.get(name, missing) if isinstance(choice, Mapping) else choice


def _entry(path: Path, row: Sequence[object]) -> Entry:
    _, metric, context, document, value, seconds, created = row
    try:
        arch = Arch.from_json(json.loads(str(document)))
    except (ValueError, TypeError) as error:
        raise StorageError(f"the evaluation store {path} is damaged: {error}") from error
    numbers = [float(str(number)) for number in (value, seconds, created)]
    return Entry(arch, str(metric), numbers[0], str(context), *numbers[1:])


def _open(path: Path) -> sqlite3.Connection:
    connection: sqlite3.Connection | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        known = _recognize(connection, path)
        _switch_to_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")
        if not known:
            _create(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, (sqlite3.Error, OSError)):
            raise _explained(error, path, "open") from error
        raise
    return connection


def _recognize(connection: sqlite3.Connection, path: Path) -> bool:
    """Return whether it is a store already; refuse a file that is damaged or somebody else's."""
    connection.execute("BEGIN")  # one moment for all three: another process may be creating it
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if application != _APPLICATION and (tables or application or version):
        raise StorageError(
            f"{path} is a database, but not an evaluation store of manynet; choose another path"
        )
    if version > _VERSION:
        raise StorageError(
            f"{path} is an evaluation store of version {version}, and this manynet reads up to "
            f"version {_VERSION}; install a newer manynet or choose another path"
        )
    findings = [row[0] for row in connection.execute("PRAGMA quick_check(1)")]
    if findings != ["ok"]:
        raise sqlite3.DatabaseError(str(findings[0]).splitlines()[0])
    return bool(application == _APPLICATION)


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Let readers and one writer work at once; SQLite does not wait for the lock by itself here."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.005)


def _create(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(_SCHEMA)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


_ADVICE = (
    ("full", "free some space on that disk; what was stored before is safe"),
    ("readonly", "choose a folder that can be written"),
    ("unable to open", "choose a file in a folder that can be written"),
    ("disk i/o", "free some space or check that disk; what was stored before is safe"),
    ("locked", "another process holds it; let that one finish"),
    ("not a database", "it is not an evaluation store; choose another path"),
    ("malformed", "it is damaged; move it away and its values will be measured again"),
)


def _explained(error: Exception, path: Path, verb: str) -> StorageError:
    text = str(error) if isinstance(error, sqlite3.Error) else getattr(error, "strerror", "")
    fallback = "choose a folder that can be written"
    if isinstance(error, sqlite3.Error):
        fallback = "it is damaged; move it away and its values will be measured again"
    advice = next((what for word, what in _ADVICE if word in str(text).lower()), fallback)
    return StorageError(f"cannot {verb} the evaluation store {path}: {text}; {advice}")
