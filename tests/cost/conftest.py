"""Fixtures of the tests of costs."""

from __future__ import annotations

import pytest
from toy_family import ToyFamily


@pytest.fixture
def family() -> ToyFamily:
    return ToyFamily()
