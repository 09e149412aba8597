"""MNIST's small copy, and tasks of permuted inputs."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from manynet.data import load_data, permuted
from manynet.data._mnist import IMAGES, LABELS, read_idx
from manynet.errors import InputError


def write(path: Path, values: np.ndarray) -> None:
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, dtype=">i4").tobytes()
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.zeros((10_000, 28, 28), dtype=np.uint8)
    images[:, 0, 0] = np.arange(10_000) % 251
    write(tmp_path / f"{IMAGES}.gz", images)
    write(tmp_path / f"{LABELS}.gz", np.arange(10_000) % 10)
    return tmp_path


def test_the_last_two_thousand_images_are_for_the_test(folder: Path) -> None:
    data = load_data("mnist10k", folder=folder, validation=0.2)
    assert [len(part) for part in (data.train, data.val, data.test)] == [6400, 1600, 2000]  # type: ignore[arg-type]
    assert data.input_shape == (1, 28, 28)
    assert [int(data.test[index][1]) for index in (0, 7)] == [0, 7]
    assert str(folder) in data.origin
    few = load_data("mnist10k", folder=folder, validation=0.2, limit=100)
    assert len(few.train) + len(few.val) == 100  # type: ignore[arg-type]


def test_a_damaged_file_is_refused(folder: Path) -> None:
    path = folder / f"{IMAGES}.gz"
    good = path.read_bytes()
    path.write_bytes(good[:100])
    with pytest.raises(InputError, match="cannot be unpacked"):
        load_data("mnist10k", folder=folder)
    write(path, np.zeros((3, 28, 28)))
    with pytest.raises(InputError, match=r"hold \(10000, 28, 28\)"):
        load_data("mnist10k", folder=folder)
    path.write_bytes(gzip.compress(gzip.decompress(good)[:-1]))
    with pytest.raises(InputError, match="not a whole idx file"):
        read_idx(path)


def test_tasks_are_orders_of_the_same_entries() -> None:
    data = load_data("digits", limit=50)
    tasks = permuted(data, 3, seed=1)
    assert [task.input_shape for task in tasks] == [(64,)] * 3
    first, other = (torch.stack([task.train[i][0] for i in range(4)]) for task in tasks[:2])
    assert not torch.equal(first, other)
    assert torch.equal(first.sort(1).values, other.sort(1).values)
    assert torch.equal(permuted(data, 1, seed=1)[0].train[3][0], first[3])
    whole = data.train[0][0].flatten()
    places = [int((whole == value).nonzero()[0, 0]) for value in first[0]]
    assert torch.equal(whole[places], first[0])
    assert int(tasks[2].test[5][1]) == int(data.test[5][1])
