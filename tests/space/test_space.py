"""Spaces by example: figures known by hand, large spaces, messages."""

from __future__ import annotations

import copy
import json
import math
import pickle
import time

import numpy as np
import pytest

import manynet.space._lattice as lattice_module
from manynet.errors import InputError
from manynet.space import (
    Allow,
    Arch,
    AtMost,
    Choice,
    Divides,
    Equal,
    Forbid,
    Implies,
    LessEqual,
    Space,
)


def ofa() -> Space:
    """The space of once-for-all networks: five stages of two to four blocks."""
    choices = []
    for stage in range(5):
        depth = f"stage{stage}.depth"
        choices.append(Choice(depth, (2, 3, 4)))
        for block in range(4):
            when = {depth: tuple(n for n in (2, 3, 4) if n > block)} if block >= 2 else None
            choices.append(Choice(f"stage{stage}.{block}.kernel", (3, 5, 7), when))
            choices.append(Choice(f"stage{stage}.{block}.expand", (3, 4, 6), when))
    return Space(tuple(choices))


def pair(**options) -> Space:
    return Space((Choice("depth", (1, 2)), Choice("width", (16, 32, 64))), **options)


CONDITIONAL = Space(
    (Choice("depth", (1, 2)), Choice("kernel", (3, 5, 7), active_when={"depth": (2,)}))
)


# --- counting


def test_the_once_for_all_space_counts_exactly() -> None:
    assert ofa().count == (9**2 + 9**3 + 9**4) ** 5


def test_sixty_choices_count_exactly() -> None:
    space = Space(tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(60)))
    assert space.count == 4**60
    assert space.sample(np.random.default_rng(0)) in space


@pytest.mark.bench
@pytest.mark.parametrize("by", ["arch", "choice"])
def test_drawing_of_sixty_choices_is_far_below_100_us(by: str) -> None:
    """Measured: 15 us on an idle machine, 35 us with conditions."""
    for space in (Space(tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(60))), ofa()):
        rng = np.random.default_rng(0)
        best = math.inf
        for _ in range(20):
            start = time.perf_counter()
            for _ in range(20):
                space.sample(rng, by=by)
            best = min(best, (time.perf_counter() - start) / 20)
        assert best < 100e-6


def test_forty_choices_under_a_sum_count_exactly() -> None:
    names = tuple(f"w{i}" for i in range(40))
    space = Space(tuple(Choice(name, (0, 1)) for name in names), (AtMost(names, 13),))
    assert space.count == sum(math.comb(40, ones) for ones in range(14))
    assert sum(space.largest.values()) == 13
    assert list(space.largest.values())[:13] == [1] * 13, "the first choices stay largest"
    drawn = space.sample(np.random.default_rng(0))
    assert drawn in space


def test_a_weighted_sum_of_decimals_counts_exactly() -> None:
    names = tuple(f"w{i}" for i in range(25))
    space = Space(tuple(Choice(name, (0, 0.1)) for name in names), (AtMost(names, 0.3, (1,) * 25),))
    assert space.count == 1 + 25 + math.comb(25, 2) + math.comb(25, 3)


@pytest.mark.parametrize(
    ("constraints", "count"),
    [
        (tuple(LessEqual(f"c{i}", f"c{i + 1}") for i in range(39)), math.comb(40 + 2, 2)),
        (tuple(LessEqual(f"c{i}", "c39") for i in range(39)), 1 + 2**39 + 3**39),
        ((Equal(tuple(f"c{i}" for i in range(40))),), 3),
        (tuple(Equal((f"c{i}", f"c{i + 20}")) for i in range(20)), 3**20),
        (tuple(Divides(f"c{i}", "c39") for i in range(39)), 1 + 2**39 + 2**39),
        (tuple(Implies({f"c{i}": (1,)}, {f"c{i + 1}": (1,)}) for i in range(39)), None),
        ((Forbid(tuple(f"c{i}" for i in range(40)), [(1,) * 40, (2,) * 40]),), 3**40 - 2),
        ((Allow(tuple(f"c{i}" for i in range(40)), [(1,) * 40, (2,) * 40]),), 2),
    ],
    ids=["chain", "star", "all-equal", "pairs", "divides", "implies", "forbid", "allow"],
)
def test_linked_choices_count_exactly(constraints, count: int | None) -> None:
    if count is None:  # once a choice is 1, all later ones are: free in {2, 3} before
        count = sum(2**before for before in range(41))
    space = Space(tuple(Choice(f"c{i}", (1, 2, 3)) for i in range(40)), constraints)
    assert space.count == count
    assert space.sample(np.random.default_rng(0)) in space
    assert space.sample(np.random.default_rng(0), by="choice") in space


