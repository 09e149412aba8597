"""Where local copies of data are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from manynet.data import local_data
from manynet.errors import InputError


def test_the_named_folder_comes_before_the_shared_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, named = tmp_path / "here", tmp_path / "named"
    for place in (here, named, tmp_path / "shared" / "data"):
        place.mkdir(parents=True)
    (tmp_path / "shared" / "data" / "words.txt").write_text("far")
    monkeypatch.chdir(here)
    monkeypatch.delenv("MANYNET_DATA", raising=False)
    assert local_data("words.*").read_text() == "far"
    monkeypatch.setenv("MANYNET_DATA", str(named))
    assert local_data("words.txt").read_text() == "far"
    (named / "words.txt").write_text("near")
    assert local_data("words.txt").read_text() == "near"


def test_what_is_nowhere_says_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYNET_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"no text/none\.tsv in .*; set MANYNET_DATA"):
        local_data("text/none.tsv")
