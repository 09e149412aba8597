"""One name, one data set: decides which loader a name means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset, random_split

from manynet.data._batches import batches
from manynet.data._characters import Characters, shakespeare
from manynet.data._cifar10 import cifar10
from manynet.data._data import Data, Samples
from manynet.data._digits import digits
from manynet.data._folder import image_folder
from manynet.data._mnist import mnist10k
from manynet.data._split import Options, check_finite, check_labels
from manynet.data._table import hugging_face, parquet
from manynet.data._text import TextOptions, text_data
from manynet.data._user import load_function
from manynet.errors import InputError, did_you_mean

__all__ = ["load_data"]

_IN_FILES = {"cifar10": cifar10, "mnist10k": mnist10k}
BUILT_IN = ("digits", *_IN_FILES, "shakespeare")


def load_data(
    name: str,
    *,
    folder: Path | str | None = None,
    validation: float = 0.1,
    image_size: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    length: int = 256,
    tokenizer: Any = None,
    task: str = "causal",
) -> Data:
    """Return the data set that `name` means.

    | name | what it is |
    |---|---|
    | `digits` | scikit-learn's handwritten digits, 8 by 8, offline |
    | `cifar10` | a local copy if there is one (see `origin`), else downloaded |
    | `shakespeare` | a million characters of plays, a local copy (see `folder`), as characters |
    | `mnist10k` | MNIST's 10,000 test images, split anew; found like `cifar10` |
    | a folder | images in one sub-folder a class, or parquet files |
    | a `.parquet` file | images and labels, or numbers and labels |
    | `hf:NAME` | a data set of the Hugging Face hub |
    | `text:FILE` | text for a language model: `.txt`, `.jsonl` (key `text`), a folder, a pattern |
    | `text:FILE.tsv` | texts to classify, a line `text<TAB>label` each |
    | `file.py:function` | what your function returns (below) |

    The function returns a `Data`, or (train, test), or (train, val, test), each a data set or a
    pair of tensors `(inputs, targets)`.

    Documents of text (a file, or a line of `.jsonl`) are joined with the tokenizer's end token and
    cut into sequences without gaps; where no file's name says `train`, `val` or `test`, the last
    ones are held out. The targets are the next tokens (`task="causal"`) or those that were masked
    (`"masked"`), and -100 where nothing is to be guessed.

    Args:
        name: one of the above.
        folder: where `cifar10`, `mnist10k` and `shakespeare` are looked for first, and the first
            two kept.
        validation: share of the training samples held out where there is no validation split, and
            likewise of all samples where there is no test split.
        image_size: side in pixels; by default the images' own if they agree, else 224.
        seed: decides which samples are held out for validation, never those for the test.
        limit: at most so many samples for training and validation together.
        length: of text: tokens in a sequence.
        tokenizer: of text: the model's, see `manynet.models.tokenizer_of`, or `Characters`.
        task: of text: `"causal"` or `"masked"`.

    Raises:
        InputError: the name means nothing, or the data are missing, damaged or unfit.
        MissingExtraError: a library that this source needs is not installed.

    Example:
        >>> data = load_data("digits", limit=200)
        >>> len(data.train) + len(data.val), data.origin
        (200, 'the copy inside scikit-learn')
    """
    options = Options(str(name), validation, image_size, seed, limit)
    _check(options)
    if options.name == "digits":
        return digits(options)
    if options.name in _IN_FILES:
        return _IN_FILES[options.name](Path(folder) if folder is not None else None, options)
    if options.name.startswith("hf:"):
        return hugging_face(options.name.removeprefix("hf:"), options)
    if options.name == "shakespeare" or options.name.startswith("text:"):
        return _text(options, TextOptions(tokenizer, length, task), folder)
    if ".py:" in options.name:
        return _from_function(options)
    return _from_path(Path(options.name).expanduser(), options)


def _text(options: Options, how: TextOptions, folder: Path | str | None) -> Data:
    if options.name == "shakespeare":
        file = shakespeare(Path(folder) if folder is not None else None)
        known = Characters(file.read_text(encoding="utf-8"))
        return text_data(str(file), options, replace(how, tokenizer=known))
    if how.tokenizer is None:
        raise InputError(
            f"data {options.name!r} is text and needs the tokenizer of a language model: name one, "
            "as in --model hf:FOLDER, or pass tokenizer=manynet.models.tokenizer_of(FOLDER)"
        )
    return text_data(options.name.removeprefix("text:"), options, how)


def _check(options: Options) -> None:
    if not 0 < options.validation < 1:
        raise InputError(f"validation is {options.validation}; it is a share between 0 and 1")
    for word, value in (("image_size", options.image_size), ("limit", options.limit)):
        if value is not None and value < 1:
            raise InputError(f"{word} is {value}; it must be at least 1")


def _from_path(path: Path, options: Options) -> Data:
    if path.is_file() and path.suffix == ".parquet":
        return parquet(path, options)
    if path.is_dir():
        return (parquet if any(path.rglob("*.parquet")) else image_folder)(path, options)
    if path.is_file():
        raise InputError(
            f"data {options.name!r} is a file of an unknown kind; "
            "use a .parquet file, a folder of images, or file.py:function"
        )
    raise InputError(
        f"data {options.name!r}: there is no such folder or file "
        f"(looked at {path.resolve()}), and it is no built-in set"
        f"{did_you_mean(options.name, BUILT_IN)}"
    )


def _from_function(options: Options) -> Data:
    made = load_function(options.name)()
    if isinstance(made, Data):
        _check_sets({"train": made.train, "val": made.val, "test": made.test}, options.name)
        return made
    sets = _named(made, options)
    if "val" not in sets:
        sets["train"], sets["val"] = _hold_out(sets["train"], options)
    labels = _check_sets(sets, options.name)
    return Data(
        **sets,
        classes=tuple(str(index) for index in range(labels)),
        input_shape=tuple(sets["train"][0][0].shape),
        name=options.name,
        origin=f"the function {options.name}",
    )


def _named(made: object, options: Options) -> dict[str, Samples]:
    if isinstance(made, Mapping):
        found = dict(made)
    elif isinstance(made, Sequence) and len(made) in (2, 3):
        names = ("train", "test") if len(made) == 2 else ("train", "val", "test")
        found = dict(zip(names, made, strict=True))
    else:
        raise InputError(
            f"{options.name} returned {type(made).__name__}; it should return a Data, or "
            "(train, test), or (train, val, test)"
        )
    if not {"train", "test"} <= set(found) <= {"train", "val", "test"}:
        raise InputError(
            f"{options.name} returned the splits {', '.join(map(str, found))}; "
            "it needs train and test, and may have val"
        )
    return {key: _as_dataset(value, f"{options.name}, {key}") for key, value in found.items()}


def _as_dataset(value: object, where: str) -> Samples:
    if isinstance(value, Sequence) and value and all(isinstance(part, Tensor) for part in value):
        lengths = {len(part) for part in value}
        if len(lengths) > 1:
            raise InputError(f"{where}: inputs and targets have lengths {sorted(lengths)}")
        return TensorDataset(*value)
    if isinstance(value, Dataset) and hasattr(value, "__len__"):
        return value
    raise InputError(
        f"{where} split is {type(value).__name__}; it should be a torch Dataset with a length, "
        "or a pair of tensors (inputs, targets)"
    )


def _hold_out(train: Samples, options: Options) -> tuple[Samples, Samples]:
    count = len(train)  # type: ignore[arg-type] # checked when it was taken in
    held = max(1, round(count * options.validation))
    generator = torch.Generator().manual_seed(options.seed)
    if isinstance(train, TensorDataset):
        order = torch.randperm(count, generator=generator)
        parts = (order[held:], order[:held])
        kept, held_out = (TensorDataset(*(t[index] for t in train.tensors)) for index in parts)
        return kept, held_out
    rest, part = random_split(train, [count - held, held], generator=generator)
    return rest, part


def _check_sets(sets: Mapping[str, Samples], name: str) -> int:
    """Check what is held in tensors, and the first batch of what is not; return the classes."""
    classes = 0
    for key, dataset in sets.items():
        where = f"{name}, {key} split"
        inputs, targets = _look(dataset, where)
        for tensor in inputs if isinstance(inputs, tuple) else (inputs,):
            if isinstance(tensor, Tensor):
                check_finite(tensor, where)
        if targets.is_floating_point() or targets.ndim != 1:
            continue
        if key == "train":
            classes = int(targets.max()) + 1
        check_labels(targets, max(classes, 1), where)
    return classes


def _look(dataset: Samples, where: str) -> tuple[object, Tensor]:
    if len(dataset) == 0:  # type: ignore[arg-type] # checked when it was taken in
        raise InputError(f"{where} is empty")
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[:-1], dataset.tensors[-1]
    return next(batches(dataset, 256))
