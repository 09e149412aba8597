"""Characters as tokens, and the small text of plays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import manynet as mn
from manynet.data import Characters
from manynet.errors import InputError


def test_what_is_encoded_is_decoded() -> None:
    tokenizer = Characters("hello, world\n")
    assert tokenizer.decode(tokenizer("hello\n")["input_ids"]) == "hello\n"
    assert tokenizer(["he", "h"])["input_ids"][1] == tokenizer("h")["input_ids"]


def test_a_character_that_is_not_known_is_named() -> None:
    with pytest.raises(InputError, match="the character 'z' is none of the 2"):
        Characters("ab")("abz")
    with pytest.raises(InputError, match="a text that has some"):
        Characters("")


def test_shakespeare_is_found_in_a_folder_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MANYNET_DATA", raising=False)
    with pytest.raises(InputError, match=r"tinyshakespeare\.txt is in none of"):
        mn.load_data("shakespeare", folder=tmp_path)
    (tmp_path / "tinyshakespeare.txt").write_text("to be or not to be\n" * 40)
    data = mn.load_data("shakespeare", folder=tmp_path, length=16)
    tokens, targets = data.train[0]
    assert data.tokenizer.decode(tokens) == "to be or not to "  # type: ignore[attr-defined]
    assert torch.equal(tokens[1:], targets[:-1])
    assert len(data.val) and len(data.test)