def test_a_drawn_large_number_is_uniform() -> None:
    rng = np.random.default_rng(0)
    bound = 3 * 2**70
    drawn = np.array([lattice_module.below(rng, bound) // 2**70 for _ in range(3000)])
    counts = np.bincount(drawn, minlength=3)
    assert len(counts) == 3
    assert ((counts - 1000) ** 2 / 1000).sum() < 14  # chi-square, two degrees, 0.1 %


# --- constraints too entangled


@pytest.fixture
def entangled(monkeypatch: pytest.MonkeyPatch) -> Space:
    monkeypatch.setattr(lattice_module, "LIMIT", 1000)
    names = tuple(f"w{i}" for i in range(20))
    weights = tuple(-1000 - 7 * i * i for i in range(20))  # at least so much: the largest is fine
    choices = tuple(Choice(name, (0, 1, 2)) for name in names)
    return Space(choices, (AtMost(names, sum(weights), weights),))


def test_entangled_constraints_are_refused_never_guessed() -> None:
    # The limit as it is, within about a second.
    names = tuple(f"w{i}" for i in range(40))
    weights = tuple(-(10**6) - 7**i % 999_983 for i in range(40))
    choices = tuple(Choice(name, (0, 1, 2, 3)) for name in names)
    budget = AtMost(names, sum(weights), weights)
    space = Space((*choices, Choice("x", (1,))), (budget,))
    with pytest.raises(InputError, match=r"40 choices \(w0, .*…\) hang together through 1 const"):
        space.count
    with pytest.raises(InputError, match="rounder weights"):
        space.sample(np.random.default_rng(0))


def test_entangled_spaces_still_draw_by_choice_and_vary(entangled: Space) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match="too many to count exactly"):
        entangled.count
    assert "too entangled to count" in str(entangled)
    first, second = (entangled.sample(rng, by="choice") for _ in range(2))
    assert first in entangled
    for _ in range(20):
        assert entangled.mutate(first, rng) in entangled
        assert entangled.crossover(first, second, rng) in entangled
    assert all(near in entangled for near in entangled.neighbors(first))
    with pytest.raises(InputError, match="too many to count exactly"):
        entangled.decode(np.zeros(20))
    (rule,) = entangled.constraints
    turned = AtMost(rule.names, -rule.bound, tuple(-weight for weight in rule.weights))
    with pytest.raises(InputError, match="hang together"):  # no largest without a diagram
        Space(entangled.choices, (turned,))


def test_entangled_and_nearly_impossible_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice_module, "LIMIT", 10)
    names = tuple(f"w{i}" for i in range(20))
    weights = tuple(-1000 - 7 * i * i for i in range(20))
    space = Space(
        tuple(Choice(n, (0, 1, 2)) for n in names),
        (AtMost(names, 2 * sum(weights) + 1000, weights),),
    )
    assert space.largest == dict.fromkeys(names, 2)
    with pytest.raises(InputError, match=r"none of 2000 draws .* loosen or simplify"):
        space.sample(np.random.default_rng(0), by="choice")


# --- drawing


def test_by_choice_is_uniform_in_the_parent_and_by_arch_in_the_members() -> None:
    rng = np.random.default_rng(0)
    deep = sum(CONDITIONAL.sample(rng, by="choice")["depth"] == 2 for _ in range(2000))
    assert 900 < deep < 1100
    deep = sum(CONDITIONAL.sample(rng)["depth"] == 2 for _ in range(2000))
    assert 1400 < deep < 1600  # three members of four are deep


