"""The handwritten digits that scikit-learn carries: 1,797 images of 8 by 8, no download."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import TensorDataset

from manynet.data._data import Data
from manynet.data._split import Options, Raw, split
from manynet.errors import MissingExtraError

__all__ = ["digits"]

TEST_SHARE = 0.2


def _table() -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and labels from scikit-learn's own file: importing it takes seconds."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("scikit-learn", "search")
    file = Path(spec.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    if not file.is_file():
        from sklearn.datasets import load_digits

        inputs, labels = load_digits(return_X_y=True)
        return inputs, labels
    with gzip.open(file, "rt") as lines:
        table = np.loadtxt(lines, delimiter=",")
    return table[:, :-1], table[:, -1]


def digits(options: Options) -> Data:
    """Return the digits; a fifth of them is the test split, whatever the seed."""
    inputs, labels = _table()
    size = options.image_size or 8
    pixels = torch.from_numpy(inputs.astype(np.float32) / 16).view(-1, 1, 8, 8)
    if size != 8:
        pixels = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear")
    raw = Raw(pixels.numpy(), labels.astype(np.int64), [f"digit {i}" for i in range(len(labels))])
    order = np.random.default_rng(0).permutation(len(raw))
    count = round(TEST_SHARE * len(raw))
    parts = split({"train": raw.take(order[count:]), "test": raw.take(order[:count])}, options)
    sets = {
        name: TensorDataset(
            (torch.from_numpy(np.asarray(part.inputs)) - 0.305) / 0.376,
            torch.from_numpy(part.labels),
        )
        for name, part in parts.items()
    }
    return Data(
        **sets,
        classes=tuple("0123456789"),
        input_shape=(1, size, size),
        name=options.name,
        origin="the copy inside scikit-learn",
    )
