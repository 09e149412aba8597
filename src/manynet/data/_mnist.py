"""MNIST's 10,000 test images, split anew: a set small enough to learn from in seconds."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from manynet.data._data import Data
from manynet.data._local import local_places
from manynet.data._split import Options, Raw, image_data
from manynet.errors import InputError, MissingExtraError

__all__ = ["mnist10k", "read_idx"]

IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
TRAINED = 8_000


def mnist10k(folder: Path | None, options: Options) -> Data:
    """Return the first 8,000 images to learn from and the last 2,000 as the test split.

    The two files are looked for in `folder`, in `$MANYNET_DATA/mnist10k`, and in
    `../shared/data/mnist10k`; then torchvision fetches them into `folder` or `~/.cache/manynet`.
    """
    places = local_places("mnist10k", folder)
    for place in places:
        if (place / f"{IMAGES}.gz").is_file() and (place / f"{LABELS}.gz").is_file():
            origin = f"the copy in {place.resolve()}"
            break
    else:
        place = _downloaded(folder or Path("~/.cache/manynet").expanduser(), places)
        origin = "the official files, fetched by torchvision"
    images, labels = (read_idx(place / f"{name}.gz") for name in (IMAGES, LABELS))
    if images.shape != (10_000, 28, 28) or labels.shape != (10_000,):
        raise InputError(
            f"{place} holds images {images.shape} and labels {labels.shape}; MNIST's test files "
            "hold (10000, 28, 28) and (10000,)"
        )
    names = [f"image {index}" for index in range(len(images))]
    whole = Raw(list(images), labels.astype(np.int64), names)
    order = np.arange(len(whole))
    raw = {"train": whole.take(order[:TRAINED]), "test": whole.take(order[TRAINED:])}
    return image_data(raw, options, classes=tuple("0123456789"), origin=origin)


def read_idx(path: Path) -> np.ndarray:
    """Return the bytes of a gzipped file in the idx format, in its shape.

    Raises:
        InputError: it is something else, or truncated.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise InputError(f"{path} cannot be unpacked ({error}); get it again") from error
    dims = data[3] if len(data) > 3 else 0
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * dims], dtype=">i4").tolist())
    if data[:3] != b"\0\0\x08" or len(data) != 4 + 4 * dims + int(np.prod(shape)):
        raise InputError(f"{path} is not a whole idx file of bytes; get it again")
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dims).reshape(shape)


def _downloaded(folder: Path, places: list[Path]) -> Path:
    try:
        from torchvision.datasets import MNIST
    except ImportError as error:
        raise MissingExtraError("torchvision", "vision") from error
    try:
        MNIST(str(folder), train=False, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"MNIST is not in {', '.join(map(str, places))}, and it could not be downloaded "
            f"({error}); put {IMAGES}.gz and {LABELS}.gz into one of them"
        ) from error
    return folder / "MNIST" / "raw"
