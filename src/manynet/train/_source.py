"""The batches of a run, in an order that follows from the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    default_collate,
)

from manynet.data import Batch, Data, collate_batches, taker
from manynet.errors import InputError
from manynet.train._hardware import Hardware, find_hardware
from manynet.train._seeds import seed_all, seed_of

__all__ = ["Samples", "Source", "TrainData", "source_of", "steps_an_epoch"]

Samples = Dataset[tuple[Tensor, ...]]

TrainData = Data | Samples | DataLoader[tuple[Tensor, ...]] | tuple[Tensor, ...]
"""A data set, a loader of one, or tensors: the inputs and, last, the targets."""

Collate = Callable[[list[object]], object]
BATCH_SIZE = 128


@dataclass(frozen=True)
class Source:
    """Batches of samples, the same ones in every run of a seed.

    Attributes:
        dataset: the samples.
        batch_size: samples a step, over all processes.
        steps: batches an epoch.
        order: from an epoch to the indices of each of its batches.
        seed: of the run.
        hardware: where the batches go, and which share of each this process takes.
        collate: makes one batch of samples that come singly.
        workers: processes that load them.
    """

    dataset: Samples
    batch_size: int
    steps: int
    order: Callable[[int], Sequence[Tensor]]
    seed: int
    hardware: Hardware
    collate: Collate = default_collate
    workers: int = 0

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from number `start` on."""
        rank, processes = self.hardware.rank, self.hardware.processes
        rows = self.order(epoch)[start:]
        keys = (
            (seed_of(self.seed, 1, epoch, start + number, rank), _share(row, rank, processes))
            for number, row in enumerate(rows)
        )
        take = taker(self.dataset) if self.collate is default_collate else None
        if take is None:
            seeded = cast("Samples", _Seeded(self.dataset))
            yield from collate_batches(
                seeded, keys, self.collate, self.hardware.device, self.workers
            )
            return
        for seed, indices in keys:
            seed_all(seed)
            yield take(indices, self.hardware.device)


def steps_an_epoch(data: TrainData, batch_size: int | None = None) -> int:
    """Return how many steps `train` takes for one pass over the data.

    Example:
        >>> steps_an_epoch((torch.zeros(100, 3), torch.zeros(100)), 32)
        3
    """
    return source_of(data, batch_size=batch_size, seed=0, hardware=find_hardware(None, None)).steps


def _share(row: Tensor, rank: int, processes: int) -> Tensor:
    whole = len(row) - len(row) % processes
    return row[rank:whole:processes] if processes > 1 else row


class _Seeded:
    """Samples whose own random draws follow from the batch that they are loaded for."""

    def __init__(self, dataset: Samples) -> None:
        self.dataset = dataset

    def __getitems__(self, key: tuple[int, Tensor]) -> list[object]:
        seed, indices = key
        seed_all(seed)
        wanted = indices.tolist()
        if hasattr(self.dataset, "__getitems__"):
            return list(self.dataset.__getitems__(wanted))
        return [self.dataset[index] for index in wanted]


def source_of(
    data: TrainData, *, batch_size: int | None, seed: int, hardware: Hardware, workers: int = 0
) -> Source:
    """Return the batches that `data` means.

    Args:
        data: a `Data` (its training split), a data set with a length, a `DataLoader` (its batches
            are kept: their size, their sampler, how they are put together), or tensors.
        batch_size: samples a step, over all processes; 128 by default.
        seed: decides the order.
        hardware: where the batches go.
        workers: processes that load samples which come singly.

    Raises:
        InputError: data of another kind, empty, or too few for the processes.
    """
    if isinstance(data, DataLoader):
        return _of_loader(data, batch_size, seed, hardware)
    dataset = _dataset(data)
    count = len(dataset)  # type: ignore[arg-type] # `_dataset` has checked it
    size = min(BATCH_SIZE if batch_size is None else batch_size, count)
    if size < 1:
        raise InputError(
            f"there are {count} training samples and batch_size is {batch_size}; "
            "both must be at least 1"
        )
    _check_share(size, hardware.processes)

    def order(epoch: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(seed_of(seed, 2, epoch))
        shuffled = torch.randperm(count, generator=generator)
        return torch.split(shuffled[: count // size * size], size)

    return Source(dataset, size, count // size, order, seed, hardware, workers=workers)


def _check_share(size: int, processes: int) -> None:
    if size % processes:
        raise InputError(
            f"a batch of {size} samples does not divide among {processes} processes; "
            f"try batch_size={max(1, size // processes) * processes}"
        )


def _dataset(data: object) -> Samples:
    if isinstance(data, Data):
        data = data.train
    if isinstance(data, tuple | list) and data and all(isinstance(t, Tensor) for t in data):
        lengths = [len(tensor) for tensor in data]
        if len(set(lengths)) > 1 or len(data) < 2:
            raise InputError(
                f"train_data holds tensors of {lengths} samples; "
                "it should be inputs and targets of equal length"
            )
        return TensorDataset(*data)
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError(
            f"train_data is {type(data).__name__}, which has no length; give a data set with a "
            "length and an index, a loader of one, or a tuple of tensors (inputs, targets)"
        )
    if isinstance(data, list | dict | str) or not hasattr(data, "__getitem__"):
        raise InputError(
            f"train_data is {type(data).__name__}; give a torch data set, a loader of one, "
            "or a tuple of tensors (inputs, targets)"
        )
    return cast("Samples", data)


def _of_loader(
    loader: DataLoader[tuple[Tensor, ...]], batch_size: int | None, seed: int, hardware: Hardware
) -> Source:
    """Keep a loader's own batches; its sampler is drawn from anew, seeded, in every epoch."""
    sampler = loader.batch_sampler
    if isinstance(loader.dataset, IterableDataset) or sampler is None:
        raise InputError("train_data is a loader without batches of indices; give a map-style one")
    if batch_size not in (None, loader.batch_size):
        raise InputError(
            f"batch_size is {batch_size}, and the loader's is {loader.batch_size}; leave one out"
        )
    if not len(loader):
        raise InputError("train_data is a loader that yields no batch; it has too few samples")

    def order(epoch: int) -> Sequence[Tensor]:
        number = seed_of(seed, 2, epoch)
        torch.manual_seed(number)
        generator = getattr(loader.sampler, "generator", None)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(number)
        return [torch.as_tensor(row) for row in sampler]

    size = loader.batch_size or len(order(0)[0])
    _check_share(size, hardware.processes)
    collate = cast("Collate", loader.collate_fn)
    return Source(
        loader.dataset, size, len(loader), order, seed, hardware, collate, loader.num_workers
    )
