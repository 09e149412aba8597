"""The evaluation store: concurrent writers, sudden death, damaged files, full disks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import resource
import signal
import sqlite3
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from threading import Barrier

import pytest

from manynet.errors import InputError, StorageError
from manynet.search import Entry, Store
from manynet.space import Arch


def arch(number: int) -> Arch:
    return Arch({"width": number, "block": "a"})


def test_what_was_added_is_found_again(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        held = store.add(arch(1), {"accuracy": 0.5, "macs": 7.0}, context="w1", seconds=2.0)
        assert held == {"accuracy": 0.5, "macs": 7.0}
    with Store(tmp_path / "e.sqlite") as store:
        assert store.get(arch(1), "accuracy", context="w1") == 0.5
        assert store.get(arch(1).key, "macs", context="w1") == 7.0
        assert store.values(arch(1)) == {("accuracy", "w1"): 0.5, ("macs", "w1"): 7.0}
        assert len(store) == 2
        entry = next(iter(store))
    assert (entry.arch, entry.metric, entry.value) == (arch(1), "accuracy", 0.5)
    assert (entry.context, entry.seconds) == ("w1", 2.0)
    assert abs(entry.created - time.time()) < 600
    assert isinstance(entry, Entry)


def test_values_of_another_context_are_not_mixed_up(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        store.add(arch(1), {"accuracy": 0.5}, context="before")
        store.add(arch(1), {"accuracy": 0.9}, context="after")
        assert store.get(arch(1), "accuracy") is None
        assert store.get(arch(1), "accuracy", context="before") == 0.5
        assert store.get(arch(1), "accuracy", context="after") == 0.9
        assert store.get(arch(2), "accuracy", context="after") is None


def test_contexts_and_seconds_by_metric(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        store.add(
            arch(1),
            {"accuracy": 0.5, "macs": 7.0},
            context={"accuracy": "weights"},
            seconds={"accuracy": 3.0},
        )
        entries = {entry.metric: entry for entry in store}
    assert entries["accuracy"].context == "weights"
    assert entries["macs"].context == ""
    assert (entries["accuracy"].seconds, entries["macs"].seconds) == (3.0, 0.0)


def test_the_first_value_holds_until_it_is_replaced(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store, Store(tmp_path / "e.sqlite") as other:
        assert store.add(arch(1), {"latency_ms": 4.0}) == {"latency_ms": 4.0}
        assert other.add(arch(1), {"latency_ms": 5.0}) == {"latency_ms": 4.0}
        other.replace(arch(1), {"latency_ms": 6.0}, seconds=1.0)
        assert store.get(arch(1), "latency_ms") == 6.0
        assert len(store) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_only_finite_numbers_are_stored(tmp_path: Path, value: float) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        with pytest.raises(InputError, match=r"accuracy of arch \w+ is (nan|inf)"):
            store.add(arch(1), {"macs": 1.0, "accuracy": value})
        assert len(store) == 0


def test_values_survive_to_the_last_bit(tmp_path: Path) -> None:
    values = {"a": 0.1 + 0.2, "b": 1e-300, "c": 12345678901234567.0, "d": -0.0}
    with Store(tmp_path / "e.sqlite") as store:
        store.add(arch(1), values)
        found = {name: store.get(arch(1), name) for name in values}
    assert found == values


def test_a_pickled_store_opens_the_same_file(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        store.add(arch(1), {"accuracy": 0.5})
        with pickle.loads(pickle.dumps(store)) as copy:
            assert copy.get(arch(1), "accuracy") == 0.5
    assert repr(store) == f"Store({str(tmp_path / 'e.sqlite')!r})"


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "e.sqlite")
    store.close()
    store.close()
    with pytest.raises(StorageError, match="was closed; open it again"):
        store.get(arch(1), "accuracy")


def test_closing_leaves_one_file(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        store.add(arch(1), {"accuracy": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["e.sqlite"]


def test_threads_share_a_store(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        threads = [
            threading.Thread(target=_add_many, args=(store, first, 25)) for first in (0, 100, 200)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(store) == 150


def _add_many(store: Store, first: int, count: int) -> None:
    for number in range(first, first + count):
        store.add(arch(number), {"accuracy": number / 1000, "loss": 1.0})
        store.get(arch(number), "accuracy")


@pytest.fixture(scope="module")
def processes() -> BaseContext:
    """Return what starts processes quickly: they are forked off one that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["manynet.search"])
    return context


def _write_in_a_process(path: Path, first: int, gate: Barrier) -> None:
    gate.wait()
    with Store(path) as store:
        for number in range(40):
            store.add(arch(first + number), {"accuracy": 0.5, "macs": float(number)})
            store.add(arch(10_000 + number), {"accuracy": float(first)})


