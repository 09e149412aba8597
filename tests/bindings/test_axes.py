"""Dimensions as products and concatenations of axes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.bindings.axes import Axis, Concat, Dim, DimTable, axes_of, length, positions, select


def as_index(index: slice | np.ndarray, size: int) -> list[int]:
    return list(np.arange(size)[index])


def test_a_cut_outer_axis_is_a_leading_block() -> None:
    heads, size = Axis("heads", 4), Axis("size", 3, "fixed")
    assert select((heads, size), {heads: 2}) == slice(0, 6)


def test_a_cut_inner_axis_is_an_index_set() -> None:
    heads, size = Axis("heads", 2), Axis("size", 3)
    index = select((heads, size), {heads: 2, size: 2})
    assert as_index(index, 6) == [0, 1, 3, 4]


def test_an_uncut_dimension_is_taken_whole() -> None:
    axis = Axis("a", 5)
    assert select((axis,), {axis: 5}) == slice(None)
    assert select((), {}) == slice(None)


def test_a_concatenation_keeps_the_leading_part_of_each_piece() -> None:
    a, b = Axis("a", 3), Axis("b", 4)
    dim: Dim = (Concat(((a,), (b,))),)
    assert as_index(select(dim, {a: 2, b: 1}), 7) == [0, 1, 3]
    assert length(dim, {a: 2, b: 1}) == 3


def test_a_kernel_keeps_its_center() -> None:
    side = Axis("kernel", 7, anchor="center")
    assert select((side,), {side: 3}) == slice(2, 5)
    assert select((side,), {side: 5}) == slice(1, 6)


def test_the_cut_of_the_last_piece_alone_is_one_run() -> None:
    a, b = Axis("a", 3), Axis("b", 4)
    assert select((Concat(((a,), (b,))),), {a: 3, b: 2}) == slice(0, 5)


def test_a_permuted_axis_permutes_every_dimension_it_runs_through() -> None:
    a, b = Axis("a", 2), Axis("b", 3)
    chosen = {a: np.array([1, 0])}
    assert list(positions((a, b), chosen)) == [3, 4, 5, 0, 1, 2]
    assert list(positions((b, a), chosen)) == [1, 0, 3, 2, 5, 4]


axes = st.builds(Axis, st.just("x"), st.integers(1, 4))
dims = st.recursive(
    st.lists(axes, max_size=2).map(tuple),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda p: (Concat(tuple(p)),)),
    max_leaves=5,
)


@given(dims, st.data())
def test_select_agrees_with_positions_for_any_dimension(dim: Dim, data: st.DataObject) -> None:
    sizes = {axis: data.draw(st.integers(1, axis.size)) for axis in axes_of(dim)}
    expected = positions(dim, {axis: np.arange(n) for axis, n in sizes.items()})
    assert as_index(select(dim, sizes), length(dim)) == list(expected)
    assert len(expected) == length(dim, sizes)


@given(dims)
def test_a_dimension_survives_the_file(dim: Dim) -> None:
    table = DimTable()
    encoded = table.encode(dim)
    again = table.decode(encoded)
    assert [axis.name for axis in axes_of(again)] == [axis.name for axis in axes_of(dim)]
    assert length(again) == length(dim)
    assert table.encode(again) == encoded


@pytest.mark.parametrize("wrong", [[7], ["x"], [True], [{"sum": []}], [-1], [None]])
def test_a_damaged_dimension_is_refused(wrong: list[object]) -> None:
    with pytest.raises(ValueError, match="not a factor of a dimension"):
        DimTable([]).decode(wrong)
