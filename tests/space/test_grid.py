"""Many archs at once agree with the space, one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manynet.errors import InputError
from manynet.space import Arch, AtMost, Choice, Grid, Space

CHAIN = Space(
    (
        Choice("depth", (1, 2, 3)),
        Choice("w1", (8, 16)),
        Choice("w2", (8, 16, 32), active_when={"depth": (2, 3)}),
        Choice("w3", (8, 16), active_when={"depth": (3,), "w2": (16, 32)}),
        Choice("k3", (3, 5), active_when={"w3": (16,)}),
    )
)
BOUND = Space(tuple(Choice(f"g{n}", (0, 1, 2)) for n in range(4)), (AtMost(("g0", "g1", "g2"), 3),))


@given(st.integers(0, 2**32 - 1))
def test_rows_agree_with_the_space_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Grid(CHAIN)
    rows = rng.integers(0, grid.sizes, (6, grid.width))
    plain = [
        Arch({c.name: c.values[place] for c, place in zip(CHAIN, row, strict=True)})
        for row in rows.tolist()
    ]
    for flags, arch in zip(grid.active(rows), plain, strict=True):
        assert tuple(np.array(CHAIN.names)[flags]) == CHAIN.active(arch)
    assert grid.archs(grid.repaired(rows)) == [CHAIN.canonical(arch) for arch in plain]
    assert (grid.rows(plain) == grid.folded(rows)).all()


@given(st.integers(0, 2**32 - 1))
def test_what_a_constraint_forbids_becomes_the_nearest(seed: int) -> None:
    grid = Grid(BOUND)
    rows = np.random.default_rng(seed).integers(0, grid.sizes, (6, grid.width))
    for row, arch in zip(rows, grid.archs(grid.repaired(rows)), strict=True):
        assert arch == BOUND.decode(row / 2)
    drawn = grid.sample(np.random.default_rng(seed), 6)
    assert all(arch in BOUND for arch in grid.archs(drawn))


def test_one_hot_has_no_block_for_what_does_not_matter() -> None:
    grid = Grid(CHAIN)
    archs = list(CHAIN.enumerate())
    found = grid.onehot(grid.rows(archs))
    assert found.shape == (len(archs), 12)
    assert len(np.unique(found, axis=0)) == len(archs) == CHAIN.count
    assert (found.sum(axis=1) == [len(CHAIN.active(arch)) for arch in archs]).all()


def test_archs_that_are_one_network_become_one() -> None:
    space = Space((Choice("left", (1, 2, 3)), Choice("right", (1, 2, 3))))

    def ordered(arch: Arch) -> Arch:
        left, right = sorted([int(arch["left"]), int(arch["right"])])
        return arch.replace(left=left, right=right)

    grid = Grid(space, canonical=ordered)
    rows = grid.repaired(grid.rows(space.enumerate()))
    assert len(np.unique(rows, axis=0)) == 6


def test_a_row_outside_its_choices_is_refused() -> None:
    with pytest.raises(InputError, match="a position that its choice does not have"):
        Grid(BOUND).repaired(np.array([[0, 3, 0, 0]]))