def test_a_seed_gives_the_same_archs() -> None:
    space = ofa()
    for by in ("arch", "choice"):
        runs = [
            [space.sample(rng, by=by) for _ in range(5)]
            for rng in (np.random.default_rng(3), np.random.default_rng(3))
        ]
        assert runs[0] == runs[1]
        assert len(set(runs[0])) == 5


# --- archs of a space


def test_inactive_choices_fold_to_their_first_value() -> None:
    assert CONDITIONAL.count == 4
    assert CONDITIONAL.arch({"depth": 1, "kernel": 7}) == {"depth": 1, "kernel": 3}
    loose = Arch({"depth": 1, "kernel": 7})
    assert loose in CONDITIONAL
    assert CONDITIONAL.canonical(loose) == {"depth": 1, "kernel": 3}
    assert CONDITIONAL.canonical(CONDITIONAL.largest) is CONDITIONAL.largest
    assert CONDITIONAL.active(loose) == ("depth",)
    np.testing.assert_array_equal(CONDITIONAL.encode(loose), [0, 0])


def test_the_child_of_an_inactive_choice_is_inactive() -> None:
    space = Space(
        (
            Choice("kernel", (3, 5), active_when={"depth": (1, 2)}),
            Choice("depth", (1, 2), active_when={"stage": (True,)}),
            Choice("stage", (False, True)),
        )
    )
    assert space.count == 1 + 2 * 2
    assert space.active({"stage": False, "depth": 1, "kernel": 3}) == ("stage",)


def test_constraints_see_folded_values() -> None:
    space = Space(CONDITIONAL.choices, (AtMost(("kernel",), 3),))
    assert Arch({"depth": 1, "kernel": 7}) in space
    assert Arch({"depth": 2, "kernel": 7}) not in space


def test_missing_choices_follow_the_constraints() -> None:
    choices = tuple(Choice(name, (8, 16, 32)) for name in ("stem", "head", "free"))
    space = Space(choices, (Equal(("stem", "head")),))
    assert space.arch({"stem": 16}) == {"stem": 16, "head": 16, "free": 32}
    assert space.largest == {"stem": 32, "head": 32, "free": 32}
    assert space.smallest == {"stem": 8, "head": 8, "free": 8}


def test_largest_and_smallest_are_repaired() -> None:
    choices = tuple(Choice(name, (1, 2, 3)) for name in "ab")
    space = Space(choices, (AtMost(("a", "b"), 4), AtMost(("a", "b"), -3, (-1, -1))))
    assert space.largest == {"a": 3, "b": 1}
    assert space.smallest == {"a": 1, "b": 2}
    assert space.largest in space


def test_decode_goes_to_the_nearest_member() -> None:
    space = pair(constraints=(Forbid(("depth", "width"), [(2, 64)]),))
    assert space.decode([1.3, 0.6]) == {"depth": 2, "width": 32}
    assert space.decode([1, 1]) == {"depth": 2, "width": 32}
    assert space.decode([-1, 0.9]) == {"depth": 1, "width": 64}


def test_values_of_every_type_survive_json() -> None:
    space = Space((Choice("x", (False, 0, 0.0, "0", 1, True, 1.0, 1e22, 0.1)),))
    back = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert back == space
    assert [type(v) for v in back["x"].values] == [type(v) for v in space["x"].values]
    assert space.count == 9
    assert len(set(space.enumerate())) == 9
    for arch in space.enumerate():
        assert back.decode(back.encode(arch)) == arch


def test_equality_of_spaces_minds_types() -> None:
    assert Space((Choice("x", (1,)),)) != Space((Choice("x", (True,)),))
    assert hash(pair()) == hash(pair())
    assert pair() != pair(constraints=(LessEqual("depth", "width"),))
    assert pair() != "pair"


@pytest.mark.parametrize("space", [pair(), CONDITIONAL, ofa()])
def test_pickle_and_deepcopy(space: Space) -> None:
    space.sample(np.random.default_rng(0))  # fills the caches
    assert pickle.loads(pickle.dumps(space)) == space
    assert pickle.loads(pickle.dumps(space.choices[-1])) == space.choices[-1]
    assert copy.deepcopy(space) is space


