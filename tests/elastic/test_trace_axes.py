"""The algebra of axes under trace: uniting, splitting and regrouping keep every size right."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.elastic._axes import (
    Extent,
    Node,
    concatenate,
    equally_long,
    extent,
    flatten,
    freeze,
    is_frozen,
    leaves,
    regroup,
    size_of,
    split_parts,
    unify,
)

factors = st.lists(st.integers(2, 5), min_size=1, max_size=4)


def product(*sizes: int, reason: str | None = None) -> Extent:
    return tuple(Node(size, reason) for size in sizes)


def test_a_leaf_becomes_the_product_that_it_is_united_with() -> None:
    leaf, pair = extent(12), product(3, 4)
    unify(leaf, pair)
    assert flatten(leaf) == pair


def test_leaves_that_are_united_are_one() -> None:
    a, b, c = extent(6), extent(6), extent(6)
    unify(a, b)
    unify(c, a)
    assert flatten(a) == flatten(b) == flatten(c)
    freeze(a, "why")
    assert is_frozen(c)


def test_a_frozen_side_freezes_the_other_and_keeps_its_reason() -> None:
    a, b = extent(6), extent(6, "first")
    unify(a, b)
    freeze(b, "second")
    assert [leaf.reason for leaf in leaves(a)] == ["first"]


def test_a_frozen_axis_can_be_viewed_in_two_ways() -> None:
    space = extent(56, "space")
    assert [size_of(dim) for dim in regroup([space], [8, 7]) or []] == [8, 7]
    assert regroup([space], [7, 8]) is not None
    assert flatten(space) == space


def test_neighboring_frozen_axes_regroup_across_their_bounds() -> None:
    dims = regroup([product(8, 7, reason="space"), extent(5)], [7, 8, 5])
    assert dims is not None
    assert [size_of(dim) for dim in dims] == [7, 8, 5]
    assert not is_frozen(dims[2])


def test_frozen_factors_of_other_sizes_do_not_freeze_their_neighbors() -> None:
    a = (*product(8, 7, reason="space"), Node(5))
    b = (*product(7, 8, reason="space"), Node(5))
    unify(a, b)
    assert flatten(a)[-1] is flatten(b)[-1]
    assert not is_frozen(a)


def test_factors_that_do_not_line_up_freeze() -> None:
    a, b = product(4, 9), product(9, 4)
    unify(a, b)
    assert is_frozen(a)
    assert is_frozen(b)


def test_sums_at_other_bounds_are_refined() -> None:
    a = concatenate([extent(4), extent(8)])
    b = concatenate([extent(6), extent(6)])
    unify(a, b)
    (node,) = flatten(a)
    assert [size_of(part) for part in node.parts or []] == [4, 2, 6]
    assert flatten(a) == flatten(b)
    assert not is_frozen(a)


def test_a_sum_viewed_as_a_product_shares_the_inner_factor() -> None:
    left, right = extent(8), extent(12)
    joined = concatenate([left, right])
    dims = regroup([joined], [5, 4])
    assert dims is not None
    assert flatten(left)[-1] is flatten(right)[-1] is flatten(dims[1])[0]
    assert size_of(dims[0]) == 5


def test_a_sum_that_is_no_product_freezes() -> None:
    left = extent(3)
    dims = regroup([concatenate([left, extent(5)])], [2, 4])
    assert dims is not None
    assert is_frozen(left)


def test_parts_of_a_product_split_its_outer_factor() -> None:
    dim = product(6, 5)
    first, second = split_parts(dim, [10, 20])
    assert [size_of(first), size_of(second)] == [10, 20]
    assert flatten(first)[-1] is flatten(second)[-1] is dim[1]


def test_parts_that_cut_a_factor_freeze() -> None:
    dim = product(6, 5)
    split_parts(dim, [12, 18])
    assert is_frozen(dim)


def test_an_axis_cut_into_single_positions_freezes() -> None:
    dim = extent(2)
    assert split_parts(dim, [1, 1]) == [(), ()]
    assert [leaf.reason for leaf in leaves(dim)] == ["cut into single positions"]


def test_parts_gathered_from_a_finer_sum() -> None:
    parts = [extent(2), extent(3), extent(4)]
    joined = concatenate(parts)
    first, second = split_parts(joined, [5, 4])
    assert size_of(first) == 5
    assert flatten(second) == flatten(parts[2])


def test_what_is_joined_with_nothing_stays_itself() -> None:
    axis = extent(4)
    joined = concatenate([extent(0), axis])
    assert joined == axis
    unify(axis, joined)
    assert size_of(flatten(axis)) == 4 and len(list(leaves(joined))) == 1
    assert size_of(concatenate([extent(0), extent(0)])) == 0


def test_nested_concatenations_are_flat() -> None:
    a, b, c = extent(2), extent(3), extent(4)
    (node,) = concatenate([concatenate([a, b]), c])
    assert node.parts == [a, b, c]


def test_concatenated_frozen_parts_are_one_frozen_axis() -> None:
    (node,) = concatenate([extent(2, "why"), extent(3, "why not")])
    assert (node.size, node.reason, node.parts) == (5, "why", None)


def test_equally_long_ignores_order_and_where_frozen_sizes_stand() -> None:
    a, b = Node(5), Node(7)
    assert equally_long((a, *extent(4, "x"), b), (b, *product(2, 2, reason="y"), a))
    assert not equally_long((a, b), (a, Node(7)))


@pytest.mark.parametrize("sizes", [[12, 1, 5], [2, 6, 5], [3, 20], [60], [1, 60, 1]])
def test_a_view_keeps_every_size(sizes: list[int]) -> None:
    dims = regroup([extent(12), extent(5)], sizes)
    assert dims is not None
    assert [size_of(dim) for dim in dims] == sizes


@given(factors, factors)
def test_united_extents_have_the_same_factors_or_are_frozen(
    left: list[int], right: list[int]
) -> None:
    a = product(*left, *right)
    b = product(*right, *left)
    unify(a, b)
    assert size_of(flatten(a)) == size_of(flatten(b)) == math.prod([*left, *right])
    assert flatten(a) == flatten(b) or (is_frozen(a) or is_frozen(b)) or _agree(a, b)


def _agree(a: Extent, b: Extent) -> bool:
    """Return whether every factor that is not frozen is shared, in the same order."""
    free = [[node for node in flatten(dim) if node.reason is None] for dim in (a, b)]
    return free[0] == free[1]


@given(factors, st.data())
def test_parts_add_up(sizes: list[int], data: st.DataObject) -> None:
    dim = product(*sizes)
    total = size_of(dim)
    cut = data.draw(st.integers(1, total - 1))
    parts = split_parts(dim, [cut, total - cut])
    assert [size_of(part) for part in parts] == [cut, total - cut]
    assert size_of(flatten(dim)) == total
