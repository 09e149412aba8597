"""Archs judged by workers ahead of the one that is asked for, each once, and stored as they come.

The order in which workers answer decides nothing: a search takes the evaluations in the order in
which it asked for them. What a clock measures is measured here, in the process that searches,
while no worker works.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from manynet._version import __version__
from manynet.errors import InputError, WorkerError
from manynet.search._cluster import connected, ray_library
from manynet.search._judge import Judge, Place, Step
from manynet.search._task import Found, Settings, judge_in_worker
from manynet.search._wire import Packed, pack
from manynet.search.strategies import Evaluation
from manynet.search.workers import RayWorkers
from manynet.space import Arch

__all__ = ["Alone", "Crew", "Judging", "judging"]


class Judging(Protocol):
    """What a search gets its evaluations from."""

    @property
    def working(self) -> int:
        """How many workers judge an arch just now."""
        ...

    def announce(self, archs: Sequence[Arch]) -> None:
        """Take note of archs that are likely to be asked for next, in this order."""
        ...

    def evaluation(self, arch: Arch, room: int) -> Evaluation:
        """Return the evaluation of `arch`; of it and of those announced, judge at most `room`."""
        ...


@dataclass
class Alone:
    """Judges in this process, one arch after the other."""

    judge: Judge
    working: int = 0

    def announce(self, archs: Sequence[Arch]) -> None:
        """Take no note."""

    def evaluation(self, arch: Arch, room: int) -> Evaluation:
        """Judge `arch`."""
        return self.judge(arch)


@contextlib.contextmanager
def judging(judge: Judge, workers: RayWorkers | None) -> Iterator[Judging]:
    """Return what judges: workers, or this process.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: something cannot be sent to workers, or the cluster cannot be reached.
        WorkerError: Ray cannot be started, or there is no room for an evaluation.
    """
    if workers is None:
        yield Alone(judge)
        return
    packed = _packed(judge, workers)
    alone = workers.address is None and not ray_library().is_initialized()
    with connected(workers, packed.nbytes) as ray:
        crew = Crew(judge, workers, ray, ray.put(packed), alone)
        try:
            yield crew
        finally:
            crew.dismiss()


@dataclass
class _Case:
    """An arch that is being judged."""

    arch: Arch
    known: dict[str, float]
    step: Step = ()
    """What is to be measured next; nothing at the end."""
    busy: bool = False
    error: Exception | None = None


@dataclass
class Crew:
    """Judges with workers.

    Args:
        judge: what is measured, and where it is stored.
        workers: how many, and what each needs.
        ray: the module, connected.
        parcel: Ray's reference to the packed judge.
        alone: whether the cluster was started for this search, so that it has as many places as
            there are workers.
    """

    judge: Judge
    workers: RayWorkers
    ray: Any
    parcel: Any
    alone: bool = False
    _announced: deque[Arch] = field(default_factory=deque)
    _cases: dict[Arch, _Case] = field(default_factory=dict)
    _running: dict[Any, _Case] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._settings = Settings.here(self.workers.threads)
        self._places = self._room()
        self._task = self.ray.remote(judge_in_worker).options(
            num_cpus=self.workers.cpus,
            num_gpus=self.workers.gpus,
            max_retries=self.workers.retries,
            name="judge",
        )

    @property
    def working(self) -> int:
        """How many evaluations are under way."""
        return min(len(self._running), self._places)

    def announce(self, archs: Sequence[Arch]) -> None:
        """Take note of archs that will be asked for, in this order."""
        self._places = self._room()
        self._announced = deque(arch for arch in dict.fromkeys(archs) if arch not in self._cases)

    def evaluation(self, arch: Arch, room: int) -> Evaluation:
        """Return the evaluation of `arch`, and let those announced be judged meanwhile.

        No more are begun than `room`, so that a search never pays for more than it was given.

        Raises:
            WorkerError: workers were lost again and again.
            Exception: what measuring it has raised.
        """
        if arch not in self._cases:
            self._begin(arch)
        while self._announced and len(self._cases) < room:
            if self._announced[0] not in self._cases:
                self._begin(self._announced[0])
            self._announced.popleft()
        case = self._cases[arch]
        while case.step:
            self._go_on()
        del self._cases[arch]
        if case.error is not None:
            raise case.error
        return self.judge.evaluation(arch, case.known)

    def dismiss(self) -> None:
        """Let go of what is still under way."""
        for reference in self._running:
            with contextlib.suppress(Exception):
                self.ray.cancel(reference)
        self._running.clear()

    def _begin(self, arch: Arch) -> None:
        case = self._cases[arch] = _Case(arch, self.judge.known(arch))
        self._settle(case)

    def _settle(self, case: _Case) -> None:
        """Find out what is to be measured next, and look up what there is a table of."""
        case.step = self.judge.next_step(case.known)
        while case.step and self.judge.place(case.step) is Place.HERE:
            self._measure(case)

    def _measure(self, case: _Case) -> None:
        """Measure one step in this process; an error waits until its arch is asked for."""
        try:
            self._keep(case, *self.judge.measured(case.step, case.arch))
            case.step = self.judge.next_step(case.known)
        except Exception as error:
            case.error, case.step = error, ()

    def _keep(self, case: _Case, values: Mapping[str, float], seconds: float) -> None:
        case.known.update(self.judge.kept(case.arch, values, seconds))

    def _go_on(self) -> None:
        """Hand out what workers can do and wait for one; with none at work, read the clocks."""
        ready = [case for case in self._cases.values() if case.step and not case.busy]
        timed = [case for case in ready if self.judge.place(case.step) is Place.ALONE]
        for case in ready:
            if case not in timed and self._has_place():
                self._hand_out(case)
        if self._running:
            done, _ = self.ray.wait(list(self._running), num_returns=1)
            for reference in done:
                self._take_in(reference)
        else:
            for case in timed:
                self._measure(case)
                self._settle(case)

    def _has_place(self) -> bool:
        """Return whether to hand out more; Ray queues what has no room, and so can grow."""
        if self.workers.count is None:
            return True
        most = 2 * self.workers.count if self.alone else self.workers.count
        return len(self._running) < most

    def _room(self) -> int:
        """Return how many evaluations have room at once, for those who watch."""
        room = int(self.ray.cluster_resources().get("CPU", 0.0) / self.workers.cpus)
        return room if self.workers.count is None else min(room, self.workers.count)

    def _hand_out(self, case: _Case) -> None:
        case.busy = True
        reference = self._task.remote([self.parcel], self._settings, case.arch, case.known)
        self._running[reference] = case

    def _take_in(self, reference: Any) -> None:
        """Store what a worker has found; an error waits until its arch is asked for."""
        case = self._running.pop(reference)
        case.busy = False
        try:
            found: Found = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            case.error, case.step = _lost(error, case.arch, self.workers), ()
            return
        for values, seconds in found.steps:
            self._keep(case, values, seconds)
        if found.error is None:
            self._settle(case)
        else:
            found.error.add_note(f"In a worker:\n{found.where}")
            case.error, case.step = found.error, ()


def _lost(error: Exception, arch: Arch, workers: RayWorkers) -> WorkerError:
    """Say what became of a task that Ray gave up."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    if isinstance(cause, ImportError):
        return WorkerError(
            f"a worker cannot load its task: {lines[-1]}; every machine of the cluster "
            f"needs manynet {__version__} and Ray {ray_library().__version__}"
        )
    return WorkerError(
        f"the worker that judged arch {arch.key} was lost {workers.retries + 1} times "
        f"({type(cause).__name__}: {lines[0]}); it may have run out of memory, or crashed in code "
        "of the model or the metric: judge this arch with workers=0 to see"
    )


