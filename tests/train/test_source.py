"""The order of the batches."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    TensorDataset,
    WeightedRandomSampler,
)

from manynet.data import Data
from manynet.errors import InputError
from manynet.train._hardware import Hardware
from manynet.train._source import Source, source_of

CPU = Hardware(torch.device("cpu"))
TENSORS = (torch.arange(22.0), torch.arange(22))


class Noisy(Dataset[tuple[Tensor, ...]]):
    """Samples that draw from every generator."""

    def __len__(self) -> int:
        return 22

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        noise = torch.rand(()) + float(np.random.rand()) + random.random()
        return noise, torch.tensor(index)


def source(
    data: object, *, size: int | None = 5, seed: int = 3, hardware: Hardware = CPU
) -> Source:
    return source_of(data, batch_size=size, seed=seed, hardware=hardware)  # type: ignore[arg-type]


def order(own: Source, epoch: int, start: int = 0) -> list[list[int]]:
    return [targets.tolist() for _, targets in own.epoch(epoch, start)]


def loaders() -> list[object]:
    data = TensorDataset(*TENSORS)
    weights = WeightedRandomSampler([1.0] * 22, 22)
    return [
        TENSORS,
        data,
        Noisy(),
        Data(data, data, data, (), (), "own", "here"),
        DataLoader(data, batch_size=5, shuffle=True, drop_last=True),
        DataLoader(data, batch_size=5, sampler=weights, drop_last=True),
        DataLoader(data, batch_size=5, shuffle=True, drop_last=True, generator=torch.Generator()),
        DataLoader(data, batch_size=5, drop_last=True, collate_fn=_own),
    ]


def _own(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([s[0] for s in samples]), torch.stack([s[1] for s in samples])


@pytest.mark.parametrize("number", range(8))
def test_the_order_follows_from_seed_and_epoch_alone(number: int) -> None:
    own, again = source(loaders()[number]), source(loaders()[number])
    assert own.steps == 4
    later = order(own, 1)
    assert order(again, 1) == later
    assert order(again, 1, start=2) == later[2:]
    assert [len(row) for row in later] == [5] * 4
    if number != 7:  # a loader that does not shuffle keeps its order
        assert order(own, 2) != later
    else:
        assert order(own, 2) == later == [list(range(i, i + 5)) for i in range(0, 20, 5)]


def test_every_sample_comes_once_an_epoch_at_most() -> None:
    seen = [index for row in order(source(TENSORS), 0) for index in row]
    assert len(set(seen)) == len(seen) == 20
    assert order(source(TENSORS, seed=4), 0) != order(source(TENSORS), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_that_draw_at_random_repeat_from_any_batch_on(workers: int) -> None:
    def drawn(start: int) -> list[Tensor]:
        own = source_of(Noisy(), batch_size=5, seed=3, hardware=CPU, workers=workers)
        return [inputs for inputs, _ in own.epoch(1, start)]

    whole = drawn(0)
    assert all(torch.equal(a, b) for a, b in zip(drawn(2), whole[2:], strict=True))
    assert not torch.equal(whole[0], whole[1])


def test_processes_share_each_batch() -> None:
    alone = order(source(TENSORS, size=6), 0)
    shares = [
        order(source(TENSORS, size=6, hardware=Hardware(CPU.device, "no", 2, rank)), 0)
        for rank in range(2)
    ]
    for whole, one, two in zip(alone, *shares, strict=True):
        assert len(one) == len(two) == 3
        assert sorted(one + two) == sorted(whole)


def test_a_batch_is_never_larger_than_the_data() -> None:
    assert source(TENSORS, size=100).batch_size == source(TENSORS, size=None).batch_size == 22


class Stream(IterableDataset[tuple[Tensor, ...]]):
    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter([])


@pytest.mark.parametrize(
    ("data", "size", "word"),
    [
        ((torch.zeros(0), torch.zeros(0)), 5, "0 training samples"),
        (TENSORS, 0, "at least 1"),
        ((torch.zeros(3), torch.zeros(4)), 2, r"\[3, 4\]"),
        ((torch.zeros(3),), 2, "targets"),
        (Stream(), 2, "no length"),
        ([1, 2], 2, "list"),
        ("digits", 2, "str"),
        (DataLoader(Stream()), 2, "map-style"),
        (DataLoader(TensorDataset(*TENSORS), batch_size=5), 6, "the loader's is 5"),
        (DataLoader(TensorDataset(*TENSORS), batch_size=50, drop_last=True), None, "no batch"),
    ],
)
def test_data_of_another_kind_are_refused(data: object, size: int | None, word: str) -> None:
    with pytest.raises(InputError, match=word):
        source(data, size=size)


def test_a_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(InputError, match="try batch_size=4"):
        source(TENSORS, hardware=Hardware(CPU.device, "no", 2, 0))
