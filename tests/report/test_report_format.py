"""Numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.report._format import (
    brief,
    cost_label,
    cost_text,
    count_text,
    quality_text,
    round_up,
    share,
    significant,
)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("macs", 1_200_000, "1.2 M MACs"),
        ("macs", 999_960, "1 M MACs"),
        ("macs", 950, "950 MACs"),
        ("macs", 2.5e9, "2.5 G MACs"),
        ("parameters", 41_000, "41 k parameters"),
        ("bytes", 34_000, "34 KB"),
        ("bytes", 0, "0 B"),
        ("peak_memory", 1.5e6, "1.5 MB"),
        ("latency_ms", 0.42, "0.42 ms"),
        ("latency_onnx_ms", 1234.4, "1234 ms"),
        ("wobble", 1200, "1.2 k"),
        ("wobble", 0.5, "0.5"),
    ],
)
def test_costs_are_written_for_people(name: str, value: float, text: str) -> None:
    assert cost_text(name, value) == text


def test_a_cost_of_the_users_own_goes_by_its_name() -> None:
    assert cost_label("carbon_footprint").title == "carbon footprint"


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        ("accuracy", 0.9712, "97.1 %"),
        ("int8_accuracy", 1.0, "100.0 %"),
        ("accuracy", 97.1, "97.1"),
        ("loss", 0.0312, "0.0312"),
    ],
)
def test_an_accuracy_is_a_percentage(metric: str, value: float, text: str) -> None:
    assert quality_text(metric, value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(1, "1"), (12_288, "12,288"), (10**18, "about 1.0 × 10¹⁸"), (256 * 10**9, "about 2.6 × 10¹¹")],  # noqa: RUF001 - the sign on the page
)
def test_a_large_count_is_rounded(count: int, text: str) -> None:
    assert count_text(count) == text


def test_a_count_of_any_size_has_a_text() -> None:
    assert count_text(10**400).endswith("10⁴⁰⁰")


@given(st.floats(1e-6, 1e15))
def test_significant_keeps_three_digits_and_no_exponent(value: float) -> None:
    text = significant(value)
    assert "e" not in text
    assert float(text) == pytest.approx(value, rel=6e-3)


@given(st.floats(1e-6, 1e15), st.floats(1e-9, 10))
def test_a_budget_is_rounded_up_but_not_to_the_next_member(value: float, gap: float) -> None:
    below = value * (1 + gap)
    rounded = round_up(value, below)
    assert value <= rounded
    assert rounded < below or rounded == value


def test_a_budget_without_a_rival_keeps_three_digits() -> None:
    assert round_up(1_234_567.0) == 1_240_000
    assert isinstance(round_up(1_234_567.0), int)


def test_many_choices_are_summed_up() -> None:
    arch = {f"b{i}.width": 8 for i in range(9)} | {"depth": 2}
    largest = dict.fromkeys(arch, 16) | {"depth": 2}
    assert brief(arch, largest) == ["width 50 % of the largest's on average", "depth 2"]


def test_many_choices_that_are_words_are_counted() -> None:
    arch = {f"b{i}.act": "relu" for i in range(8)}
    assert brief(arch, arch) == ["act relu … relu (8 choices)"]


@pytest.mark.parametrize(("value", "largest"), [("relu", "relu"), (3, 0), (3, None)])
def test_only_numbers_have_a_share(value: object, largest: object) -> None:
    assert share(value, largest) is None  # type: ignore[arg-type]


def test_a_share_is_a_fraction() -> None:
    assert math.isclose(share(3, 12) or 0, 0.25)
