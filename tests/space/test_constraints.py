"""Constraints: what they hold for, their JSON, their messages."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import dataclass

import pytest

from manynet.errors import InputError
from manynet.space import (
    Allow,
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

ALL = [
    AtMost(("a", "b"), 5),
    AtMost(("a", "b"), 0.5, weights=(0.1, -2)),
    LessEqual("a", "b"),
    Equal(("a", "b", "c")),
    Divides("a", "b"),
    Implies({"a": (1, 2)}, {"b": (True, "x")}),
    Forbid(("a", "b"), [(1, 2), (3, 4)]),
    Allow(("a", "b"), [(1, 2.5)]),
]


@dataclass(frozen=True, eq=False)
class OddSum(Constraint, kind="odd_sum"):
    """A user's own kind."""

    names: tuple[str, ...]

    def holds(self, values) -> bool:
        return sum(values[name] for name in self.names) % 2 == 1


@pytest.mark.parametrize("constraint", [*ALL, OddSum(("a", "b"))], ids=str)
def test_json_pickle_and_copies_are_equal(constraint: Constraint) -> None:
    data = json.loads(json.dumps(constraint.to_json()))
    for back in (
        Constraint.from_json(data),
        type(constraint).from_json(data),
        pickle.loads(pickle.dumps(constraint)),
        copy.deepcopy(constraint),
    ):
        assert back == constraint
        assert hash(back) == hash(constraint)
        assert type(back) is type(constraint)
        assert back.to_json() == constraint.to_json()


def test_different_constraints_are_not_equal() -> None:
    assert len(set(ALL)) == len(ALL)
    assert Implies({"a": (1,)}, {"b": (1,)}) != Implies({"a": (True,)}, {"b": (1,)})
    assert LessEqual("a", "b") != "a <= b"


@pytest.mark.parametrize(
    ("constraint", "text"),
    [
        (AtMost(("a", "b"), 5), "a + b <= 5"),
        (AtMost(("a", "b"), 5, (1, -2.5)), "a + -2.5 * b <= 5"),
        (AtMost(tuple("abcdefgh"), 9), "a + b + c + … + h <= 9"),
        (LessEqual("a", "b"), "a <= b"),
        (Equal(("a", "b", "c")), "a = b = c"),
        (Divides("a", "b"), "a divides b"),
        (Implies({"a": (1, 2)}, {"b": ("x",)}), "if a in (1, 2) then b in ('x')"),
        (Forbid(("a", "b"), [(1, 2)]), "(a, b) is none of 1 rows"),
        (Allow(("a", "b"), [(1, 2), (2, 3)]), "(a, b) is one of 2 rows"),
    ],
)
def test_text(constraint: Constraint, text: str) -> None:
    assert str(constraint) == text


@pytest.mark.parametrize(
    ("constraint", "good", "bad"),
    [
        (AtMost(("a", "b"), 5), (2, 3), (3, 3)),
        (AtMost(("a", "b"), 5, (1, 2)), (1, 2), (2, 2)),
        (AtMost(("a", "b"), -4, (-1, -1)), (2, 2), (2, 1)),
        (AtMost(("a",), 0.3, (0.1,)), (3, 0), (4, 0)),  # as decimals, not as nearest floats
        (LessEqual("a", "b"), (2, 2.0), (2.5, 2)),
        (Equal(("a", "b")), (2, 2), (1, True)),
        (Divides("a", "b"), (3, 6), (4, 6)),
        (Divides("a", "b"), (0, 0), (0, 6)),
        (Implies({"a": (1,)}, {"b": (2, 3)}), (1, 3), (1, 4)),
        (Implies({"a": (1,)}, {"b": (2, 3)}), (True, 4), (1, 4)),
        (Forbid(("a", "b"), [(1, 2)]), (2, 1), (1, 2)),
        (Allow(("a", "b"), [(1, 2)]), (1, 2), (1, 2.0)),
        (OddSum(("a", "b")), (1, 2), (1, 3)),
    ],
)
def test_holds(constraint: Constraint, good: tuple, bad: tuple) -> None:
    assert constraint.holds(dict(zip("ab", good, strict=True)))
    assert not constraint.holds(dict(zip("ab", bad, strict=True)))


