"""One run's folder with its page, made once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_run import make_run

from manynet.report import write_report


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder with a page; do not change it."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "demo")
    write_report(folder)
    return folder
