"""CIFAR-10: from a folder that is at hand, else downloaded by torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from manynet.data._data import Data
from manynet.data._local import local_places
from manynet.data._split import Options, Raw, image_data
from manynet.data._table import LABEL_COLUMNS, read_parquet
from manynet.errors import InputError, MissingExtraError

__all__ = ["cifar10"]

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def cifar10(folder: Path | None, options: Options) -> Data:
    """Return CIFAR-10, and in `origin` where it came from.

    Looked for in `folder`, in `$MANYNET_DATA/cifar10`, and in `../shared/data/cifar10`, as
    `train.parquet` and `test.parquet`; then torchvision fetches it, checks it and keeps it in
    `folder` or `~/.cache/manynet`.
    """
    places = local_places("cifar10", folder)
    for place in places:
        if (place / "train.parquet").is_file() and (place / "test.parquet").is_file():
            raw = {name: _packed(place / f"{name}.parquet") for name in ("train", "test")}
            origin = f"the parquet copy in {place.resolve()}"
            break
    else:
        raw = _downloaded(folder or Path("~/.cache/manynet").expanduser(), places)
        origin = "the official files, fetched by torchvision"
    return image_data(raw, options, classes=CLASSES, origin=origin, statistics=STATISTICS)


def _packed(path: Path) -> Raw:
    table = read_parquet([path])
    image = next((word for word in ("jpeg", "img", "image") if word in table.column_names), None)
    label = next((word for word in LABEL_COLUMNS if word in table.column_names), None)
    if image is None or label is None:
        raise InputError(
            f"{path} has the columns {', '.join(table.column_names)}; "
            "CIFAR-10 needs 'jpeg' (or 'img') and 'label'"
        )
    values = table.column(image).to_pylist()
    pictures = [value["bytes"] if isinstance(value, dict) else value for value in values]
    labels = table.column(label).to_numpy().astype(np.int64)
    return Raw(pictures, labels, [f"row {index} of {path}" for index in range(len(labels))])


def _downloaded(folder: Path, places: list[Path]) -> dict[str, Raw]:
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise MissingExtraError("torchvision", "vision") from error
    raw = {}
    for name, train in (("train", True), ("test", False)):
        try:
            loaded = CIFAR10(str(folder), train=train, download=True)
        except (OSError, RuntimeError) as error:
            looked = ", ".join(str(place) for place in places)
            raise InputError(
                f"cifar10 is in none of {looked}, and cannot be downloaded ({error}); "
                "set MANYNET_DATA to the folder that holds it, or try --data digits"
            ) from error
        labels = np.array(loaded.targets, dtype=np.int64)
        raw[name] = Raw(
            list(loaded.data), labels, [f"{name} image {i}" for i in range(len(labels))]
        )
    return raw
