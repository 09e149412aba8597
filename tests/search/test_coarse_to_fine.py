"""BigNAS's coarse-to-fine selection on tables whose best archs are known."""

from __future__ import annotations

import pytest

from manynet.errors import InputError
from manynet.search import CoarseToFine, Evaluation, search
from manynet.space import Arch, AtMost, Choice, Space

STAGES = 4
SPACE = Space(
    tuple(
        choice
        for stage in range(STAGES)
        for choice in (
            Choice(f"{stage}.width", (8, 16, 24, 32)),
            Choice(f"{stage}.depth", (1, 2, 3)),
        )
    )
)


def loss(arch: Arch) -> float:
    """Return a sum of one term a choice, least at another value in every stage."""
    best = {"width": (8, 24, 32, 16), "depth": (3, 1, 2, 2)}
    return sum(
        abs(arch[f"{stage}.{role}"] - values[stage]) / max(values)
        for role, values in best.items()
        for stage in range(STAGES)
    )


def test_it_finds_the_best_of_a_separable_table_with_few_evaluations() -> None:
    front = search(SPACE, "quality", evaluate=lambda arch: {"quality": -loss(arch)},
                   strategy="coarse_to_fine", evaluations=2000)  # fmt: skip
    assert front.members[0].quality == 0.0
    assert len(front.history) < 0.05 * SPACE.count


def test_the_grid_moves_the_choices_of_a_role_together() -> None:
    archs = CoarseToFine(SPACE, population=1000).ask()
    assert archs[:2] == [SPACE.largest, SPACE.smallest]
    assert len(archs) == 4 * 3  # the ends are points of the grid
    for arch in archs:
        assert len({arch[f"{stage}.width"] for stage in range(STAGES)}) == 1
        assert len({arch[f"{stage}.depth"] for stage in range(STAGES)}) == 1


def test_it_asks_for_neighbors_of_the_front_then_ends() -> None:
    space = Space((Choice("a.width", (1, 2, 3, 4, 5, 6, 7)), Choice("b.width", (1, 2, 3))))
    strategy = CoarseToFine(space, population=100, levels=2)
    seen: list[Arch] = []
    while archs := strategy.ask():
        strategy.tell([Evaluation(arch, (abs(arch["a.width"] - 4.0),)) for arch in archs])
        seen += archs
    assert min(abs(arch["a.width"] - 4) for arch in seen) == 0
    assert len(set(seen)) == len(seen)
    assert strategy.ask() == []


def test_points_that_break_a_constraint_are_left_out() -> None:
    space = Space(SPACE.choices, (AtMost({"0.width": 1}, 16),))
    asked = CoarseToFine(space).ask()
    assert all(arch["0.width"] <= 16 for arch in asked)
    strategy = CoarseToFine(SPACE)
    strategy.tell([Evaluation(arch, (0.0,), violation=1.0) for arch in strategy.ask()])
    assert strategy.ask() == [], "nothing that keeps the constraints was told, so no neighbors"


def test_a_grid_needs_two_levels() -> None:
    with pytest.raises(InputError, match="levels=1"):
        CoarseToFine(SPACE, levels=1)
