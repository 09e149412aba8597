"""How the learning rate goes."""

from __future__ import annotations

import itertools
import math

import pytest

from manynet.errors import InputError
from manynet.train import constant, cosine, exponential, warmed_up
from manynet.train.schedules import schedule_of


def test_exponential_falls_and_ends_in_a_constant() -> None:
    factors = [exponential(0.97, every=2.4)(step) for step in range(600)]
    assert factors[0] == 1.0
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))
    first = math.ceil(2.4 * math.log(0.05) / math.log(0.97))
    assert all(factor == 0.05 for factor in factors[first:])
    assert all(factor > 0.05 for factor in factors[:first])


def test_the_named_exponential_is_at_its_floor_after_two_thirds() -> None:
    schedule = schedule_of("exponential", 100, 0)
    assert schedule(64) > 0.05
    assert schedule(66) == schedule(99) == 0.05


@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warm_up_then_cosine(warmup: float) -> None:
    schedule = schedule_of("cosine", 100, warmup)
    assert [schedule(step) for step in range(10)] == pytest.approx([i / 10 for i in range(1, 11)])
    assert schedule(10) == 1.0
    assert schedule(55) == pytest.approx(0.5)
    assert 0 < schedule(99) < 0.001
    assert cosine(10)(20) == 0.0


def test_a_straight_line_after_the_warm_up() -> None:
    schedule = schedule_of("linear", 100, 20)
    assert schedule(19) == schedule(20) == 1.0
    assert schedule(60) == pytest.approx(0.5)
    assert 0 < schedule(99) < 0.02


def test_constant_and_ones_own() -> None:
    assert schedule_of("constant", 5, 0)(4) == constant()(4) == 1.0
    own = warmed_up(lambda step: 1 / (1 + step), 2)
    assert schedule_of(own, 5, 0.5) is own


@pytest.mark.parametrize(
    ("schedule", "warmup", "word"),
    [("cosin", 0, "did you mean 'cosine'"), ("cosine", 200, "200 steps"), ("cosine", -1, "-1")],
)
def test_names_and_warm_ups_that_do_not_fit(schedule: str, warmup: int, word: str) -> None:
    with pytest.raises(InputError, match=word):
        schedule_of(schedule, 100, warmup)


def test_an_exponential_that_does_not_decay() -> None:
    with pytest.raises(InputError, match="rate"):
        exponential(1.0)
