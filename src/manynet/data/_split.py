"""Raw samples, their splits, and the checks that every loader's result passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from manynet.data._data import Data, Images, Samples
from manynet.data._pixels import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFiles,
    Pictures,
    Shape,
    decode,
    shape_of,
)
from manynet.errors import InputError

__all__ = ["Options", "Raw", "check_finite", "check_labels", "image_data", "table_data"]

IN_MEMORY = 2 * 2**30
AS_FLOATS = 512 * 2**20


@dataclass(frozen=True)
class Options:
    """What the user asked of a data set besides its name."""

    name: str
    validation: float = 0.1
    image_size: int | None = None
    seed: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Raw:
    """Samples of one split before they are decoded.

    Attributes:
        inputs: pictures, or an array of floats `(N, ...)`.
        labels: integers `(N,)`.
        names: what to call each sample in an error.
    """

    inputs: Pictures
    labels: np.ndarray
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Raw:
        """Return the samples at `indices`."""
        if isinstance(self.inputs, np.ndarray):
            inputs: Pictures = self.inputs[indices]
        else:
            inputs = [self.inputs[index] for index in indices]
        return Raw(inputs, self.labels[indices], [self.names[index] for index in indices])


def _held_out(raw: Raw, share: float, seed: int) -> tuple[Raw, Raw]:
    """Split off `share` of every class, one sample at least where it has two."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(raw))
    part: list[int] = []
    for label in np.unique(raw.labels):
        members = shuffled[raw.labels[shuffled] == label]
        count = max(round(len(members) * share), min(1, len(members) - 1))
        part.extend(members[:count])
    chosen = np.zeros(len(raw), dtype=bool)
    chosen[part] = True
    return raw.take(np.flatnonzero(~chosen)), raw.take(np.flatnonzero(chosen))


def split(raw: Mapping[str, Raw], options: Options) -> dict[str, Raw]:
    """Return train, val and test, held out of the training samples where they are missing.

    The test split never depends on the seed: runs with several seeds are judged on the same one.
    """
    train = raw["train"]
    test = raw.get("test")
    if test is None:
        train, test = _held_out(train, options.validation, 0)
    if options.limit is not None:
        order = np.random.default_rng(options.seed).permutation(len(train))
        train = train.take(np.sort(order[: options.limit]))
    val = raw.get("val")
    if val is None:
        train, val = _held_out(train, options.validation, options.seed)
    parts = {"train": train, "val": val, "test": test}
    for name, part in parts.items():
        if not len(part):
            raise InputError(
                f"{options.name}: the {name} split is empty; "
                "raise validation or limit, or bring more samples"
            )
    return parts


def check_labels(labels: np.ndarray | Tensor, classes: int, where: str) -> None:
    """Raise `InputError` unless every label is one of the `classes`."""
    array = np.asarray(labels)
    wrong = np.flatnonzero((array < 0) | (array >= classes))
    if len(wrong):
        raise InputError(
            f"{where}: {len(wrong)} of {len(array)} labels are out of range, the first is "
            f"{array[wrong[0]]} at sample {wrong[0]}; there are {classes} classes, "
            f"so labels go from 0 to {classes - 1}"
        )


def check_finite(inputs: Tensor, where: str) -> None:
    """Raise `InputError` if an input holds NaN or infinity."""
    if not inputs.is_floating_point() or bool(torch.isfinite(inputs.sum())):
        return
    bad = ~torch.isfinite(inputs.flatten(1)).all(dim=1)
    if bad.any():
        raise InputError(
            f"{where}: {int(bad.sum())} of {len(inputs)} samples hold NaN or infinity, the first "
            f"is sample {int(bad.nonzero()[0])}; remove or repair them"
        )


def image_data(
    raw: Mapping[str, Raw],
    options: Options,
    *,
    classes: Sequence[str],
    origin: str,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> Data:
    """Decode images, split them and make a `Data` of them."""
    for name, part in raw.items():
        check_labels(part.labels, len(classes), f"{options.name}, {name} split")
    parts = split(raw, options)
    train = parts["train"]
    shape = shape_of(train.inputs, train.names, options.image_size)
    if sum(map(len, parts.values())) * shape.bytes > IN_MEMORY:
        sets = {name: _from_files(part, shape) for name, part in parts.items()}
    else:
        sets = _in_memory(parts, shape, statistics)
    size = (shape.channels, shape.height, shape.width)
    return Data(**sets, classes=tuple(classes), input_shape=size, name=options.name, origin=origin)


def _from_files(part: Raw, shape: Shape) -> Samples:
    return ImageFiles(part.inputs, part.names, torch.from_numpy(part.labels), shape)


def _in_memory(
    parts: Mapping[str, Raw],
    shape: Shape,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> dict[str, Samples]:
    pixels = {name: decode(part.inputs, part.names, shape) for name, part in parts.items()}
    mean, std = statistics or _statistics(pixels["train"])
    sets: dict[str, Samples] = {}
    for name, part in parts.items():
        images = Images(pixels[name], torch.from_numpy(part.labels), mean, std)
        small = name != "train" and 4 * pixels[name].numel() <= AS_FLOATS
        sets[name] = images.as_tensors() if small else images
    return sets


def _statistics(pixels: Tensor) -> tuple[Sequence[float], Sequence[float]]:
    if pixels.shape[1] == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    sample = pixels[:4096].to(torch.float32) / 255
    return [float(sample.mean())], [max(float(sample.std()), 1e-3)]


def table_data(
    raw: Mapping[str, Raw], options: Options, *, classes: Sequence[str], origin: str
) -> Data:
    """Split rows of numbers and make a `Data` of them, normalised by the training rows."""
    tensors = {}
    for name, part in raw.items():
        check_labels(part.labels, len(classes), f"{options.name}, {name} split")
        inputs = torch.from_numpy(np.asarray(part.inputs, dtype=np.float32))
        check_finite(inputs, f"{options.name}, {name} split")
        tensors[name] = inputs
    parts = split(raw, options)
    train = torch.from_numpy(np.asarray(parts["train"].inputs, dtype=np.float32))
    mean, std = train.mean(dim=0), train.std(dim=0).clamp_min(1e-6)
    sets = {
        name: TensorDataset(
            (torch.from_numpy(np.asarray(part.inputs, dtype=np.float32)) - mean) / std,
            torch.from_numpy(part.labels),
        )
        for name, part in parts.items()
    }
    size = tuple(train.shape[1:])
    return Data(**sets, classes=tuple(classes), input_shape=size, name=options.name, origin=origin)