def test_processes_write_at_once_to_a_store_that_none_has_made(
    tmp_path: Path, processes: BaseContext
) -> None:
    gate = processes.Barrier(3)
    workers = [
        processes.Process(target=_write_in_a_process, args=(tmp_path / "e.sqlite", first, gate))
        for first in (0, 1000, 2000)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    with Store(tmp_path / "e.sqlite") as store:
        assert len(store) == 3 * 40 * 2 + 40
        shared = {store.get(arch(10_000 + number), "accuracy") for number in range(40)}
    assert shared <= {0.0, 1000.0, 2000.0}


def _fork_with_an_open_store(path: Path) -> None:
    with Store(path) as store:
        store.add(arch(1), {"a": 1.0})
        child = os.fork()
        if not child:
            store.add(arch(2), {"a": 2.0})
            store.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        store.add(arch(3), {"a": 3.0})
        assert len(store) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_forked_process_uses_a_connection_of_its_own(
    tmp_path: Path, processes: BaseContext
) -> None:
    worker = processes.Process(target=_fork_with_an_open_store, args=(tmp_path / "e.sqlite",))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    with Store(tmp_path / "e.sqlite") as store:
        assert sorted(entry.value for entry in store) == [1.0, 2.0, 3.0]


def _write_until_killed(path: Path, pipe: Connection) -> None:
    store = Store(path)
    for number in range(10**9):
        store.add(arch(number), {"accuracy": number / 7, "macs": float(number)})
        pipe.send(number)


@pytest.mark.parametrize("until", [0, 60, 333])
def test_nothing_committed_is_lost_by_kill_9(
    tmp_path: Path, processes: BaseContext, until: int
) -> None:
    path = tmp_path / "e.sqlite"
    ours, theirs = processes.Pipe()
    worker = processes.Process(target=_write_until_killed, args=(path, theirs))
    worker.start()
    theirs.close()
    last = -1
    while last < until:
        last = ours.recv()
    worker.kill()
    worker.join(60)
    with contextlib.suppress(EOFError):
        while True:
            last = ours.recv()
    assert worker.exitcode == -signal.SIGKILL
    with Store(path) as store:
        for number in range(last + 1):
            assert store.values(arch(number)) == {
                ("accuracy", ""): number / 7,
                ("macs", ""): float(number),
            }
        assert len(store) % 2 == 0, "half of one arch's values was stored"
        store.add(arch(10**10), {"accuracy": 0.5})
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _filled(path: Path) -> Path:
    with Store(path) as store:
        for number in range(200):
            store.add(arch(number), {"accuracy": 0.5})
    return path


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    path.write_bytes(b"this is no database, it only looks like a file" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not an evaluation store; choose another path"):
        Store(path)
    assert path.read_bytes() == before


def test_a_truncated_store_is_refused(tmp_path: Path) -> None:
    path = _filled(tmp_path / "e.sqlite")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StorageError, match="damaged; move it away"):
        Store(path)


def test_a_store_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = _filled(tmp_path / "e.sqlite")
    data = bytearray(path.read_bytes())
    data[4096 : 4096 + 2048] = os.urandom(2048)
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged; move it away"):
        Store(path)


def test_a_database_of_somebody_else_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "photos.sqlite"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StorageError, match="not an evaluation store of manynet"):
        Store(path)
    assert path.read_bytes() == before


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = _filled(tmp_path / "e.sqlite")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match=r"version 99.*install a newer manynet"):
        Store(path)


def test_an_arch_that_is_no_json_is_damage(tmp_path: Path) -> None:
    path = _filled(tmp_path / "e.sqlite")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE evaluations SET arch = 'cposix\nsystem\n'")
    with Store(path) as store, pytest.raises(StorageError, match="damaged"):
        list(store)


@pytest.mark.parametrize("where", ["", "a_file/e.sqlite"])
def test_a_path_that_cannot_be_a_file(tmp_path: Path, where: str) -> None:
    (tmp_path / "a_file").write_text("x")
    with pytest.raises(StorageError, match="choose a"):
        Store(tmp_path / where)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write")
def test_a_folder_that_cannot_be_written() -> None:
    with pytest.raises(StorageError, match="folder that can be written"):
        Store("/proc/e.sqlite")


def test_a_store_that_became_read_only(tmp_path: Path) -> None:
    with Store(_filled(tmp_path / "e.sqlite")) as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(StorageError, match=r"cannot write.*folder that can be written"):
            store.add(arch(1000), {"accuracy": 0.5})
        assert len(store) == 200


def _fill_the_disk(path: Path, pipe: Connection) -> None:
    store = Store(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # as on a full disk, no file grows
    stored = 0
    try:
        for number in range(10**6):
            store.add(arch(number), {"accuracy": 0.5, "macs": 1.0})
            stored += 1
    except StorageError as error:
        pipe.send((stored, str(error)))


def test_no_space_left_is_told_and_loses_nothing(tmp_path: Path, processes: BaseContext) -> None:
    path = tmp_path / "e.sqlite"
    ours, theirs = processes.Pipe()
    worker = processes.Process(target=_fill_the_disk, args=(path, theirs))
    worker.start()
    theirs.close()
    stored, message = ours.recv()
    worker.join(60)
    assert "cannot write the evaluation store" in message
    assert "free some space" in message
    assert stored > 10
    with Store(path) as store:
        assert len(store) == 2 * stored


def test_a_full_disk_in_sqlites_words(tmp_path: Path) -> None:
    with Store(tmp_path / "e.sqlite") as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA max_page_count = 6")
        stored = 0
        with pytest.raises(StorageError, match="full; free some space"):
            for number in range(1000):
                store.add(arch(number), {"accuracy": 0.5, "macs": 1.0})
                stored += 1
        assert len(store) == 2 * stored