# -- what workers are sent ---------------------------------------------------------------------


def _packed(judge: Judge, workers: RayWorkers) -> Packed:
    """Return the judge as workers get it; what cannot be sent is named."""
    family = judge.family
    tensors: list[Tensor] = [] if family is None else list(family.state_dict().values())
    if not workers.gpus and any(tensor.is_cuda for tensor in tensors):
        raise InputError(
            "the family is on a GPU; say how much of one an evaluation gets, such as "
            "RayWorkers(2, gpus=0.5), or search with the family on the CPU"
        )
    str(getattr(judge.quality, "fingerprint", ""))  # reads the data, so that workers need not
    sent = judge.for_workers()
    cloudpickle = ray_library().cloudpickle
    try:
        return pack(sent, tensors, cloudpickle)
    except Exception as error:
        raise _unsendable(sent, tensors, cloudpickle, error) from error


def _unsendable(
    judge: Judge, tensors: Sequence[Tensor], cloudpickle: Any, error: Exception
) -> InputError:
    """Say which of the arguments cannot be pickled."""
    parts: Mapping[str, object] = {
        "family": judge.family or judge.space,
        f"the quality {judge.quality.name}": judge.quality,
        **{f"the cost {name}": cost for name, cost in judge.costs.items()},
        "calibrate": judge.calibrate,
        "evaluate": judge.evaluate,
    }
    for what, part in parts.items():
        try:
            pack(part, tensors, cloudpickle)
        except Exception as own:
            return InputError(_advice(what, own))
    return InputError(_advice("the search", error))


def _advice(what: str, error: Exception) -> str:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return (
        f"{what} cannot be sent to workers ({reason}); it must be picklable: let it hold data and "
        "functions, and open files, locks and generators when it is called; or search with "
        "workers=0"
    )
