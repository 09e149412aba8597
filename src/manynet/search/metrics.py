"""How good a member is: accuracy, loss, or a function of the user's own.

Letters in shapes: `N` samples, `K` classes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor, nn

from manynet._inputs import (
    Inputs,
    Named,
    batches,
    call,
    device_of,
    evaluating,
    moved,
    tensors_in,
)
from manynet.errors import InputError
from manynet.space import Arch

if TYPE_CHECKING:
    from torch.utils.data import Dataset

__all__ = [
    "BatchesOnce",
    "Data",
    "Metric",
    "accuracy",
    "finite",
    "logits_in",
    "loss",
    "metric",
    "tensor_bytes",
]

HOLD_BYTES = 2**31
"""Data up to this size is kept as tensors on the member's device; more is streamed."""

Data: TypeAlias = (
    "tuple[Tensor, Tensor] | Dataset[tuple[Tensor, Tensor]] | Iterable[tuple[Tensor, Tensor]]"
)
_Batch: TypeAlias = tuple[Inputs | Named, Tensor]


@dataclass(frozen=True)
class Metric:
    """A named quality of a member, such as `accuracy`; call it with the member.

    Args:
        name: what it is called in a front, a store and a budget.
        function: takes the member, in evaluation mode, and returns a number. None where the values
            come from the `evaluate` function of a search.
        unit: of the number; empty for a share.
        higher_is_better: whether more of it is better.

    Raises:
        InputError: when called: the number is not finite.

    Example:
        >>> Metric("error", higher_is_better=False).name
        'error'
    """

    name: str
    function: Callable[[nn.Module], float] | None = None
    unit: str = ""
    higher_is_better: bool = True

    @property
    def fingerprint(self) -> str:
        """What the number depends on besides the member: the data, where the function tells."""
        return str(getattr(self.function, "fingerprint", ""))

    def __call__(self, member: nn.Module) -> float:
        """Return the number for `member`, in evaluation mode and without gradients."""
        if self.function is None:
            raise InputError(f"{self.name} has no function; search with evaluate=…, or give it one")
        with evaluating(member), torch.no_grad():
            return finite(self.name, self.function(member))


def metric(
    name: str, *, unit: str = "", higher_is_better: bool = True
) -> Callable[[Callable[[nn.Module], float]], Metric]:
    """Make a metric of a function: write this above it.

    Example:
        >>> @metric("sparsity")
        ... def sparsity(member):
        ...     weights = torch.cat([p.flatten() for p in member.parameters()])
        ...     return (weights == 0).float().mean()
        >>> sparsity(nn.Linear(2, 2))
        0.0
    """

    def decorate(function: Callable[[nn.Module], float]) -> Metric:
        return Metric(name, function, unit, higher_is_better)

    return decorate


