"""The members that a server switches between: one set of weights, statistics for each."""

from __future__ import annotations

import inspect
import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from manynet._inputs import Inputs, moved, with_batch
from manynet.cost import LatencyCost, latency
from manynet.errors import InputError
from manynet.family import Family
from manynet.run import Event, Tell, silent
from manynet.search import Record
from manynet.serve._policy import Candidate
from manynet.space import Arch

__all__ = ["Members", "Takes", "takes_of"]

_PASSES, _WARM_UP = 18, 3


@dataclass(frozen=True)
class Takes:
    """One tensor that the members take.

    Args:
        name: of the argument.
        shape: of one sample.
        dtype: of its numbers, as NumPy calls it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str


class Members:
    """Some members of a family, ready to serve: the best quality last.

    The weights are the family's. Of each member its own batch-norm statistics are kept, which it
    gets back where the family has meanwhile given up the built member and builds it anew.

    Args:
        family: in eval mode.
        records: of the members; their quality and costs are told to whoever asks.
        inputs: example inputs.
        higher_is_better: whether more quality is better.
        prepare: sets a member's batch-norm statistics, in place.
        threads: of PyTorch during a pass.
        tell: hears how far it is.
    """

    def __init__(
        self,
        family: Family,
        records: Sequence[Record],
        inputs: Inputs,
        *,
        higher_is_better: bool = True,
        prepare: Callable[[nn.Module], object] | None = None,
        threads: int = 1,
        tell: Tell = silent,
    ) -> None:
        sign = 1.0 if higher_is_better else -1.0
        self.records = sorted(records, key=lambda record: sign * record.quality)
        self.family = family.eval()
        self.takes = takes_of(family.shared, inputs)
        self.clock: LatencyCost = latency(family.device, threads=threads)
        self._inputs = moved(inputs, family.device)
        self._statistics: dict[Arch, dict[str, Tensor]] = {}
        self._ready: dict[Arch, weakref.ref[nn.Module]] = {}
        for number, record in enumerate(self.records, start=1):
            self._add(record.arch, prepare)
            tell(Event("set statistics", number, len(self.records), record.arch.key))

    def _add(self, arch: Arch, prepare: Callable[[nn.Module], object] | None) -> None:
        member = self.family.at(arch)
        if prepare is not None:
            prepare(member)
        self._statistics[arch] = {
            name: buffer
            for name, buffer in member.named_buffers()
            if name.rpartition(".")[2] in ("running_mean", "running_var")
        }
        self._ready[arch] = weakref.ref(member)

    def at(self, place: int) -> nn.Module:
        """Return the member at a place of the order, with its own statistics."""
        arch = self.records[place].arch
        member = self.family.at(arch)
        if self._ready[arch]() is not member:
            for path, statistic in self._statistics[arch].items():
                owner, _, name = path.rpartition(".")
                member.get_submodule(owner)._buffers[name] = statistic
            self._ready[arch] = weakref.ref(member)
        return member

    def measured(self, max_batch: int, tell: Tell = silent) -> list[Candidate]:
        """Return the members with the time that each takes at 1, 2, 4 … `max_batch` samples."""
        sizes = [size for size in (2**n for n in range(16)) if size < max_batch] + [max_batch]
        found = []
        for place, record in enumerate(self.records):
            times = {size: self._time_ms(place, size) for size in sizes}
            found.append(
                Candidate(
                    record.arch.key,
                    record.arch.to_json(),
                    record.quality,
                    dict(record.costs),
                    times,
                )
            )
            text = f"{times[1]:.2f} ms alone, {times[max_batch]:.2f} ms for {max_batch}"
            tell(Event("measure members", place + 1, len(self.records), text))
        return found

    def _time_ms(self, place: int, samples: int) -> float:
        """Return the median time of a pass; what other work took of the core does not count.

        It comes and goes, and is what `Engine.pace` follows.
        """
        inputs = with_batch(self._inputs, samples)
        member = self.at(place)
        clock = self.clock.clock_of(lambda: member(*inputs))
        return statistics.median([clock() and clock.own_ms for _ in range(_PASSES)][_WARM_UP:])

    def run(self, place: int, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return what a member makes of the samples of `arrays`, by the names of its outputs."""
        given = iter([torch.from_numpy(arrays[one.name]) for one in self.takes])
        inputs = tuple(next(given) if isinstance(x, Tensor) else x for x in self._inputs)
        outputs = self.at(place)(*moved(inputs, self.family.device))
        samples = len(next(iter(arrays.values())))
        found = {name: tensor.cpu().numpy() for name, tensor in _named(outputs).items()}
        for name, array in found.items():
            if array.ndim == 0 or len(array) != samples:
                raise InputError(
                    f"the network's output {name!r} has shape {array.shape} for {samples} samples; "
                    "serving needs outputs with one row a sample"
                )
        return found


def takes_of(model: nn.Module, inputs: Inputs) -> tuple[Takes, ...]:
    """Return which tensors a network takes, from example inputs of it.

    Raises:
        InputError: a tensor does not hold one sample a row, so that requests cannot share a pass.
    """
    names = _names(model, len(inputs))
    found = []
    for name, value in zip(names, inputs, strict=True):
        if isinstance(value, Tensor):
            if value.dim() == 0 or len(value) != len(inputs[0]):
                raise InputError(
                    f"the network's input {name!r} has shape {tuple(value.shape)}; serving needs "
                    "inputs with one row a sample"
                )
            dtype = str(np.dtype(str(value.dtype).removeprefix("torch.")))
            found.append(Takes(name, tuple(value.shape[1:]), dtype))
    return tuple(found)


def _names(model: nn.Module, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = inspect.signature(model.forward).parameters.values()
    names = [parameter.name for parameter in known if parameter.kind in kinds]
    return [*names, *(f"input{n}" for n in range(len(names), count))][:count]


def _named(outputs: object) -> dict[str, Tensor]:
    """Return the tensors of a network's outputs by name; a single one is `output`."""
    if isinstance(outputs, Tensor):
        return {"output": outputs}
    if isinstance(outputs, Mapping):
        return {str(n): value for n, value in outputs.items() if isinstance(value, Tensor)}
    parts = outputs if isinstance(outputs, tuple | list) else ()
    return {f"output.{n}": value for n, value in enumerate(parts) if isinstance(value, Tensor)}
