"""Which archs a step trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manynet.errors import InputError
from manynet.space import Choice, Space
from manynet.train import Sandwich, Uniform

SPACE = Space((Choice("width", (8, 16, 32)), Choice("depth", (1, 2)), Choice("kernel", (3, 5))))


@settings(max_examples=25)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 5), by=st.sampled_from(["arch", "choice"]))
def test_a_sandwich_is_largest_smallest_and_random_ones(seed: int, count: int, by: Any) -> None:
    archs = Sandwich(count, by=by).archs(SPACE, np.random.default_rng(seed))
    assert archs[:2] == [SPACE.largest, SPACE.smallest]
    assert len(archs) == count + 2
    assert all(arch in SPACE for arch in archs)


@pytest.mark.parametrize("sampler", [Sandwich(3), Uniform(5), Uniform(5, by="arch")])
def test_the_same_seed_draws_the_same_and_another_does_not(sampler: Any) -> None:
    def drawn(seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [arch for _ in range(4) for arch in sampler.archs(SPACE, rng)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_uniform_reaches_every_arch() -> None:
    rng = np.random.default_rng(0)
    found = {arch for _ in range(60) for arch in Uniform(4).archs(SPACE, rng)}
    assert found == set(SPACE.enumerate())


def test_a_space_of_one_arch_is_trained_once_a_step() -> None:
    one = Space((Choice("width", (8,)),))
    assert list(Sandwich().archs(one, np.random.default_rng(0))) == [one.largest]


def test_numbers_and_words_that_make_no_sense() -> None:
    with pytest.raises(InputError, match="at least one"):
        Uniform(0)
    with pytest.raises(InputError, match="0 or more"):
        Sandwich(-1)
    with pytest.raises(InputError, match="unknown"):
        Sandwich(by="dice")  # type: ignore[arg-type]