def test_an_empty_space_has_one_arch() -> None:
    space = Space(())
    assert (space.count, len(space), bool(space)) == (1, 0, True)
    assert list(space.enumerate()) == [Arch({})]
    assert space.largest == space.smallest == space.arch({}) == Arch({})
    assert space.sample(np.random.default_rng(0)) == Arch({})
    assert space.mutate({}, np.random.default_rng(0)) == Arch({})
    assert space.decode(space.encode({})) == Arch({})
    assert str(space) == "space of 0 choices, 1 arch"


def test_a_numpy_value_is_welcome() -> None:
    assert pair().arch({"width": np.int64(16)}) == {"depth": 2, "width": 16}
    assert Choice("w", np.arange(3)).values == (0, 1, 2)


# --- variation


def test_mutation_moves_linked_choices_together() -> None:
    choices = tuple(Choice(f"w{i}", (8, 16, 32)) for i in range(6))
    space = Space(choices, (Equal(space_names(choices)),))
    rng = np.random.default_rng(0)
    arch = space.smallest
    children = {space.mutate(arch, rng, probability=0.5) for _ in range(20)}
    assert children == {space.arch({"w0": 16}), space.arch({"w0": 32})}
    assert set(space.neighbors(arch)) == children
    assert set(space.neighbors(arch, steps=1)) == {space.arch({"w0": 16})}


def space_names(choices) -> tuple[str, ...]:
    return tuple(choice.name for choice in choices)


def test_mutation_without_anywhere_to_go_returns_the_arch() -> None:
    space = Space((Choice("a", (1, 2)),), (AtMost(("a",), 1),))
    assert space.mutate(space.largest, np.random.default_rng(0)) == space.largest
    assert list(space.neighbors(space.largest)) == []


def test_mutation_draws_the_choices_that_begin_to_matter() -> None:
    rng = np.random.default_rng(0)
    kernels = {CONDITIONAL.mutate({"depth": 1, "kernel": 3}, rng)["kernel"] for _ in range(50)}
    assert kernels == {3, 5, 7}


@pytest.mark.parametrize("probability", [0, 0.1, 1])
def test_mutation_changes_about_as_many_as_asked(probability: float) -> None:
    space = Space(tuple(Choice(f"c{i}", (1, 2, 3, 4)) for i in range(50)))
    rng = np.random.default_rng(0)
    arch = space.sample(rng)
    changed = [
        sum(arch[name] != child[name] for name in arch)
        for child in (space.mutate(arch, rng, probability) for _ in range(200))
    ]
    expected = max(1, 50 * probability)
    assert min(changed) >= 1
    assert abs(np.mean(changed) - expected) < 0.6


def test_crossover_takes_from_both_parents() -> None:
    space = Space(tuple(Choice(f"c{i}", (1, 2, 3)) for i in range(40)))
    child = space.crossover(space.largest, space.smallest, np.random.default_rng(0))
    assert set(child.values()) == {1, 3}
    assert 10 < sum(value == 3 for value in child.values()) < 30


def test_crossover_ignores_the_parent_without_the_choice() -> None:
    shallow, deep = CONDITIONAL.smallest, CONDITIONAL.largest
    rng = np.random.default_rng(0)
    children = {CONDITIONAL.crossover(shallow, deep, rng) for _ in range(50)}
    assert children == {shallow, deep}


def test_crossover_of_linked_choices_comes_from_one_parent() -> None:
    names = tuple(f"w{i}" for i in range(12))
    space = Space(tuple(Choice(n, (1, 2, 3)) for n in (*names, "free")), (Equal(names),))
    rng = np.random.default_rng(0)
    children = {space.crossover(space.smallest, space.largest, rng) for _ in range(60)}
    assert len(children) == 4
    assert all(child in space for child in children)


# --- other spaces


def test_restrict_keeps_a_part() -> None:
    space = ofa()
    part = space.restrict({f"stage{i}.depth": (4,) for i in range(5)})
    assert part.count == 9**20
    assert part.largest == space.largest
    assert all(part.sample(np.random.default_rng(seed)) in space for seed in range(5))
    assert Space.from_json(part.to_json()) == part


