"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from manynet.errors import InputError

__all__ = ["local_data", "local_folders", "local_places"]


def local_folders() -> list[Path]:
    """Return where local copies of data sets are looked for: `$MANYNET_DATA`, `../shared/data`."""
    named = [Path(os.environ["MANYNET_DATA"])] if "MANYNET_DATA" in os.environ else []
    return [*named, Path("../shared/data")]


def local_places(name: str, folder: Path | None = None) -> list[Path]:
    """Return the folders in which a data set may lie, likeliest first.

    Args:
        name: the data set's own folder below each of `local_folders`.
        folder: looked into before them.
    """
    roots = [*([folder] if folder else []), *local_folders()]
    return [place for root in roots for place in (root, root / name)]


def local_data(pattern: str) -> Path:
    """Return the first file or folder of a local data set that fits a pattern.

    Args:
        pattern: such as `"text/sst2-train.tsv"`, below one of `local_folders`.

    Raises:
        InputError: there is none.
    """
    for root in local_folders():
        for found in sorted(root.glob(pattern)):
            return found
    looked = " and ".join(str(root) for root in local_folders())
    raise InputError(
        f"there is no {pattern} in {looked}; set MANYNET_DATA to the folder that holds it"
    )
