"""The search on workers of Ray: the same front, from the same store, whoever is lost."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from supernet import INPUTS, TARGETS, conv_family, plain, plain_space
from torch import nn

from manynet.cost import Cost, macs, peak_memory
from manynet.deploy import calibrate
from manynet.errors import InputError, MissingExtraError, WorkerError
from manynet.family import Family
from manynet.search import Front, Metric, RayWorkers, Store, accuracy, read_entries, search
from manynet.search._cluster import connected
from manynet.search._wire import pack, unpack

ray = pytest.importorskip("ray", reason="needs manynet[ray]; try: pip install 'manynet[ray]'")


@pytest.fixture(scope="module")
def two_places() -> Iterator[None]:
    """Start Ray once for this file; the searches find it in use."""
    with connected(RayWorkers(2), 0):
        yield


def calibrated(member: nn.Module) -> nn.Module:
    return calibrate(member, INPUTS)


@dataclass
class Noted:
    """An accuracy that writes down each call, in whatever process: when, where, on how much."""

    folder: Path
    before: Callable[[nn.Module], object] = id
    judge: Metric = field(default_factory=lambda: accuracy((INPUTS, TARGETS)))
    name: str = "accuracy"
    higher_is_better: bool = True
    fingerprint: str = "48 images"

    def __call__(self, member: nn.Module) -> float:
        began = time.time()
        self.before(member)
        found = self.judge(member)
        size = sum(tensor.numel() for tensor in member.parameters())
        with (self.folder / f"calls-{os.getpid()}").open("a") as file:
            file.write(f"{began} {time.time()} {size}\n")
        return found

    @property
    def calls(self) -> list[tuple[float, float, int]]:
        lines = [
            line for path in self.folder.glob("calls-*") for line in path.read_text().splitlines()
        ]
        return [(float(a), float(b), int(c)) for a, b, c in map(str.split, lines)]


def run(family: Family, quality: Any = None, **more: Any) -> Front:
    settings: dict[str, Any] = {"costs": [macs()], "evaluations": 9, "calibrate": calibrated}
    return search(family, quality or accuracy((INPUTS, TARGETS)), **{**settings, **more})


# -- without a cluster -------------------------------------------------------------------------


def test_ray_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"needs ray.*manynet\[ray\]"):
        search(plain_space(), "score", costs=["cost"], evaluate=plain, workers=2)


def test_an_address_where_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        workers = RayWorkers(address=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(InputError, match=r"no Ray cluster answers at 127\.0\.0\.1"):
            run(conv_family(), workers=workers)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RayWorkers(0), "at least 1"),
        (lambda: RayWorkers(2, cpus=0), "above 0"),
        (lambda: RayWorkers(2, retries=-1), "at least 0"),
        (lambda: RayWorkers(address="ray://head:10001"), "HOST:PORT"),
        (lambda: RayWorkers(address="head"), "HOST:PORT"),
        (lambda: run(conv_family(), workers=-1), "a number"),
        (lambda: run(conv_family(), workers=True), "a number"),
    ],
)
def test_workers_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def locked(member: nn.Module) -> float:
        with lock:
            return 0.0

    with pytest.raises(InputError, match=r"the quality locked cannot be sent to workers.*lock"):
        run(conv_family(), Metric("locked", locked), workers=2)
    with pytest.raises(InputError, match="calibrate cannot be sent"):
        run(conv_family(), calibrate=locked, workers=2)


def test_tensors_lie_on_the_memory_that_they_are_read_from() -> None:
    family = conv_family().eval()
    metric = accuracy((INPUTS, TARGETS))
    assert metric.fingerprint
    state = torch.zeros(3)
    packed = pack((family, metric, state), family.state_dict().values(), ray.cloudpickle)
    shared = [*family.state_dict().values(), INPUTS, TARGETS]
    assert sum(memory.nbytes for memory in packed.memories) == sum(one.nbytes for one in shared)
    assert packed.stream.nbytes < 40_000
    packed = pickle.loads(pickle.dumps(packed))
    for memory in packed.memories:
        memory.flags.writeable = False
    opened = unpack(packed)
    again, _, copied = opened.value
    at = {memory.__array_interface__["data"][0] for memory in packed.memories}
    tensors = list(again.state_dict().values())
    assert all(tensor.data_ptr() in at for tensor in tensors)
    assert len(opened.shared) >= len(tensors)
    copied.add_(1)  # what a metric keeps for itself may be written
    for arch in family.space.enumerate():
        assert torch.equal(again.at(arch)(INPUTS), family.at(arch)(INPUTS))
    before = opened.writes()
    with torch.no_grad():
        again.extract(family.space.largest)[0].weight.add_(1)
    assert opened.writes() == before


def test_tensors_that_share_memory_share_it_after_the_way() -> None:
    base = torch.arange(12.0)
    view, row = base.view(3, 4).T, base[4:8]
    parameter = nn.Parameter(base)
    kinds = [torch.ones(2, dtype=torch.bfloat16), torch.empty(0), torch.tensor(3),
             torch.empty(2, device="meta")]  # fmt: skip
    opened = unpack(pack((base, view, row, parameter, kinds), [base], ray.cloudpickle))
    one, two, three, four, others = opened.value
    assert torch.equal(two, view) and two.stride() == view.stride()
    assert torch.equal(three, row) and isinstance(four, nn.Parameter) and four.requires_grad
    assert len({tensor.untyped_storage().data_ptr() for tensor in (one, two, three, four)}) == 1
    assert [one.dtype for one in others] == [one.dtype for one in kinds]
    assert torch.equal(others[0], kinds[0]) and others[2] == 3 and others[3].is_meta


# -- with one ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("two_places")
def test_the_front_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    family = conv_family()
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    most = macs().of_arch(family, family.space.largest) / 2

    def fronts(workers: int) -> Front:
        costs = [macs(), peak_memory()]
        more = {"costs": costs, "constraints": {"macs": most}, "seed": 3, "population": 4}
        store = tmp_path / f"{workers}.sqlite"
        return run(family, evaluations=14, workers=workers, store=store, **more)

    alone = fronts(0)
    stored = {(e.arch, e.metric, e.context, e.value) for e in read_entries(tmp_path / "0.sqlite")}
    for workers in (1, 2):
        assert fronts(workers).history == alone.history
        entries = read_entries(tmp_path / f"{workers}.sqlite")
        assert {(e.arch, e.metric, e.context, e.value) for e in entries} == stored
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def in_place(member: nn.Module) -> None:
    """Set the statistics as training does, by writing into them."""
    member.train()
    member(INPUTS)


@pytest.mark.usefixtures("two_places")
@pytest.mark.parametrize("strategy", ["linas", "random"])
def test_plain_functions_and_statistics_written_in_place(strategy: str) -> None:
    def fronts(workers: int) -> list[Front]:
        how: dict[str, Any] = {"evaluations": 24, "population": 8, "strategy": strategy}
        found = search(plain_space(4), "score", costs=["cost"], evaluate=plain, workers=workers,
                       **how)  # fmt: skip
        return [found, run(conv_family(), calibrate=in_place, evaluations=5, workers=workers)]

    assert [f.history for f in fronts(2)] == [f.history for f in fronts(0)]


def lies_in_the_object_store(member: nn.Module) -> float:
    """Return the share of a member's weights whose memory is that of Ray's store."""
    maps = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "plasma" in line:
            low, high = line.split()[0].split("-")
            maps.append((int(low, 16), int(high, 16)))
    inside = [any(a <= t.data_ptr() < b for a, b in maps) for t in member.parameters()]
    return float(np.mean(inside))


@pytest.mark.usefixtures("two_places")
@pytest.mark.skipif(sys.platform != "linux", reason="looks at the memory maps of Linux")
def test_workers_read_the_weights_in_the_object_store() -> None:
    metric = Metric("inside", lies_in_the_object_store)
    front = run(conv_family(), metric, evaluations=1, workers=2)  # the largest member
    assert front.history[0].quality == 1.0
    assert run(conv_family(), metric, evaluations=1).history[0].quality == 0.0


def spoil(member: nn.Module) -> float:
    with torch.no_grad():
        member[0].weight.add_(1.0)
    return 0.0


def refuse(member: nn.Module) -> float:
    raise ZeroDivisionError("no such member")


@pytest.mark.usefixtures("two_places")
def test_errors_of_a_worker_reach_the_caller() -> None:
    with pytest.raises(InputError, match=r"wrote into the family's weights.*deepcopy"):
        run(conv_family(), Metric("spoiled", spoil), workers=2)
    with pytest.raises(ZeroDivisionError, match="no such member") as caught:
        run(conv_family(), Metric("refused", refuse), workers=2)
    assert any("In a worker" in note and "refuse" in note for note in caught.value.__notes__)
    with pytest.raises(WorkerError, match=r"no machine of the Ray cluster has 64 CPU"):
        run(conv_family(), workers=RayWorkers(2, cpus=64))


@pytest.mark.usefixtures("two_places")
def test_clocks_are_read_here_while_no_worker_works(tmp_path: Path) -> None:
    readings: list[tuple[float, float]] = []

    def read(member: nn.Module, inputs: object) -> float:
        began = time.time()
        time.sleep(0.01)
        readings.append((began, time.time()))
        return 1.0

    clock = Cost("clock", "ms", read, measured=True, timed=True)
    noted = Noted(tmp_path)
    front = run(conv_family(), noted, costs=[macs(), clock], evaluations=12, workers=2)
    assert len(front.history) == len(readings) == len(noted.calls) == 12
    for began, ended in readings:
        assert not [call for call in noted.calls if call[0] < ended and began < call[1]]


@pytest.mark.usefixtures("two_places")
def test_an_interrupted_search_goes_on_and_pays_nothing_twice(tmp_path: Path) -> None:
    family, path = conv_family(), tmp_path / "e.sqlite"

    def stop(done: int, total: int, info: object) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(family, Noted(tmp_path), workers=2, store=path, progress=stop)
    with Store(path) as store:
        paid = {entry.arch for entry in store if entry.metric == "accuracy"}
    assert len(paid) >= 5
    again = tmp_path / "again"
    again.mkdir()
    noted = Noted(again)
    found = run(family, noted, workers=2, store=path)
    assert found.history == run(family).history
    assert len(noted.calls) == 9 - len(paid)


@dataclass
class Dies:
    """Kills its process in the middle of an evaluation, so often in all."""

    folder: Path
    times: int

    def __call__(self, member: nn.Module) -> None:
        for number in range(self.times):
            mark = self.folder / f"killed-{number}"
            if len(member[0].weight) == 4 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("two_places")
def test_a_lost_worker_is_made_up_for(tmp_path: Path) -> None:
    family = conv_family()
    noted = Noted(tmp_path, Dies(tmp_path, 1))
    found = run(family, noted, workers=2, store=tmp_path / "e.sqlite")
    assert (tmp_path / "killed-0").exists()
    assert found.history == run(family).history
    assert len(noted.calls) == 9  # the lost one has not come to its end


@pytest.mark.usefixtures("two_places")
def test_a_member_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    noted = Noted(tmp_path, Dies(tmp_path, 1))
    with pytest.raises(WorkerError, match=r"arch [0-9a-f]{12} was lost 1 times.*workers=0"):
        run(conv_family(), noted, workers=RayWorkers(1, retries=0))


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_workers import Noted, RayWorkers, conv_family, run

folder = Path(sys.argv[1])
print("searching", flush=True)
run(conv_family(), Noted(folder), workers=RayWorkers(2, address=sys.argv[2]),
    store=folder / "e.sqlite", progress=lambda done, *_: print(done, flush=True))
"""


