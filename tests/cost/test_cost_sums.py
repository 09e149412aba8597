from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.cost import _sums
from manynet.cost._sums import Sums, Term

CANDIDATES = [(16, 32, 48, 64), (1, 2), ("a", "b", "c"), (True, False), tuple(range(7)), (0.5,)]


def term(positions: tuple[int, ...], start: int) -> Term:
    """A term that adds another figure for every combination."""
    keys: Any = itertools.product(*(CANDIDATES[position] for position in positions))
    if len(positions) == 1:
        keys = CANDIDATES[positions[0]]
    return Term(positions, {key: complex(start + n, 1 / (1 + n)) for n, key in enumerate(keys)})


def added_up(terms: list[Term], values: tuple[Any, ...], start: complex) -> complex:
    for one in terms:
        key = tuple(values[position] for position in one.positions)
        start += one.known[key[0] if len(key) == 1 else key]
    return start


positions = st.lists(st.integers(0, 5), unique=True, max_size=5).map(tuple)


@given(st.lists(positions, max_size=7), st.sampled_from([0, 3, 50, 4096]), st.integers(1, 60))
def test_tables_say_what_their_terms_add_up_to(
    places: list[tuple[int, ...]], listed: int, together: int
) -> None:
    terms = [term(place, 10 * n) for n, place in enumerate(places)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sums, "_LISTED", listed)
        patch.setattr(_sums, "_TOGETHER", together)
        total = Sums(CANDIDATES, terms, 2 + 1j).total
    for values in itertools.islice(itertools.product(*CANDIDATES), 0, None, 5):
        assert total(values) == pytest.approx(added_up(terms, values, 2 + 1j))


def test_many_terms_become_few_small_tables() -> None:
    pairs = [term(place, n) for n, place in enumerate(itertools.combinations(range(5), 2))]
    groups = Sums(CANDIDATES, [])._groups(pairs)
    sizes = [math.prod(len(CANDIDATES[p]) for p in places) for places, _ in groups]
    assert len(groups) < 5 and max(sizes) <= 256
    whole = Sums(CANDIDATES, [])._groups([term((0, 1, 2, 3, 4), 0), *pairs])
    assert [places for places, _ in whole] == [(0, 1, 2, 3, 4)]  # nothing is larger for it


def test_values_that_no_term_knows_are_refused() -> None:
    total = Sums(CANDIDATES, [term((0, 1), 0), term((4,), 0)]).total
    with pytest.raises(KeyError):
        total((17, 1, "a", True, 0, 0.5))