def accuracy(
    data: Data,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Metric:
    """Return the metric `accuracy`: the share of samples whose largest logit is the target's.

    The data is read once and kept on the device (up to 2 GiB; more is read anew each time).

    Args:
        data: `(inputs, targets)` tensors, a data set of such pairs, or a loader of such batches.
        batch_size: samples a forward pass, where `data` is not batched yet.
        device: where to keep the data; None means where the member is.
        limit: use only the first so many samples.

    Shapes:
        The member returns logits `(N, K, ...)` for targets `(N, ...)`.

    Raises:
        InputError: there is no data, or the member returns no logits that fit the targets.

    Example:
        >>> judge = accuracy((torch.eye(3), torch.tensor([0, 1, 1])))
        >>> round(judge(nn.Identity()), 3)
        0.667
    """
    return Metric("accuracy", _Supervised(BatchesOnce(data, batch_size, device, limit), _hits))


def loss(
    data: Data,
    function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    *,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Metric:
    """Return the metric `loss`: `function(outputs, targets)` in the mean; less is better.

    Args:
        data: as for `accuracy`.
        function: takes outputs and targets of a batch and returns the mean over it.
        batch_size: samples a forward pass, where `data` is not batched yet.
        device: where to keep the data; None means where the member is.
        limit: use only the first so many samples.

    Raises:
        InputError: there is no data, or the loss is not finite.

    Example:
        >>> judge = loss((torch.zeros(4, 2), torch.ones(4, 2)), nn.functional.mse_loss)
        >>> judge(nn.Identity())
        1.0
    """

    def total(outputs: Tensor, targets: Tensor) -> Tensor:
        return function(outputs, targets) * len(targets)

    judge = _Supervised(BatchesOnce(data, batch_size, device, limit), total)
    return Metric("loss", judge, higher_is_better=False)


class _Supervised:
    """The mean over samples of `score(outputs, targets)`, which sums over a batch."""

    def __init__(self, batches: BatchesOnce, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.batches = batches
        self.score = score

    @property
    def fingerprint(self) -> str:
        return self.batches.fingerprint

    @torch.no_grad()
    def __call__(self, member: nn.Module) -> float:
        total, count = None, 0
        for inputs, targets in self.batches.on(device_of(member)):
            score = self.score(logits_in(call(member, inputs)), targets)
            total = score if total is None else total + score
            count += len(targets)
        if total is None:
            raise InputError("there is no sample to judge a member with; check the validation data")
        return float(total) / count


class BatchesOnce:
    """Batches of `(inputs, targets)`, read once and kept on a device where they are not too big."""

    def __init__(
        self, data: Data, size: int, device: torch.device | str | None, limit: int | None
    ) -> None:
        if size < 1 or (limit is not None and limit < 1):
            raise InputError(f"batch_size ({size}) and limit ({limit}) must be at least 1")
        self._data, self._size, self._limit = data, size, limit
        self._device = None if device is None else torch.device(device)
        self._held: list[_Batch] | None = None
        self._held_on: torch.device | None = None
        self._fingerprint = ""

    def on(self, device: torch.device) -> Iterable[_Batch]:
        """Return the batches, on a device."""
        device = self._device or device
        if not self._fingerprint:
            self._look()
        if self._held is None:
            return (_move(batch, device) for batch in self._read())
        if self._held_on != device:
            self._held = [_move(batch, device) for batch in self._held]
            self._held_on = device
        return self._held

    @property
    def fingerprint(self) -> str:
        """A hash of the data; where it is too big to keep, of its beginning."""
        if not self._fingerprint:
            self._look()
        return self._fingerprint

    @property
    def held(self) -> list[Tensor]:
        """The tensors of the data, where it was read and is kept."""
        return tensors_in(self._held)

    def __getstate__(self) -> dict[str, object]:
        """Leave the data itself out where all of it is kept: it may be a loader, or a file."""
        return vars(self) | ({} if self._held is None else {"_data": ()})

    def _look(self) -> None:
        """Read the data once: take its fingerprint, and keep it if it is not too big."""
        digest = hashlib.blake2b(digest_size=8)
        held: list[_Batch] = []
        size = 0
        for batch in self._read():
            for tensor in tensors_in(batch):
                digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(tensor_bytes(tensor))
                size += tensor.nbytes
            if size > HOLD_BYTES:
                break
            held.append(batch)
        self._held = held if size <= HOLD_BYTES else None
        self._fingerprint = digest.hexdigest()

    def _read(self) -> Iterator[_Batch]:
        left = self._limit
        for inputs, targets in batches(self._data, batch_size=self._size):
            if not isinstance(targets, Tensor) or targets.dim() == 0:
                raise InputError(
                    f"a batch must be (inputs, targets), and its targets are {_describe(targets)}; "
                    "wrap the data, or write a metric of your own with @manynet.metric"
                )
            size = len(targets) if left is None else min(left, len(targets))
            if size:
                yield _first(inputs, size), targets[:size]
            left = None if left is None else left - size
            if left == 0:
                return


def _first(inputs: Inputs | Named, size: int) -> Inputs | Named:
    """Return the inputs of the first `size` samples."""
    if isinstance(inputs, Mapping):
        return {name: part[:size] for name, part in inputs.items()}
    return tuple(part[:size] for part in inputs)


def _move(batch: _Batch, device: torch.device) -> _Batch:
    return moved(batch[0], device), batch[1].to(device)


def logits_in(outputs: object) -> Tensor:
    """Return the logits of what a network returned: itself, or its `logits`."""
    if isinstance(outputs, dict):
        found = outputs.get("logits")
    else:
        found = getattr(outputs, "logits", outputs)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the network returns {_describe(outputs)}, and this metric needs one tensor; "
            "write a metric of your own with @manynet.metric"
        )
    return found


def _hits(logits: Tensor, targets: Tensor) -> Tensor:
    expected = (*logits.shape[:1], *logits.shape[2:])
    if logits.dim() < 2 or targets.shape != expected or targets.is_floating_point():
        raise InputError(
            f"accuracy needs logits (N, K, ...) and class numbers (N, ...), and found logits "
            f"{tuple(logits.shape)} and targets {tuple(targets.shape)} of {targets.dtype}"
        )
    if not bool(torch.isfinite(logits).all()):
        raise InputError(
            "the network returns values that are not finite; its weights may have diverged, "
            "or its batch-norm statistics were never set: train it, or calibrate it first"
        )
    return (logits.argmax(1) == targets).sum() / targets[0].numel()


def finite(name: str, value: object, arch: Arch | None = None) -> float:
    """Return `value`, measured for `arch`, as a float.

    Raises:
        InputError: it is not one number, or is not finite.
    """
    plain = value.detach() if isinstance(value, Tensor) else value
    try:
        number = float(plain)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} of {_name(arch)} must be one number, and is {_describe(value)}; "
            f"look at the function that measures {name}"
        ) from error
    if not math.isfinite(number):
        raise InputError(
            f"{name} of {_name(arch)} is {number}; the weights may have diverged, or the data or "
            f"the function that measures {name} gives values that are not finite"
        )
    return number


def _name(arch: Arch | None) -> str:
    return "this member" if arch is None else f"arch {arch.key}"


def tensor_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of `tensor`, row by row, as they are in memory."""
    rows = tensor.detach().cpu().contiguous().reshape(-1)
    return rows.view(torch.uint8).numpy().tobytes()


def _describe(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
