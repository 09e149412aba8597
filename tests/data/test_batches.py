"""Whole batches, images as bytes, and augmentation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from manynet.data import Images, batches, crop_and_flip
from manynet.errors import InputError


class Singly(Dataset[tuple[Tensor, ...]]):
    """The same samples as a tensor data set's, one at a time."""

    def __init__(self, inner: Dataset[tuple[Tensor, ...]]) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.inner[index]


def images(count: int = 10) -> Images:
    pixels = torch.randint(256, (count, 3, 4, 5), dtype=torch.uint8)
    return Images(pixels, torch.arange(count), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def test_every_route_gives_the_same_batches() -> None:
    own = images()
    order = torch.randperm(len(own))[:9]
    routes = [own, own.as_tensors(), Singly(own)]
    taken = [list(batches(route, 4, order=order)) for route in routes]
    for route in taken:
        assert [len(targets) for _, targets in route] == [4, 4, 1]
        for (inputs, targets), (wanted, labels) in zip(route, taken[0], strict=True):
            assert torch.allclose(inputs, wanted, atol=1e-6)  # fused or not, one rounding apart
            assert torch.equal(targets, labels)


def test_images_are_normalized_per_channel() -> None:
    own = images(2)
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    wanted = (own.pixels[1].float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    assert torch.allclose(own[1][0], wanted, atol=1e-5)


def test_several_inputs_and_named_inputs() -> None:
    data = TensorDataset(torch.arange(4.0), torch.ones(4), torch.arange(4))
    for route in (data, Singly(data)):
        ((first, second), targets), _ = list(batches(route, 2))
        assert first.tolist() == [0, 1]
        assert second.tolist() == [1, 1]
        assert targets.tolist() == [0, 1]

    class Named(Singly):
        def __getitem__(self, index: int) -> dict[str, Tensor]:  # type: ignore[override]
            return {"ids": torch.tensor([index]), "labels": torch.tensor(index)}

    inputs, targets = next(batches(Named(data), 3))
    assert list(inputs) == ["ids"]
    assert targets.tolist() == [0, 1, 2]


def test_a_batch_without_targets_is_refused() -> None:
    with pytest.raises(InputError, match=r"\(inputs, targets\)"):
        next(batches(Singly(TensorDataset(torch.arange(4))), 2))


def test_a_shifted_image_is_a_window_of_the_padded_one() -> None:
    own = torch.rand(6, 2, 5, 4)
    moved = crop_and_flip(2)(own)
    padded = torch.nn.functional.pad(own, (2, 2, 2, 2))
    for before, after in zip(padded, moved, strict=True):
        windows = [before[:, y : y + 5, x : x + 4] for y in range(5) for x in range(5)]
        assert any(torch.equal(after, w) or torch.equal(after, w.flip(-1)) for w in windows)


def test_augmentation_varies_repeats_under_a_seed_and_leaves_its_input() -> None:
    own = torch.rand(64, 1, 6, 6)
    kept = own.clone()
    augment = crop_and_flip(1, flip=False)
    torch.manual_seed(3)
    one, two = augment(own), augment(own)
    torch.manual_seed(3)
    assert torch.equal(augment(own), one)
    assert not torch.equal(one, two)
    assert torch.equal(own, kept)
    assert torch.equal(crop_and_flip(0, flip=False)(own), own)


def test_augmentation_of_other_data_is_refused() -> None:
    with pytest.raises(InputError, match="padding"):
        crop_and_flip(-1)
    with pytest.raises(InputError, match=r"\(2, 3\)"):
        crop_and_flip()(torch.zeros(2, 3))


def test_images_work_in_a_plain_loader() -> None:
    inputs, targets = next(iter(DataLoader(images(), batch_size=4)))
    assert inputs.shape == (4, 3, 4, 5)
    assert targets.tolist() == [0, 1, 2, 3]
