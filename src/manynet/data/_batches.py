"""Whole batches of any data set, in any order: in one indexing where its samples are tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar, cast, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from manynet.errors import InputError

__all__ = ["Batch", "Inputs", "TakesBatches", "batches", "collate_batches", "taker", "to_device"]

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a network is called with: one tensor, several, or named ones."""

Batch = tuple[Inputs, Tensor]
"""The inputs and the targets of several samples."""

Taker = Callable[[Tensor, torch.device], Batch]

Value = TypeVar("Value")


@runtime_checkable
class TakesBatches(Protocol):
    """A data set that makes a whole batch itself, which is faster than a sample at a time."""

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Batch:
        """Return the samples at `indices` on `device`."""


def to_device(value: Value, device: torch.device | str) -> Value:
    """Move every tensor in tuples, lists and mappings to `device`, without waiting for it."""
    if isinstance(value, Tensor):
        return cast("Value", value.to(device, non_blocking=True))
    if isinstance(value, dict):
        return cast("Value", {key: to_device(item, device) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        return cast("Value", type(value)([to_device(item, device) for item in value]))
    return value


def taker(dataset: Dataset[tuple[Tensor, ...]]) -> Taker | None:
    """Return a function that takes a whole batch at once, or `None` if samples come singly."""
    if isinstance(dataset, TakesBatches):
        return dataset.batch
    if isinstance(dataset, TensorDataset):
        return lambda indices, device: _index(dataset.tensors, indices, device)
    return None


def _index(tensors: Sequence[Tensor], indices: Tensor, device: torch.device) -> Batch:
    parts = tuple(tensor[indices.to(tensor.device)] for tensor in tensors)
    if device.type == "cuda":
        parts = tuple(part if part.is_cuda else part.pin_memory() for part in parts)
    parts = to_device(parts, device)
    return (parts[0] if len(parts) == 2 else parts[:-1]), parts[-1]


def batches(
    dataset: Dataset[tuple[Tensor, ...]],
    size: int,
    *,
    order: Tensor | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> Iterator[Batch]:
    """Yield the samples of `dataset` in batches of `size`, the last one as long as what is left.

    Args:
        dataset: anything with a length and an index; tensors and `Images` are taken whole.
        size: samples in a batch.
        order: indices of the samples to yield; all of them, from the first, when left out.
        device: where the batches shall lie.
        workers: processes that load samples, where these come singly.

    Example:
        >>> import torch
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.arange(5.0), torch.arange(5))
        >>> [targets.tolist() for _, targets in batches(data, 2)]
        [[0, 1], [2, 3], [4]]
    """
    device = torch.device(device)
    if order is None:
        order = torch.arange(len(dataset))  # type: ignore[arg-type] # every data set here is sized
    chunks = torch.split(order, size) if len(order) else ()
    take = taker(dataset)
    if take is None:
        indices = [chunk.tolist() for chunk in chunks]
        yield from collate_batches(dataset, indices, default_collate, device, workers)
        return
    for chunk in chunks:
        yield take(chunk, device)


def collate_batches(
    dataset: Dataset[tuple[Tensor, ...]],
    indices: Iterable[object],
    collate: Callable[[list[object]], object],
    device: torch.device,
    workers: int,
) -> Iterator[Batch]:
    """Yield batches that are put together sample by sample.

    Args:
        dataset: the samples; its `__getitems__`, if it has one, gets each element of `indices`.
        indices: what makes up each batch.
        collate: makes one batch of a list of samples.
        device: where the batches shall lie.
        workers: processes that load.
    """
    loader: DataLoader[object] = DataLoader(
        dataset,
        batch_sampler=indices,  # type: ignore[arg-type] # any object that the data set understands
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    for parts in loader:
        yield _as_batch(to_device(parts, device))


def _as_batch(parts: object) -> Batch:
    if isinstance(parts, dict):
        label = next((word for word in ("labels", "label", "target") if word in parts), None)
        if label is not None:
            return {key: value for key, value in parts.items() if key != label}, parts[label]
    if isinstance(parts, tuple | list) and len(parts) > 1:
        *inputs, targets = parts
        return (inputs[0] if len(inputs) == 1 else tuple(inputs)), targets
    found = f"the keys {', '.join(parts)}" if isinstance(parts, dict) else type(parts).__name__
    raise InputError(
        f"a batch should be (inputs, targets) or a mapping with 'labels'; found {found}"
    )
