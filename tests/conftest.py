"""What every test starts from: one thread, no network, examples that repeat."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def _stays_here(address: object) -> bool:
    """Whether a socket address is a file or lies on this machine."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    if host in {"", "localhost", socket.gethostname()}:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session", autouse=True)
def _offline() -> Iterator[None]:
    """Refuse connections to other machines: a test that needs one would pass at home only."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        if not _stays_here(address):
            raise OSError(f"tests run offline, but one connects to {address}")
        connect(self, address)  # type: ignore[arg-type]

    socket.socket.connect = guarded  # type: ignore[method-assign, assignment]
    yield
    socket.socket.connect = connect  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Start each test from the same state, so that none depends on its neighbors.

    A library that some test loads leaves denormal numbers flushed, which Hypothesis refuses.
    """
    torch.set_flush_denormal(False)
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a fresh generator with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def chromium() -> str:
    """Return the path of a Chromium; without one the test is skipped, and fails in CI."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("CI"):
        pytest.fail("CI needs chromium; .ci/run installs it")
    pytest.skip("no chromium on this machine")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """Return a browser, for one file of tests: while it is open nothing else can use asyncio."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright; try: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return Path(__file__).parent.parent
