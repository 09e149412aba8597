"""Compressed images to bytes of one size, on as many threads as there are cores."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from manynet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "GREY",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ImageFiles",
    "Picture",
    "Pictures",
    "Shape",
    "decode",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GREY = ("1", "L", "LA", "I;16")

Picture = Path | bytes | np.ndarray
"""A file, the bytes of one, or decoded pixels of shape `(H, W)` or `(H, W, C)`."""

Pictures = Sequence[Picture] | np.ndarray


@dataclass(frozen=True)
class Shape:
    """What every image is made into: `channels` of `height` by `width`."""

    channels: int
    height: int
    width: int

    @property
    def bytes(self) -> int:
        """Return the memory of one image."""
        return self.channels * self.height * self.width


def shape_of(pictures: Pictures, names: Sequence[str], size: int | None) -> Shape:
    """Return what to make of images: their own size if the first ones agree, else 224 pixels."""
    modes, sizes = [], set()
    for picture, name in zip(pictures[:64], names[:64], strict=True):
        with open_image(picture, name) as image:
            modes.append(image.mode)
            sizes.add(image.size)
    channels = 1 if modes[0] in GREY else 3
    if size is not None:
        return Shape(channels, size, size)
    if len(sizes) > 1:
        return Shape(channels, 224, 224)
    ((width, height),) = sizes
    return Shape(channels, height, width)


def open_image(picture: Picture, name: str) -> Image:
    """Return the image, its pixels not yet decoded. Raises `InputError` with its name."""
    try:
        from PIL import Image as images
    except ImportError as error:
        raise MissingExtraError("pillow", "data") from error
    try:
        if isinstance(picture, np.ndarray):
            return images.fromarray(picture)
        return images.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(f"{name} is not an image that can be read ({error}); remove or replace it")


def pixels_of(picture: Picture, name: str, shape: Shape) -> np.ndarray:
    """Return bytes `(C, H, W)`: the shorter side resized, the middle cut out."""
    try:
        with open_image(picture, name) as opened:
            image = opened.convert("L" if shape.channels == 1 else "RGB")
        if image.size != (shape.width, shape.height):
            image = _fitted(image, shape)
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        if isinstance(error, InputError):
            raise
        raise _unreadable(name, error) from error
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _fitted(image: Image, shape: Shape) -> Image:
    scale = max(shape.width / image.width, shape.height / image.height)
    width = max(shape.width, round(image.width * scale))
    height = max(shape.height, round(image.height * scale))
    left, top = (width - shape.width) // 2, (height - shape.height) // 2
    resized = image.resize((width, height))
    return resized.crop((left, top, left + shape.width, top + shape.height))


def decode(pictures: Pictures, names: Sequence[str], shape: Shape) -> Tensor:
    """Return all images as bytes.

    Args:
        pictures: what to decode.
        names: what to call each one in an error.
        shape: what each one becomes.

    Raises:
        InputError: an image cannot be read.

    Shapes: `(N, C, H, W)`, uint8.
    """
    pixels = np.empty((len(pictures), shape.channels, shape.height, shape.width), dtype=np.uint8)

    def one(index: int) -> None:
        pixels[index] = pixels_of(pictures[index], names[index], shape)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(one, range(len(pictures)), chunksize=64):
            pass
    return torch.from_numpy(pixels)


class ImageFiles(Dataset[tuple[Tensor, ...]]):
    """Images decoded each time they are asked for, because all of them would not fit in memory.

    Args:
        pictures: files or their bytes.
        names: what to call each one in an error.
        targets: labels of shape `(N,)`.
        shape: what each image becomes.
    """

    def __init__(
        self, pictures: Pictures, names: Sequence[str], targets: Tensor, shape: Shape
    ) -> None:
        self.pictures = pictures
        self.names = names
        self.targets = targets
        self.shape = shape

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        pixels = pixels_of(self.pictures[index], self.names[index], self.shape)
        mean, std = (
            torch.tensor(values[: self.shape.channels]).view(-1, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        image = torch.tensor(pixels, dtype=torch.float32).div_(255)
        return image.sub_(mean).div_(std), self.targets[index]
