"""What strategies ask for: everything once, the ends first, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from supernet import plain, plain_space

from manynet.errors import InputError
from manynet.search import NSGA2, Evaluation, Exhaustive, Random, Record, Strategy, make_strategy
from manynet.search.front import hypervolume, non_dominated
from manynet.space import Arch, AtMost, Choice, Space

CONDITIONAL = Space(
    (
        Choice("depth", (1, 2, 3)),
        Choice("w1", (8, 16, 32)),
        Choice("w2", (8, 16, 32), active_when={"depth": (2, 3)}),
        Choice("w3", (8, 16, 32), active_when={"depth": (3,)}),
    )
)
CONSTRAINED = Space(
    tuple(Choice(f"g{gene}", (0, 1, 2, 3)) for gene in range(6)),
    (AtMost({f"g{gene}": 1 for gene in range(6)}, 9),),
)
SPACES = {"free": plain_space(), "conditional": CONDITIONAL, "constrained": CONSTRAINED}
STRATEGIES = {"nsga2": NSGA2, "random": Random, "exhaustive": Exhaustive}


def judged(arch: Arch) -> Evaluation:
    size = float(sum(float(value) for value in arch.values()))
    return Evaluation(arch, (-(size**0.5), size), record=Record(arch, size**0.5, {"cost": size}))


def course(strategy: Strategy, rounds: int) -> list[Arch]:
    asked: list[Arch] = []
    for _ in range(rounds):
        archs = strategy.ask()
        asked += archs
        strategy.tell([judged(arch) for arch in archs])
    return asked


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", SPACES)
def test_valid_canonical_archs_none_twice_the_ends_first(name: str, kind: str) -> None:
    space = SPACES[kind]
    asked = course(STRATEGIES[name](space, seed=3, population=10), 6)
    assert asked[:2] == [space.largest, space.smallest]
    assert len(set(asked)) == len(asked)
    assert len(asked) >= 39
    for arch in asked:
        assert arch in space
        assert space.canonical(arch) == arch


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("kind", SPACES)
def test_a_seed_gives_the_same_course_whatever_else_draws(name: str, kind: str) -> None:
    def run(seed: int, global_seed: int) -> list[Arch]:
        np.random.seed(global_seed)
        return course(STRATEGIES[name](SPACES[kind], seed=seed, population=8), 6)

    assert run(0, 1) == run(0, 2)
    if name != "exhaustive":
        assert run(0, 1) != run(1, 1)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_small_space_is_used_up_and_then_nothing_is_asked(name: str) -> None:
    asked = course(STRATEGIES[name](CONDITIONAL, seed=0, population=8), 12)
    assert len(asked) == CONDITIONAL.count == 39
    strategy = STRATEGIES[name](CONDITIONAL, seed=0, population=8)
    course(strategy, 12)
    assert not strategy.ask()


def volume(archs: list[Arch]) -> float:
    points = np.array([(-plain(arch)["score"], plain(arch)["cost"]) for arch in archs])
    return hypervolume(points[non_dominated(points)], np.array([0.0, 100.0]))


def front_course(strategy: Strategy, evaluations: int) -> list[Arch]:
    asked: list[Arch] = []
    while len(asked) < evaluations:
        archs = strategy.ask()
        asked += archs
        values = [plain(arch) for arch in archs]
        strategy.tell(
            [
                Evaluation(arch, (-v["score"], v["cost"]))
                for arch, v in zip(archs, values, strict=True)
            ]
        )
    return asked[:evaluations]


@pytest.mark.parametrize("seed", range(3))
def test_nsga2_finds_more_than_chance_and_most_of_what_there_is(seed: int) -> None:
    space = plain_space()
    best = volume(list(space.restrict({f"g{g}": (0, 1, 3) for g in range(8)}).enumerate()))
    evolved = volume(front_course(NSGA2(space, seed=seed, population=20), 400))
    drawn = volume(front_course(Random(space, seed=seed, population=20), 400))
    assert evolved > drawn
    assert evolved > 0.98 * best


def test_nsga2_leaves_the_forbidden_side() -> None:
    """Archs above a cost of 30 are infeasible and unjudged; the search must still get below it."""
    strategy = NSGA2(plain_space(), seed=0, population=20)
    feasible = []
    for _ in range(20):
        told = []
        for arch in strategy.ask():
            values = plain(arch)
            over = max(0.0, values["cost"] / 30 - 1)
            objectives = (np.inf, np.inf) if over else (-values["score"], values["cost"])
            told.append(Evaluation(arch, objectives, over))
        strategy.tell(told)
        feasible.append(sum(evaluation.feasible for evaluation in told))
    assert feasible[0] < 12
    assert sum(feasible[-5:]) > 60


def test_nsga2_takes_partial_and_foreign_evaluations() -> None:
    space = plain_space()
    strategy = NSGA2(space, seed=0, population=10)
    archs = strategy.ask()
    strategy.tell([judged(arch) for arch in archs[3:]])
    strategy.tell([])
    strategy.tell([judged(space.arch(dict.fromkeys(space.names, 2)))])
    again = strategy.ask()
    assert len(again) == 10
    assert not set(again) & set(archs)


def test_nsga2_asks_again_without_being_told() -> None:
    strategy = NSGA2(plain_space(), seed=0, population=10)
    first, second = strategy.ask(), strategy.ask()
    assert len(set(first) | set(second)) == 20


def test_nsga2_spreads_its_first_generation_over_all_sizes() -> None:
    costs = sorted(plain(arch)["cost"] for arch in NSGA2(plain_space(), population=40).ask())
    most = plain(plain_space().largest)["cost"]
    assert costs[0] == 0
    assert costs[-1] == most
    assert max(np.diff(costs)) < most / 5


def test_nsga2_needs_a_population() -> None:
    with pytest.raises(InputError, match="at least 4, not 3"):
        NSGA2(plain_space(), population=3)


def test_random_draws_archs_or_choices() -> None:
    archs = [
        course(Random(CONDITIONAL, seed=0, population=39, by="arch"), 1),
        course(Random(CONDITIONAL, seed=0, population=39, by="choice"), 1),
    ]
    early = [np.mean([arch["depth"] == 1 for arch in found[2:8]]) for found in archs]
    assert archs[0] != archs[1]
    assert sorted(archs[0]) == sorted(archs[1])
    assert early[1] >= early[0]


def test_strategies_by_name_by_class_and_as_they_are() -> None:
    space = plain_space()
    assert isinstance(make_strategy("nsga2", space, seed=0, population=8), NSGA2)
    assert isinstance(make_strategy(Random, space, seed=0, population=8), Random)
    mine = Random(space)
    assert make_strategy(mine, space, seed=0, population=8) is mine
    with pytest.raises(InputError, match=r"no search strategy 'nsga3' .did you mean 'nsga2'"):
        make_strategy("nsga3", space, seed=0, population=8)
    with pytest.raises(InputError, match=r"needs ask\(\) -> archs and tell"):
        make_strategy(lambda space, *, seed, population: 3, space, seed=0, population=8)  # type: ignore[arg-type, return-value]
    with pytest.raises(InputError, match=r"needs ask\(\) -> archs and tell"):
        make_strategy(3, space, seed=0, population=8)  # type: ignore[arg-type]
