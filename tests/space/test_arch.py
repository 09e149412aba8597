"""Archs: immutable, cheap to compare, typed, the same in every process."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import manynet.space
from manynet.errors import InputError
from manynet.space import Arch

values = st.one_of(
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=4),
)
archs = st.dictionaries(st.text(max_size=3), values, max_size=5).map(Arch)
small_archs = st.dictionaries(
    st.sampled_from("abc"), st.sampled_from([True, 1, 1.0, 0, "1", "x"]), max_size=3
).map(Arch)


@given(archs)
def test_json_keeps_values_and_types(arch: Arch) -> None:
    back = Arch.from_json(json.loads(json.dumps(arch.to_json())))
    assert back == arch
    assert [type(value) for value in back.values()] == [type(value) for value in arch.values()]
    assert list(back) == list(arch)
    assert back.key == arch.key
    assert hash(back) == hash(arch)


@given(archs)
def test_pickle_and_copies_are_equal(arch: Arch) -> None:
    assert pickle.loads(pickle.dumps(arch)) == arch
    assert copy.deepcopy(arch) is arch
    assert copy.copy(arch) is arch


@given(small_archs, small_archs, small_archs)
def test_order_is_total_and_agrees_with_equality(a: Arch, b: Arch, c: Arch) -> None:
    assert [a < b, a == b, a > b].count(True) == 1
    assert (a <= b) == (not b < a)
    if a < b < c:
        assert a < c
    turned = Arch(list(a.items())[::-1])
    assert turned == a
    assert hash(turned) == hash(a)
    assert turned.key == a.key
    assert not turned < a


@given(small_archs, small_archs)
def test_equal_archs_have_equal_hash_and_json(a: Arch, b: Arch) -> None:
    as_text = [json.dumps(arch.to_json(), sort_keys=True) for arch in (a, b)]
    assert (a == b) == (as_text[0] == as_text[1])
    if a == b:
        assert hash(a) == hash(b)


def test_the_type_of_a_value_belongs_to_it() -> None:
    assert len({Arch({"a": True}), Arch({"a": 1}), Arch({"a": 1.0}), Arch({"a": "1"})}) == 4
    assert Arch({"a": 1}) == {"a": 1}
    assert Arch({"a": 1}) != {"a": True}
    assert Arch({"a": 1}) != {"a": 1, "b": 2}
    assert Arch({"a": 1}) != "a"
    assert Arch({"a": -0.0}).key == Arch({"a": 0.0}).key


def test_numpy_values_become_plain() -> None:
    arch = Arch({"a": np.int64(3), "b": np.float64(0.5), "c": np.bool_(True), "d": np.str_("x")})
    assert [type(value) for value in arch.values()] == [int, float, bool, str]


def test_an_arch_cannot_be_changed() -> None:
    arch = Arch({"a": 1})
    with pytest.raises(AttributeError, match=r"cannot be changed; try arch\.replace"):
        arch.a = 2
    with pytest.raises(TypeError):
        arch["a"] = 2
    assert arch == Arch({"a": 1})


def test_replace_leaves_the_original() -> None:
    arch = Arch({"a.b": 1, "c": 2})
    assert arch.replace({"a.b": 5}, c=6) == Arch({"a.b": 5, "c": 6})
    assert arch["c"] == 2


def test_the_key_never_changes() -> None:
    assert Arch({"w": 3, "d": "x"}).key == Arch({"d": "x", "w": 3}).key == "6ee6e0b83ee9"


def test_the_room_does_not_import_torch() -> None:
    files = sorted(Path(manynet.space.__file__).parent.glob("*.py"))
    assert len(files) > 5
    for file in files:
        assert "import torch" not in file.read_text(), file
        assert "from torch" not in file.read_text(), file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Arch({1: 2}), r"names its choices by strings; found 1"),
        (lambda: Arch([("a", 1), ("a", 2)]), r"choice 'a' is given twice"),
        (lambda: Arch({"a": None}), r"choice 'a': None is a NoneType .*use a bool, an int"),
        (lambda: Arch({"a": float("nan")}), r"choice 'a': nan is a float that cannot be a value"),
        (lambda: Arch({"a": float("inf")}), r"inf is a float that cannot be a value"),
        (lambda: Arch({"a": [1]}), r"\[1\] is a list"),
        (lambda: Arch({"width": 1}).replace(widht=2), r"no choice 'widht' \(did you mean 'width'"),
        (lambda: Arch.from_json([1]), r"an arch in JSON is an object .*found list"),
    ],
)
def test_messages(make, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
