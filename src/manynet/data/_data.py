"""What a loader returns: three data sets, and images that wait as bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, default_collate

__all__ = ["Data", "Images", "Samples"]

Samples = Dataset[tuple[Tensor, ...]]
"""A torch data set: `(inputs, target)` by index."""


@dataclass(frozen=True)
class Data:
    """A data set, split and ready.

    Attributes:
        train: what a family learns from; `(inputs, target)` a sample.
        val: what members are compared on during a search.
        test: what is looked at once, in the end.
        classes: the names of the classes, in the order of their labels.
        input_shape: the shape of one sample's input, for example `(3, 32, 32)`.
        name: the name it was asked for by.
        origin: which copy was used, in words.
    """

    train: Samples
    val: Samples
    test: Samples
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    name: str
    origin: str

    def example_inputs(self, size: int = 2) -> tuple[Tensor] | dict[str, Tensor]:
        """Return the inputs of the first `size` training samples, as `elastic` wants them.

        Shapes: one tensor of `(size, *input_shape)`, or one of each where inputs have names.
        """
        inputs = default_collate([self.train[index][0] for index in range(size)])
        return inputs if isinstance(inputs, dict) else (inputs,)


class Images(Dataset[tuple[Tensor, ...]]):
    """Images kept as bytes in memory and normalised when a batch is taken.

    A quarter of the memory of floats, and no work for a single sample: `batch` indexes, moves and
    normalises all samples of a batch at once.

    Args:
        pixels: bytes of shape `(N, C, H, W)`.
        targets: labels of shape `(N,)`.
        mean: mean of each channel, in shares of 255.
        std: standard deviation of each channel, in shares of 255.
    """

    def __init__(
        self, pixels: Tensor, targets: Tensor, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self.pixels = pixels
        self.targets = targets
        self.mean = torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(std, dtype=torch.float32).view(-1, 1, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self._normalised(self.pixels[index]), self.targets[index]

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return the samples at `indices` as one batch on `device`.

        Shapes: floats `(B, C, H, W)` and labels `(B,)`.
        """
        pixels, targets = self.pixels[indices], self.targets[indices]
        if torch.device(device).type == "cuda":
            pixels, targets = pixels.pin_memory(), targets.pin_memory()
        pixels = pixels.to(device, non_blocking=True)
        return self._normalised(pixels), targets.to(device, non_blocking=True)

    def as_tensors(self) -> TensorDataset:
        """Return the same samples as floats, which take four times the memory."""
        return TensorDataset(self._normalised(self.pixels), self.targets)

    def _normalised(self, pixels: Tensor) -> Tensor:
        scale = (1 / (255 * self.std)).to(pixels.device)
        shift = (self.mean / self.std).to(pixels.device)
        return pixels.to(torch.float32).mul_(scale).sub_(shift)
