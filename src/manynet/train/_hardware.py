"""Device, precision and processes of a run, as `accelerate` finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from manynet.errors import InputError, TrainingError, did_you_mean
from manynet.family import Family

__all__ = ["Hardware", "find_hardware", "training_alone"]

T = TypeVar("T")

DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BUCKET_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Hardware:
    """Where a run happens.

    Attributes:
        device: of this process.
        precision: `"no"` (float32), `"bf16"` or `"fp16"`.
        processes: how many share each step's batch.
        rank: which of them this is, from 0; the first one writes the files.
    """

    device: torch.device
    precision: str = "no"
    processes: int = 1
    rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which members compute."""
        if self.precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision])

    def share_weights(self, family: Family) -> None:
        """Give every process the first one's weights and statistics."""
        if self.processes > 1:
            for tensor in family.state_dict().values():
                distributed.broadcast(tensor.detach(), 0)

    def from_first(self, value: T) -> T:
        """Return what the first process has; the others wait for it, a week if need be."""
        if self.processes == 1:
            return value
        values: list[Any] = [value]
        group = _patient_group()
        distributed.broadcast_object_list(values, 0, group=group, device=torch.device("cpu"))
        found: T = values[0]
        return found

    @torch.no_grad()
    def average(self, family: Family, losses: Tensor) -> None:
        """Average a step's gradients, statistics and losses over the processes, in place.

        Once a step, after all of its members: a wrapper that follows each backward pass would
        send the shared gradients once for every member. A parameter that only other processes
        have touched gets its gradient here.
        """
        if self.processes == 1:
            return
        parameters = [part for part in family.parameters() if part.requires_grad]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        present = torch.tensor([float(p.grad is not None) for p in parameters])
        present = present.to(self.device)
        statistics = [part for part in family.shared.buffers() if part.is_floating_point()]
        self._average([*grads, present, *statistics, losses])
        for parameter, grad, share in zip(parameters, grads, present.tolist(), strict=True):
            if share:
                parameter.grad = grad

    def _average(self, tensors: Sequence[Tensor]) -> None:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            try:
                distributed.all_reduce(flat)
            except RuntimeError as error:
                raise TrainingError(
                    "another process of this training is gone "
                    f"({str(error).splitlines()[0]}); start all of them again: they go on from the "
                    "newest checkpoint"
                ) from error
            flat /= self.processes
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))


def _patient_group() -> Any:
    """Return a group of all processes whose members wait long for each other."""
    if not _patient:
        _patient.append(distributed.new_group(backend="gloo", timeout=timedelta(days=7)))
    return _patient[0]


_patient: list[Any] = []
_alone: ContextVar[bool] = ContextVar("_alone", default=False)


@contextmanager
def training_alone() -> Iterator[None]:
    """Train in this process alone for a while, whatever it was launched by."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for same in by_type.values():
        bucket: list[Tensor] = []
        for tensor in same:
            if bucket and sum(part.nbytes for part in bucket) + tensor.nbytes > BUCKET_BYTES:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


def find_hardware(
    precision: str | None = None, device: torch.device | str | None = None
) -> Hardware:
    """Return what `accelerate` finds: a GPU if there is one, the processes of a launch.

    Args:
        precision: by default what `accelerate launch` was told, else float32.
        device: another device than the one found.

    Raises:
        InputError: a precision that is unknown, or that this device does not have.
    """
    from accelerate import Accelerator

    accelerator = Accelerator()
    place = accelerator.device if device is None else torch.device(device)
    kind = precision or accelerator.mixed_precision
    if kind not in DTYPES:
        raise InputError(f"precision {kind!r} is unknown{did_you_mean(kind, DTYPES)}")
    if kind == "fp16" and place.type == "cpu":
        raise InputError('precision="fp16" needs a GPU, and this runs on the CPU; try "bf16"')
    parallel = distributed.is_available() and distributed.is_initialized() and not _alone.get()
    return Hardware(
        place,
        kind,
        distributed.get_world_size() if parallel else 1,
        distributed.get_rank() if parallel else 0,
    )