def test_restrict_prunes_conditions_and_constraints() -> None:
    space = Space(
        (*CONDITIONAL.choices, Choice("op", ("conv", "skip", "attention"))),
        (
            Implies({"op": ("skip", "attention")}, {"depth": (1,)}),
            Forbid(("op", "kernel"), [("conv", 3), ("conv", 7)]),
            Allow(("op", "depth"), [("conv", 1), ("conv", 2), ("skip", 1), ("attention", 1)]),
        ),
    )
    part = space.restrict({"kernel": (5, 7), "op": ("conv", "skip")})
    assert part["kernel"].values == (5, 7)
    assert {dict(a)["op"] for a in part.enumerate()} == {"conv", "skip"}
    assert all(arch in space for arch in part.enumerate() if arch["depth"] == 2)
    shallow = space.restrict({"depth": (1,)})
    assert {arch["kernel"] for arch in shallow.enumerate()} == {3}


def test_a_rule_whose_consequence_is_gone_forbids_its_condition() -> None:
    space = pair(constraints=(Implies({"depth": (2,)}, {"width": (16,)}),))
    part = space.restrict({"width": (32, 64)})
    assert {arch["depth"] for arch in part.enumerate()} == {1}
    assert Space.from_json(part.to_json()).count == 2


def test_with_choices_adds() -> None:
    more = pair().with_choices(Choice("groups", (1, 3)), constraints=(Divides("groups", "width"),))
    assert more.names == ("depth", "width", "groups")
    assert more.count == 6


def test_the_table_is_readable() -> None:
    space = Space(CONDITIONAL.choices, (AtMost(("kernel",), 5),))
    assert str(space) == (
        "space of 2 choices, 3 archs\n"
        "choice  values   matters when\n"
        "depth   1, 2\n"
        "kernel  3, 5, 7  depth in (2)\n"
        "where kernel <= 5"
    )
    many = Space(
        tuple(Choice(f"c{i}", tuple(range(20))) for i in range(30)),
        tuple(LessEqual(f"c{i}", f"c{i + 1}") for i in range(22)),
    )
    assert "… and 10 more choices" in str(many)
    assert "… and 2 more constraints" in str(many)
    assert "10, 11, …" in str(many)
    assert "more" not in many.describe()


def test_a_space_is_a_collection_of_choices() -> None:
    assert [choice.name for choice in pair()] == ["depth", "width"]
    assert pair()["width"].values == (16, 32, 64)
    assert len(pair()) == 2
    assert "depth" not in pair()
    assert {"depth": 1} not in pair()


