"""Pairs of sentences for translation, in one vocabulary of pieces.

Letters of shapes: `N` pairs, `S` source tokens, `T` target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from manynet.data._data import Data
from manynet.data._text import IGNORED
from manynet.errors import InputError, MissingExtraError

__all__ = ["sentence_pairs"]

PAD, BEGIN, END = 0, 1, 2


def sentence_pairs(
    folder: Path | str,
    *,
    source: str = "en",
    target: str = "de",
    vocabulary: int = 1000,
    limit: int | None = None,
) -> Data:
    """Return pairs of sentences as tokens of one byte-pair vocabulary, learned on the training set.

    A sample's inputs are the source and the target so far; its targets are the next target tokens,
    -100 where the sentence is over.

    Args:
        folder: holds `train.parquet`, `val.parquet` and a `test*.parquet`, with a column for each
            language.
        source: column of the sentences to translate.
        target: column of their translations.
        vocabulary: pieces of both languages together.
        limit: only so many training pairs, the shortest ones.

    Raises:
        InputError: a file or a column is missing.
        MissingExtraError: `tokenizers` or `pyarrow` is not installed.

    Shapes: inputs `(N, S)` and `(N, T)`, targets `(N, T)`.
    """
    place = Path(folder)
    raw = {name: _read(place, name, source, target) for name in ("train", "val", "test")}
    tokenizer = _learned([text for pair in raw["train"] for text in pair], vocabulary)
    coded = {
        name: [tuple(tokenizer.encode(text).ids for text in pair) for pair in pairs]
        for name, pairs in raw.items()
    }
    coded["train"].sort(key=lambda pair: len(pair[0]) + len(pair[1]))
    coded["train"] = coded["train"][:limit]
    longest = [max(len(pair[side]) for pair in coded["train"]) for side in (0, 1)]
    sets = {name: _packed(pairs, longest) for name, pairs in coded.items()}
    return Data(
        train=sets["train"],
        val=sets["val"],
        test=sets["test"],
        classes=(),
        input_shape=(longest[0],),
        name=place.name,
        origin=f"the parquet copy in {place.resolve()}",
    )


def _read(folder: Path, name: str, source: str, target: str) -> list[tuple[str, str]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "data") from error
    files = sorted(folder.glob(f"{name}*.parquet"))
    if not files:
        raise InputError(f"{folder} holds no {name}*.parquet; sentence pairs need one a split")
    table = parquet.read_table(files[0])
    lacking = {source, target} - set(table.column_names)
    if lacking:
        raise InputError(
            f"{files[0]} has the columns {', '.join(table.column_names)} and lacks {min(lacking)!r}"
        )
    columns = [table.column(language).to_pylist() for language in (source, target)]
    return list(zip(*columns, strict=True))


def _learned(texts: Sequence[str], vocabulary: int) -> Any:
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise MissingExtraError("tokenizers", "language") from error
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _packed(pairs: Sequence[tuple[list[int], ...]], longest: Sequence[int]) -> TensorDataset:
    """Return the pairs that fit, padded: no position beyond the longest has been learned."""
    kept = [p for p in pairs if all(len(p[side]) <= longest[side] for side in (0, 1))]
    sources = torch.full((len(kept), longest[0] + 1), PAD)
    before = torch.full((len(kept), longest[1] + 1), PAD)
    after = torch.full((len(kept), longest[1] + 1), IGNORED)
    for row, (one, other) in enumerate(kept):
        _put(sources[row], [*one, END])
        _put(before[row], [BEGIN, *other])
        _put(after[row], [*other, END])
    return TensorDataset(sources, before, after)


def _put(row: Tensor, ids: list[int]) -> None:
    row[: len(ids)] = torch.tensor(ids)
