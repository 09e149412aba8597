"""Text as data: what becomes a sequence, what is to be guessed, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import manynet as mn
from languages import TEXT, save_tokenizer
from manynet.data import IGNORED, TextData
from manynet.errors import InputError


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return save_tokenizer(tmp_path / "tokenizer", ends=True)


def load(name: object, tokenizer: Any, **options: Any) -> TextData:
    data = mn.load_data(f"text:{name}", tokenizer=tokenizer, **options)
    assert isinstance(data, TextData)
    return data


def test_sequences_have_no_gaps_and_share_no_token(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    data = load(tmp_path / "a.txt", tokenizer, length=16, validation=0.1)
    flat = tokenizer(TEXT, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    found = [row for split in (data.train, data.val, data.test) for row in split]
    targets = torch.cat([labels for _, labels in found]).tolist()
    assert targets == flat[1 : len(targets) + 1]
    assert len(flat) - len(targets) <= 16
    assert torch.cat([tokens for tokens, _ in found]).tolist() == flat[: len(targets)]
    assert data.task == "causal" and data.input_shape == (16,)


def test_documents_end_with_the_end_token(tmp_path: Path, tokenizer: Any) -> None:
    lines = [json.dumps({"text": line}) for line in TEXT.splitlines()]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    data = load(tmp_path / "a.jsonl", tokenizer, length=12)
    tokens = torch.cat([row for split in (data.train, data.val, data.test) for row, _ in split])
    assert abs(int((tokens == tokenizer.eos_token_id).sum()) - len(lines)) <= 2


def test_names_of_files_say_the_splits(tmp_path: Path, tokenizer: Any) -> None:
    for split, count in (("train", 40), ("dev", 10), ("test", 20)):
        (tmp_path / f"x-{split}.txt").write_text("".join(TEXT.splitlines(True)[:count]))
    data = load(tmp_path, tokenizer, length=8)
    sizes = [len(part) for part in (data.train, data.val, data.test)]  # type: ignore[arg-type]
    assert sizes[0] > sizes[2] > sizes[1]


def test_masks_are_new_in_training_and_the_same_in_validation(
    tmp_path: Path, tokenizer: Any
) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    data = load(tmp_path / "a.txt", tokenizer, length=16, task="masked")
    first, again = (data.train.batch(torch.arange(8)) for _ in range(2))
    assert not torch.equal(first[1], again[1])
    assert torch.equal(data.val[0][1], data.val[0][1])
    tokens, labels = data.train.batch(torch.arange(len(data.train)))
    guessed = labels != IGNORED
    assert 0.1 < guessed.float().mean() < 0.2
    assert (tokens[:, 0] == tokenizer.cls_token_id).all() and not guessed[:, 0].any()
    assert torch.equal(tokens[~guessed], data.train.rows[~guessed])
    masked = (tokens[guessed] == tokenizer.mask_token_id).float().mean()
    assert 0.7 < masked < 0.9


def test_texts_with_labels_are_padded_to_their_longest(tmp_path: Path, tokenizer: Any) -> None:
    rows = [("the cat", "bad"), ("the old dog sat", "good")] * 10
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "\n".join("\t".join(row) for row in rows))
    data = load(tmp_path / "a.tsv", tokenizer, length=32, validation=0.2)
    assert data.classes == ("bad", "good") and data.task == "classify"
    inputs, targets = data.train.batch(torch.arange(len(data.train)))
    lengths = {0: 4, 1: 6}  # with the tokens at both ends
    assert inputs["attention_mask"].sum(1).tolist() == [lengths[t] for t in targets.tolist()]
    assert inputs["input_ids"].shape[1] == 6
    short, target = data.train[int((targets == 0).nonzero()[0])]
    assert int(short["attention_mask"].sum()) == 4 and int(target) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "too short", "too little text"),
        ("a.tsv", "no label here", r"line 1: should be TEXT<TAB>LABEL"),
        ("a.tsv", "one\tx\ntwo\tx", "at least 2"),
        ("a.jsonl", '{"words": 1}', "a mapping with the key 'text'"),
        ("a.txt", b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_bad_text_is_refused_by_name(
    tmp_path: Path, tokenizer: Any, name: str, content: str | bytes, message: str
) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=message):
        load(tmp_path / name, tokenizer, length=16)


def test_a_missing_file_a_missing_tokenizer_a_missing_mask(tmp_path: Path, tokenizer: Any) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        load(tmp_path / "none.txt", tokenizer)
    (tmp_path / "a.txt").write_text(TEXT)
    with pytest.raises(InputError, match="needs the tokenizer"):
        load(tmp_path / "a.txt", None)
    tokenizer.mask_token = None
    with pytest.raises(InputError, match="has no mask token"):
        load(tmp_path / "a.txt", tokenizer, length=16, task="masked")
    with pytest.raises(InputError, match="at least 2 tokens"):
        load(tmp_path / "a.txt", tokenizer, length=1)