# --- messages

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice("", (1,)), r"a choice needs a name, a string; found ''"),
        (lambda: Choice("a", ()), r"choice 'a' has no values; give it at least one"),
        (lambda: Choice("a", (1, 1)), r"choice 'a' has a value twice in 1, 1"),
        (lambda: Choice("a", "abc"), r"choice 'a': found 'abc'; give a list or tuple of values"),
        (lambda: Choice("a", (None,)), r"choice 'a': None is a NoneType"),
        (lambda: Choice("a", (1,), active_when=3), r"active_when of choice 'a' is a mapping"),
        (lambda: Choice.from_json({"name": "a"}), r"object with a 'name' and 'values'; found"),
        (
            lambda: Choice.from_json({"name": "a", "values": [1], "active_wen": {}}),
            r"no 'active_wen' \(did you mean 'active_when'",
        ),
        (lambda: Space((Choice("a", (1,)),) * 2), r"two choices are called 'a'"),
        (lambda: Space(("a",)), r"choices of a space are of type Choice; found 'a', a str"),
        (lambda: Space("a"), r"the choices of a space are a tuple of Choice; found 'a'"),
        (lambda: Space((), ("a",)), r"constraints of a space are of type Constraint"),
        (
            lambda: Space((Choice("a", (1,), {"b": (1,)}),)),
            r"choice 'a' matters only for certain values of 'b', which is no choice",
        ),
        (
            lambda: Space((Choice("b", (1, 2)), Choice("a", (1,), {"b": (3,)}))),
            r"active_when of choice 'a': choice 'b' cannot be 3; its values are 1, 2 \(nearest: 2",
        ),
        (
            lambda: Space((Choice("a", (1,), {"b": (1,)}), Choice("b", (1,), {"a": (1,)}))),
            r"the choices (a -> b -> a|b -> a -> b) matter only .*break the circle",
        ),
        (
            lambda: pair(constraints=(AtMost(("depth", "width"), 3),)),
            r"no arch satisfies all 1 constraints: depth \+ width <= 3; loosen",
        ),
        (lambda: pair()["widht"], r"no choice 'widht' \(did you mean 'width'\?\)"),
        (lambda: pair().arch({"widht": 16}), r"arch sets 'widht', .*\(did you mean 'width'\?\)"),
        (lambda: pair().arch({"width": 33}), r"'width' cannot be 33; .* 16, 32, 64 \(nearest: 32"),
        (lambda: pair().arch({"width": "16"}), r"'width' cannot be '16'; its values are 16, 32"),
        (lambda: pair().arch({"width": None}), r"choice 'width': None is a NoneType"),
        (lambda: pair().arch({"depth": True}), r"choice 'depth' cannot be True"),
        (lambda: pair().arch([("depth", 1)]), r"an arch is a mapping .* found list"),
        (
            lambda: Space((Choice("op", ("conv", "skip")),)).arch({"op": "con"}),
            r"cannot be 'con'; its values are 'conv', 'skip' \(did you mean 'conv'\?\)",
        ),
        (
            lambda: Space((Choice("op", ("conv", "skip")),)).arch({"op": 3}),
            r"cannot be 3; its values are 'conv', 'skip'$",
        ),
        (
            lambda: pair(constraints=(AtMost(("depth", "width"), 34),)).arch(
                {"depth": 2, "width": 64}
            ),
            r"breaks the constraint 'depth \+ width <= 34': found depth=2, width=64; change one",
        ),
        (
            lambda: Space(
                (Choice("a", (1, 2)), Choice("b", (1, 2)), Choice("c", (1, 2))),
                (LessEqual("a", "b"), LessEqual("b", "c")),
            ).arch({"a": 2, "c": 1}),
            r"no arch of the space has all of \{'a': 2, 'c': 1\}: the constraints forbid it",
        ),
        (lambda: pair().encode({"depth": 1}), r"lacks 1 choices of the space: 'width'; complete"),
        (lambda: pair().sample(0), r"sample needs a numpy.random.Generator; found int; try"),
        (lambda: pair().mutate(pair().largest, None), r"mutate needs a numpy.random.Generator"),
        (lambda: pair().crossover({}, {}, None), r"crossover needs a numpy.random.Generator"),
        (lambda: pair().sample(RNG, by="archs"), r"cannot draw by 'archs' \(did you mean 'arch'"),
        (lambda: pair().mutate(pair().largest, RNG, 2), r"the probability is 2; give one from 0"),
        (
            lambda: pair(constraints=(AtMost(("width",), 32),)).mutate(
                {"depth": 1, "width": 64}, RNG
            ),
            r"breaks the constraint 'width <= 32': found width=64",
        ),
        (lambda: pair().decode([1, 2, 3]), r"decode needs 2 numbers, one a choice; found shape"),
        (lambda: pair().decode([1, math.nan]), r"number for choice 'width' is not finite"),
        (lambda: Space.from_json({"format": "x"}), r"expected the format .* found 'x'"),
        (lambda: Space.from_json([]), r"this is no space: .* found 'list'"),
        (
            lambda: Space.from_json({"format": "manynet.space/1", "choices": 3}),
            r"no list of choices; found 3",
        ),
        (lambda: pair().restrict({"widht": (16,)}), r"restrict speaks of 'widht'.*did you mean"),
        (lambda: pair().restrict({"width": (17,)}), r"cannot be 17; .*nearest: 16"),
        (lambda: pair().restrict({"width": ()}), r"choice 'width' has no values"),
        (lambda: pair().restrict({"width": 16}), r"restrict 'width': found 16; give a list"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