def space_of(constraint: Constraint, a=(1, 2), b=(1, 2)) -> Space:
    return Space((Choice("a", a), Choice("b", b)), (constraint,))


def test_a_kind_of_ones_own_counts_and_draws() -> None:
    space = space_of(OddSum(("a", "b")), (1, 2, 3), (1, 2, 3))
    assert space.count == 4
    assert space.largest == {"a": 3, "b": 2}
    assert Space.from_json(space.to_json()) == space


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AtMost("ab", 5), r"AtMost needs a list of choices' names; found 'ab'"),
        (lambda: AtMost((), 5), r"at least one name"),
        (lambda: Equal(("a", 1)), r"all of them strings"),
        (lambda: Equal(("a", "a")), r"names a choice twice .*name each choice once"),
        (lambda: LessEqual("a", "a"), r"LessEqual names a choice twice"),
        (lambda: AtMost(("a",), "5"), r"the bound of AtMost is '5'; give a number"),
        (lambda: AtMost(("a",), True), r"the bound of AtMost is True; give a number"),
        (lambda: AtMost(("a",), 5, (1, 2)), r"1 names and 2 weights; give one weight for each"),
        (lambda: AtMost(("a",), 5, ("x",)), r"a weight of AtMost is 'x'"),
        (lambda: AtMost(("a",), 5, 3), r"the weights of AtMost: found 3; give a list"),
        (lambda: Implies({}, {"a": (1,)}), r"Implies.if_ is a mapping such as"),
        (lambda: Implies({"a": 1}, {"b": (1,)}), r"Implies.if_\['a'\]: found 1; give a list"),
        (lambda: Implies({1: (1,)}, {"b": (1,)}), r"keyed by choices' names; found 1"),
        (lambda: Forbid(("a", "b"), [(1,)]), r"Forbid, row 0: 1 values for 2 names"),
        (lambda: Allow(("a", "b"), 3), r"Allow needs rows of values; found 3"),
        (lambda: Allow(("a", "b"), [3]), r"Allow, row 0: found 3; give a list"),
        (lambda: Constraint.from_json({}), r"an object with a 'kind'; found \{\}"),
        (lambda: Constraint.from_json([]), r"an object with a 'kind'; found \[\]"),
        (
            lambda: Constraint.from_json({"kind": "at_mots"}),
            r"no constraint of kind 'at_mots' \(did you mean 'at_most'\?\); a kind of your own",
        ),
        (lambda: LessEqual.from_json(Equal(("a", "b")).to_json()), r"no constraint of kind 'eq"),
        (
            lambda: Constraint.from_json({"kind": "at_most", "names": ["a"], "bond": 3}),
            r"has no field 'bond' \(did you mean 'bound'",
        ),
        (
            lambda: Constraint.from_json({"kind": "at_most", "names": ["a"]}),
            r"of kind 'at_most' is incomplete: .*'bound'",
        ),
        (
            lambda: space_of(AtMost(("a",), 5), a=("x",)),
            r"needs numbers, but choice 'a' may be 'x'",
        ),
        (lambda: space_of(LessEqual("a", "b"), b=("x",)), r"'a <= b' needs numbers"),
        (lambda: space_of(Divides("a", "b"), a=(1.5,)), r"needs whole numbers, but choice 'a'"),
        (
            lambda: space_of(Implies({"a": (7,)}, {"b": (1,)})),
            r"speaks of 7, which choice 'a' cannot be; its values are 1, 2",
        ),
        (lambda: space_of(Forbid(("a",), [(True,)])), r"speaks of True, which choice 'a' cannot"),
        (
            lambda: space_of(Equal(("a", "bb"))),
            r"constraint 'a = bb' speaks of 'bb', which is no choice of this space \(did you mean",
        ),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
