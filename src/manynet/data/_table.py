"""Tables: parquet files and Hugging Face data sets, of images or of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from manynet.data._data import Data
from manynet.data._folder import SPLITS
from manynet.data._pixels import Picture
from manynet.data._split import Options, Raw, image_data, table_data
from manynet.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["hugging_face", "parquet", "read_parquet"]

IMAGE_COLUMNS = ("image", "img", "jpeg", "jpg", "png", "picture", "bytes")
LABEL_COLUMNS = ("label", "labels", "target", "class", "fine_label", "digit", "y")


@dataclass(frozen=True)
class _Columns:
    """Which column is what: an image column, or several of numbers."""

    label: str
    image: str | None
    numbers: tuple[str, ...]


def parquet(path: Path, options: Options) -> Data:
    """Return the rows of a parquet file, or of a folder of them named after their splits."""
    files = {"train": [path]} if path.is_file() else _by_split(path)
    tables = {name: read_parquet(paths) for name, paths in files.items()}
    return _from_tables(tables, options, names=None, origin=f"parquet in {path}")


def _by_split(folder: Path) -> dict[str, list[Path]]:
    files = sorted(folder.rglob("*.parquet"))
    found: dict[str, list[Path]] = {}
    for file in files:
        first = file.stem.split("-")[0].split("_")[0].lower()
        split = next((name for name, words in SPLITS.items() if first in words), None)
        if split is not None:
            found.setdefault(split, []).append(file)
    if "train" in found:
        return found
    if found or not files:
        raise InputError(f"{folder} holds no training rows: name a file train.parquet")
    return {"train": files}


def read_parquet(paths: Sequence[Path]) -> pa.Table:
    """Return the rows of several parquet files. Raises `InputError` for a damaged one."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    tables = []
    for path in paths:
        try:
            tables.append(pq.read_table(path))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{path} cannot be read as parquet ({error}); it is damaged or of another kind"
            ) from error
    return pa.concat_tables(tables)


def hugging_face(name: str, options: Options) -> Data:
    """Return a data set of the Hugging Face hub, or of a local folder that `datasets` reads."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets", "data") from error
    try:
        loaded = datasets.load_dataset(name)
    except Exception as error:  # the library raises errors of many kinds, network ones included
        raise InputError(
            f"hf:{name}: the Hugging Face library cannot load it "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "check the name and the network"
        ) from error
    known = {word: split for split, words in SPLITS.items() for word in words}
    splits = {known[key]: value for key, value in loaded.items() if key in known}
    if "train" not in splits:
        raise InputError(f"hf:{name} has the splits {list(loaded)}, none of which is for training")
    label = next((word for word in LABEL_COLUMNS if word in splits["train"].features), None)
    names = getattr(splits["train"].features[label], "names", None) if label else None
    tables = {key: value.with_format("arrow")[:] for key, value in splits.items()}
    return _from_tables(tables, options, names=names, origin=f"Hugging Face data set {name}")


def _from_tables(
    tables: Mapping[str, pa.Table],
    options: Options,
    *,
    names: Sequence[str] | None,
    origin: str,
) -> Data:
    columns = _columns(tables["train"], options.name)
    classes = list(names) if names else _classes(tables["train"], columns.label, options.name)
    raw = {name: _raw(table, columns, classes, name) for name, table in tables.items()}
    make = image_data if columns.image else table_data
    return make(raw, options, classes=classes, origin=origin)


def _columns(table: pa.Table, name: str) -> _Columns:
    import pyarrow.types as kinds

    found = table.column_names
    label = next((word for word in LABEL_COLUMNS if word in found), None)
    if label is None:
        raise InputError(
            f"{name} has the columns {', '.join(found)}; none is a label "
            f"(looked for {', '.join(LABEL_COLUMNS)}): rename one"
        )
    image = next((word for word in IMAGE_COLUMNS if word in found), None)
    if image is not None:
        return _Columns(label, image, ())
    others = [word for word in found if word != label]
    odd = [
        word
        for word in others
        if not kinds.is_floating(table.schema.field(word).type)
        and not kinds.is_integer(table.schema.field(word).type)
    ]
    if odd or not others:
        raise InputError(
            f"{name} has the columns {', '.join(found)}; it needs an image column "
            f"({', '.join(IMAGE_COLUMNS)}) or numbers only"
            + (f", and {odd[0]!r} holds {table.schema.field(odd[0]).type}" if odd else "")
        )
    return _Columns(label, None, tuple(others))


def _classes(table: pa.Table, label: str, name: str) -> list[str]:
    values = table.column(label).unique().to_pylist()
    if any(value is None for value in values):
        raise InputError(f"{name}: some labels are missing (column {label!r}); remove those rows")
    if all(isinstance(value, int) for value in values):
        if min(values) < 0:
            raise InputError(
                f"{name}: labels are out of range: {min(values)} is negative; count from 0"
            )
        return [str(index) for index in range(max(values) + 1)]
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    raise InputError(
        f"{name}: the label column {label!r} holds {table.schema.field(label).type}; "
        "it needs whole numbers or names of classes"
    )


def _raw(table: pa.Table, columns: _Columns, classes: Sequence[str], split: str) -> Raw:
    labels = _labels(table, columns.label, classes, split)
    names = [f"row {index} of the {split} split" for index in range(len(labels))]
    if columns.image is None:
        rows = [table.column(name).to_numpy().astype(np.float32) for name in columns.numbers]
        return Raw(np.stack(rows, axis=1), labels, names)
    return Raw(
        [_picture(value) for value in table.column(columns.image).to_pylist()], labels, names
    )


def _labels(table: pa.Table, label: str, classes: Sequence[str], split: str) -> np.ndarray:
    values = table.column(label).to_pylist()
    if values and isinstance(values[0], str):
        index = {name: position for position, name in enumerate(classes)}
        unknown = sorted(set(values) - set(index))
        if unknown:
            raise InputError(
                f"{split} split: the label {unknown[0]!r} is out of range: no training row has it"
            )
        values = [index[value] for value in values]
    if any(value is None for value in values):
        raise InputError(f"{split} split: some labels are missing; remove those rows")
    return np.array(values, dtype=np.int64)


def _picture(value: object) -> Picture:
    if isinstance(value, dict):
        value = value.get("bytes") or Path(str(value.get("path")))
    return value  # type: ignore[return-value] # what is no picture fails by name when decoded
