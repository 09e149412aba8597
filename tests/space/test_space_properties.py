"""Small random spaces against the plainest possible reading of what a space means."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manynet.errors import InputError
from manynet.space import (
    Allow,
    Arch,
    AtMost,
    Choice,
    Constraint,
    Divides,
    Equal,
    Forbid,
    Implies,
    LessEqual,
    Space,
)

NAMES = "abcde"
Draw = st.DrawFn


@st.composite
def choices(draw: Draw) -> tuple[Choice, ...]:
    """One to five choices of numbers; some matter only for certain values of the others."""
    count = draw(st.integers(1, 5))
    made: list[Choice] = []
    for name in NAMES[:count]:
        kinds = st.integers(0, 6) if draw(st.booleans()) else st.sampled_from([0, 1, 2, 3])
        values = draw(st.lists(kinds, min_size=1, max_size=3, unique=True).map(sorted))
        when = {}
        for parent in draw(st.lists(st.sampled_from(made), max_size=2)) if made else []:
            when[parent.name] = tuple(
                draw(st.lists(st.sampled_from(parent.values), max_size=2, unique=True))
            )
        made.append(Choice(name, tuple(values), when or None))
    return tuple(draw(st.permutations(made)))


@st.composite
def constraint(draw: Draw, parts: tuple[Choice, ...]) -> Constraint:
    """Any kind of constraint over some of the choices."""
    values = {choice.name: choice.values for choice in parts}
    names = tuple(draw(st.lists(st.sampled_from(sorted(values)), min_size=1, unique=True)))
    kind = draw(st.sampled_from([AtMost, LessEqual, Equal, Divides, Implies, Forbid, Allow]))
    if kind is AtMost:
        weights = draw(st.lists(st.sampled_from([-1, 0.1, 0.3, 1, 2]), min_size=5, max_size=5))
        return AtMost(names, draw(st.sampled_from([0, 0.3, 1, 2, 4, 8])), weights[: len(names)])
    if kind is Equal:
        return Equal(names)
    if kind in (Forbid, Allow):
        row = st.tuples(*(st.sampled_from(values[name]) for name in names))
        return kind(names, draw(st.lists(row, max_size=6)))
    assume(len(names) >= 2)
    if kind is Implies:
        some = [
            draw(st.lists(st.sampled_from(values[name]), max_size=2, unique=True)) for name in names
        ]
        conditions = {name: tuple(chosen) for name, chosen in zip(names, some, strict=True)}
        first = conditions.pop(names[0])
        return Implies({names[0]: first}, conditions)
    return kind(names[0], names[1])


@st.composite
def parts(draw: Draw) -> tuple[tuple[Choice, ...], tuple[Constraint, ...]]:
    made = draw(choices())
    return made, tuple(draw(st.lists(constraint(made), max_size=3)))


def fold(values: dict, made: tuple[Choice, ...]) -> dict:
    """Put what does not matter to its first value, by asking each choice in turn."""
    by_name = {choice.name: choice for choice in made}

    def matters(name: str) -> bool:
        when = by_name[name].active_when or {}
        return all(matters(other) and values[other] in allowed for other, allowed in when.items())

    return {name: v if matters(name) else by_name[name].values[0] for name, v in values.items()}


def members(made: tuple[Choice, ...], rules: tuple[Constraint, ...]) -> set[Arch]:
    """Every member, by trying everything."""
    found = set()
    for values in itertools.product(*(choice.values for choice in made)):
        folded = fold(dict(zip((c.name for c in made), values, strict=True)), made)
        if all(rule.holds(folded) for rule in rules):
            found.add(Arch(folded))
    return found


@st.composite
def spaces(draw: Draw) -> Space:
    made, rules = draw(parts())
    assume(members(made, rules))
    return Space(made, rules)


seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(parts())
def test_count_and_enumeration_agree_with_trying_everything(given_parts) -> None:
    made, rules = given_parts
    expected = members(made, rules)
    if not expected:
        with pytest.raises(InputError, match="no arch satisfies all"):
            Space(made, rules)
        return
    space = Space(made, rules)
    listed = list(space.enumerate())
    assert space.count == len(listed) == len(expected)
    assert set(listed) == expected
    for values in itertools.product(*(choice.values for choice in made)):
        arch = Arch(zip(space.names, values, strict=True))
        assert (arch in space) == (Arch(fold(dict(arch), made)) in expected)
        assert space.canonical(arch) == fold(dict(arch), made)


@settings(max_examples=40, deadline=None)
@given(spaces())
def test_largest_and_smallest_have_the_fewest_steps(space: Space) -> None:
    everything = list(space.enumerate())

    def steps(arch: Arch, end: int) -> int:
        places = [space[name].place(value) for name, value in arch.items()]
        last = [len(choice.values) - 1 for choice in space]
        return sum(
            (size - place) if end else place for place, size in zip(places, last, strict=True)
        )

    assert steps(space.smallest, 0) == min(steps(arch, 0) for arch in everything)
    assert space.largest in everything
    if space.constraints and Arch({c.name: c.values[-1] for c in space}) in space:
        assert space.largest == space.canonical({c.name: c.values[-1] for c in space})


@settings(max_examples=40, deadline=None)
@given(spaces(), seeds)
def test_what_is_drawn_or_varied_is_a_member(space: Space, seed: int) -> None:
    everything = set(space.enumerate())
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    for by in ("arch", "choice"):
        first, second = (space.sample(rng, by=by) for _ in range(2))
        assert {first, second} <= everything
        assert (first, second) == tuple(space.sample(again, by=by) for _ in range(2))
    child = space.crossover(first, second, rng)
    mutant = space.mutate(first, rng, 0.3)
    assert child in everything
    assert child == space.crossover(first, second, again)
    assert mutant in everything
    assert mutant == space.mutate(first, again, 0.3)
    assert (mutant != first) == (len(everything) > 1)
    near = list(space.neighbors(first))
    assert set(near) <= everything - {first}
    assert len(set(near)) == len(near)
    assert bool(near) == (len(everything) > 1)


@settings(max_examples=40, deadline=None)
@given(spaces(), st.data())
def test_vectors_and_json_come_back(space: Space, data: st.DataObject) -> None:
    back = Space.from_json(json.loads(json.dumps(space.to_json())))
    assert back == space
    assert hash(back) == hash(space)
    for arch in space.enumerate():
        vector = space.encode(arch)
        assert vector.dtype == np.float64
        assert vector.shape == (len(space),)
        assert (vector >= 0).all()
        assert (vector <= 1).all()
        assert back.decode(vector) == arch
    unit = st.floats(-0.5, 1.5)
    wild = data.draw(st.lists(unit, min_size=len(space), max_size=len(space)))
    assert space.decode(wild) in set(space.enumerate())


@settings(max_examples=40, deadline=None)
@given(spaces(), st.data())
def test_arch_keeps_what_is_given(space: Space, data: st.DataObject) -> None:
    arch = data.draw(st.sampled_from(list(space.enumerate())))
    names = data.draw(st.sets(st.sampled_from(space.names)))
    completed = space.arch({name: arch[name] for name in names})
    assert completed in set(space.enumerate())
    for name in names & set(space.active(completed)):
        assert completed[name] == arch[name]


@settings(max_examples=40, deadline=None)
@given(spaces(), st.data())
def test_restrict_is_the_part_with_those_values(space: Space, data: st.DataObject) -> None:
    kept = {
        choice.name: data.draw(
            st.lists(st.sampled_from(choice.values), min_size=1, unique=True), label=choice.name
        )
        for choice in space
    }
    made = tuple(
        Choice(c.name, tuple(v for v in c.values if v in kept[c.name]), c.active_when)
        for c in space
    )
    expected = members(made, space.constraints)
    if not expected:
        with pytest.raises(InputError, match="no arch satisfies all"):
            space.restrict(kept)
        return
    assert set(space.restrict(kept).enumerate()) == expected


@pytest.mark.parametrize("by", ["arch", "choice"])
def test_drawing_is_uniform(by: str) -> None:
    """Chi-square at a fixed seed; by choice too, where nothing is linked."""
    linked = (
        Choice("depth", (1, 2, 3)),
        Choice("width", (1, 2, 3, 4), active_when={"depth": (2, 3)}),
        Choice("kernel", (3, 5), active_when={"depth": (3,)}),
        Choice("groups", (1, 2)),
    )
    rules = (Divides("groups", "width"), AtMost(("depth", "width"), 6))
    space = Space(linked, rules) if by == "arch" else Space((linked[0], linked[3]))
    rng = np.random.default_rng(0)
    each = 200
    counts = Counter(space.sample(rng, by=by) for _ in range(each * space.count))
    assert len(counts) == space.count
    statistic = sum((n - each) ** 2 / each for n in counts.values())
    freedom = space.count - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5
