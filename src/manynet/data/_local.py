"""Where data sets lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from manynet.errors import InputError

__all__ = ["local_data", "local_folders"]


def local_folders() -> list[Path]:
    """Return where local copies of data sets are looked for: `$MANYNET_DATA`, `../shared/data`."""
    named = [Path(os.environ["MANYNET_DATA"])] if "MANYNET_DATA" in os.environ else []
    return [*named, Path("../shared/data")]


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
