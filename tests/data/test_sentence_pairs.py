"""Sentence pairs: what of them becomes inputs and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from manynet.data import IGNORED, sentence_pairs
from manynet.errors import InputError

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("tokenizers")

PAIRS = [("a dog runs", "ein Hund rennt"), ("a cat", "eine Katze"), ("two dogs run fast", "zwei")]


def write(folder: Path, columns: tuple[str, str] = ("en", "de")) -> Path:
    from pyarrow import parquet

    for name, pairs in (("train", PAIRS), ("val", PAIRS[:2]), ("test_2016", PAIRS[:1])):
        table = pyarrow.table({c: [p[i] for p in pairs] for i, c in enumerate(columns)})
        parquet.write_table(table, folder / f"{name}.parquet")
    return folder


def test_targets_are_the_inputs_one_piece_on(tmp_path: Path) -> None:
    data = sentence_pairs(write(tmp_path), vocabulary=300)
    assert len(data.train) == 3 and len(data.val) == 2 and len(data.test) == 1  # type: ignore
    for source, before, after in data.train:  # type: ignore[attr-defined]
        assert before[0] == 1 and 2 in source
        length = int((after != IGNORED).sum())
        assert torch.equal(before[1:length], after[: length - 1]) and after[length - 1] == 2
        assert not before[length:].any() and (after[length:] == IGNORED).all()


def test_the_limit_keeps_the_shortest_and_fixes_the_length(tmp_path: Path) -> None:
    data = sentence_pairs(write(tmp_path), vocabulary=300, limit=1)
    assert len(data.train) == 1  # type: ignore[arg-type]
    assert len(data.val) == 1  # type: ignore[arg-type] # the longer one does not fit


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no train\*.parquet"):
        sentence_pairs(tmp_path)
    with pytest.raises(InputError, match="has the columns en, fr and lacks 'de'"):
        sentence_pairs(write(tmp_path, ("en", "fr")))