@pytest.mark.slow
def test_a_killed_driver_is_resumed(tmp_path: Path, two_places: None) -> None:
    address = ray.get_runtime_context().gcs_address
    program = DRIVER.format(tests=str(Path(__file__).parent))
    driver = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), address],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        },  # join by the loopback address
    )
    assert driver.stdout is not None
    for line in driver.stdout:
        if line.strip() == "3":
            break
    driver.kill()
    driver.stdout.close()
    assert driver.wait() == -signal.SIGKILL
    paid = {e.arch for e in read_entries(tmp_path / "e.sqlite") if e.metric == "accuracy"}
    assert 3 <= len(paid) < 9
    again = tmp_path / "again"
    again.mkdir()
    noted = Noted(again)
    found = run(conv_family(), noted, workers=2, store=tmp_path / "e.sqlite")
    assert found.history == run(conv_family()).history
    assert len(noted.calls) == 9 - len(paid)


STARTER = """
import json, sys, time
sys.path.insert(0, {tests!r})
import psutil
from test_workers import run, conv_family

def look(done, total, info):
    if done == 3:
        here = psutil.Process()
        everyone = [here, *here.children(recursive=True)]
        sockets = [s for one in everyone for s in one.net_connections("inet")]
        print(json.dumps({{
            "processes": [one.pid for one in everyone],
            "listen": sorted({{s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN}}),
            "reach": sorted({{s.raddr.ip for s in sockets if s.raddr}}),
        }}), flush=True)
        time.sleep(60)

run(conv_family(), workers=2, store=sys.argv[1], progress=look)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="sockets of other processes, as Linux has them")
def test_ray_stays_on_this_machine_and_ends_with_the_search(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite"
    program = STARTER.format(tests=str(Path(__file__).parent))
    searching = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert searching.stdout is not None
    found = json.loads(searching.stdout.readline())
    assert len(found["processes"]) > 3
    for address in [*found["listen"], *found["reach"]]:
        assert address.rpartition(":")[2].startswith("127."), found
    searching.send_signal(signal.SIGINT)
    _, errors = searching.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    until = time.monotonic() + 30
    while left := [process for process in found["processes"] if psutil.pid_exists(process)]:
        assert time.monotonic() < until, left
        time.sleep(0.1)
    assert len(read_entries(path)) >= 3
