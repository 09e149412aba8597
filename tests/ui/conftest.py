"""The live page of a made run, served as `manynet ui` serves it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

from made_run import make_run
from page_server import Served, serving


@pytest.fixture(scope="session")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a complete run; do not change it."""
    return make_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="session")
def served(complete: Path) -> Iterator[Served]:
    """Return the page of the complete run."""
    with serving(complete) as found:
        yield found
