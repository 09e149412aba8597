"""Merging: the weighted mean of those who hold an entry, whatever their widths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import manynet.federate._merge as module
import manynet.federate._rows as by_rows
from manynet.bindings.axes import Index
from manynet.errors import InputError
from manynet.federate import Update, merge


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counted(own: Tensor, updates: list[Update], name: str = "w") -> Tensor:
    """Return the mean the plain way: a sum and a count for each entry, in float64."""
    total = torch.zeros(own.shape, dtype=torch.float64)
    count = torch.zeros_like(total)
    for update in updates:
        tensor = update.tensors[name].double()
        part = update.parts.get(name) or tuple(slice(0, size) for size in tensor.shape)
        axes = [np.arange(size)[index] for index, size in zip(part, own.shape, strict=True)]
        grid = tuple(torch.from_numpy(axis) for axis in np.ix_(*axes))
        total[grid] += update.weight * tensor
        count[grid] += update.weight
    return torch.where(count > 0, total / count.clamp_min(1e-30), own.double()).to(own)


def test_two_clients_by_hand() -> None:
    sent = [Update({"w": torch.zeros(1)}, 1, "a"), Update({"w": torch.full((1,), 4.0)}, 3, "b")]
    assert merge({"w": torch.ones(1)}, sent)["w"].item() == 3.0


@pytest.fixture
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every mean with the loop that numba compiles: as plain Python, and compiled."""
    monkeypatch.setattr(module, "SMALL", 0)
    monkeypatch.setattr(by_rows, "LEAST", 0)
    monkeypatch.setattr(by_rows, "ROW", 8)
    if request.param == "plain":
        monkeypatch.setattr(by_rows, "_compiled", lambda: by_rows.mean_of_rows)
    else:
        pytest.importorskip("numba", reason="needs numba; try: pip install 'manynet[federate]'")


@pytest.mark.parametrize("compiled", ["plain", "numba"], indirect=True)
@pytest.mark.parametrize("many", [1, 4, 6])
@pytest.mark.parametrize("shape", [(40,), (3, 8), (12, 8), (12, 8, 3, 3), ()])
@pytest.mark.usefixtures("compiled")
def test_compiled_means_of_equal_and_nested_widths(shape: tuple[int, ...], many: int) -> None:
    own, taken = drawn(*shape), []
    updates, equal = [], []
    for number, ratio in enumerate((1.0, 0.75, 0.75, 0.5, 0.5, 0.25)[:many]):
        part = [max(1, int(size * ratio)) for size in shape[:2]] + list(shape[2:])
        updates.append(Update({"w": drawn(*part, seed=number + 1)}, number + 1, str(number)))
        equal.append(Update({"w": drawn(*shape, seed=number + 1)}, 0.3 + number, str(number)))
    for sent in (updates, updates[1:], equal):
        if sent:
            out = {"w": torch.full_like(own, torch.nan)}  # what was there has no part in the mean
            merged = merge({"w": own}, sent, out=out)["w"]
            assert torch.allclose(merged, counted(own, sent), atol=1e-6)
            taken.append(merged)
    assert len(taken) == (3 if many > 1 else 2)


@pytest.mark.parametrize("compiled", ["numba"], indirect=True)
@pytest.mark.usefixtures("compiled")
def test_what_has_no_form_for_the_compiled_loop_is_merged_all_the_same() -> None:
    own = {
        "crossing": drawn(9, 8),
        "half": drawn(9, 8).half(),
        "turned": drawn(9, 8),
        "d": drawn(9),
    }
    own["d"] = own["d"].double()
    sent = [
        Update(
            {
                "crossing": drawn(*shape, seed=n),
                "half": drawn(9, 8, seed=n).half(),
                "turned": drawn(8, 9, seed=n).t(),
                "d": drawn(9, seed=n).double(),
            },
            n + 1,
            str(n),
        )
        for n, shape in enumerate(((9, 2), (3, 8)))
    ]
    for updates in (sent, sent * 20):
        merged = merge(own, updates)
        for name, value in own.items():
            tolerance = 1e-3 if name == "half" else 1e-6
            assert torch.allclose(merged[name], counted(value, updates, name), atol=tolerance)


@pytest.mark.parametrize("compiled", ["plain", "numba"], indirect=True)
@pytest.mark.usefixtures("compiled")
def test_compiled_means_refuse_what_is_not_finite() -> None:
    bad = torch.zeros(4, 8)
    bad[2, 3] = torch.inf
    sent = [Update({"w": torch.zeros(4, 8)}, 1, "a"), Update({"w": bad}, 1, "b")]
    with pytest.raises(InputError, match="client 'b' holds NaN or infinity in 'w'"):
        merge({"w": torch.zeros(4, 8)}, sent)


@pytest.mark.parametrize("small", [0, 1 << 14])
@pytest.mark.parametrize("block", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize("shape", [(40,), (12, 8), (12, 8, 3, 3), (2, 100), ()])
def test_equal_and_nested_widths(
    small: int, block: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    monkeypatch.setattr(module, "SMALL", small)
    own = drawn(*shape)
    updates = []
    for number, ratio in enumerate((1.0, 0.75, 0.75, 0.5)):
        part = [max(1, int(size * ratio)) for size in shape[:2]] + list(shape[2:])
        updates.append(Update({"w": drawn(*part, seed=number + 1)}, number + 1, str(number)))
    for sent in (updates, updates[1:]):  # with and without entries that nobody holds
        merged = merge({"w": own}, sent)["w"]
        assert torch.allclose(merged, counted(own, sent), atol=1e-6)


INDICES: dict[str, tuple[Index, ...]] = {
    "slices": (slice(2, 5), slice(None)),
    "indices": (np.array([0, 1, 4, 6]), np.array([5])),
    "unordered": (np.array([6, 0, 3]), np.array([1, 0, 4, 5])),
    "mixed": (slice(0, 3), np.array([0, 2, 3, 5])),
}


@pytest.mark.parametrize("first", INDICES)
@pytest.mark.parametrize("second", INDICES)
def test_any_index_sets(first: str, second: str) -> None:
    own, updates = drawn(7, 6), []
    for number, name in enumerate((first, second)):
        part = INDICES[name]
        shape = [len(np.arange(n)[i]) for i, n in zip(part, own.shape, strict=True)]
        sent = {"w": drawn(*shape, seed=number + 1)}
        updates.append(Update(sent, number + 1, str(number), {"w": part}))
    merged = merge({"w": own}, updates)["w"]
    assert torch.allclose(merged, counted(own, updates), atol=1e-6)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 9)), min_size=1),
    st.integers(0, 9),
)
def test_drawn_widths(sizes: list[tuple[int, int, int]], seed: int) -> None:
    own = drawn(5, 6, seed=seed)
    updates = [
        Update({"w": drawn(rows, columns, seed=seed + number + 1)}, weight, f"{number:03}")
        for number, (rows, columns, weight) in enumerate(sizes)
    ]
    merged = merge({"w": own}, updates)["w"]
    assert torch.allclose(merged, counted(own, updates), atol=1e-5)


@pytest.mark.parametrize("small", [0, 1 << 14])
def test_what_one_client_alone_holds_is_taken_as_it_is(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    wide, narrow = drawn(9, 8, seed=1), drawn(4, 3, seed=2)
    sent = [Update({"w": narrow}, 2, "a"), Update({"w": wide}, 0.7, "b")]
    merged = merge({"w": drawn(9, 8)}, sent)["w"]
    assert torch.equal(merged[4:], wide[4:])
    assert torch.equal(merged[:4, 3:], wide[:4, 3:])


@pytest.mark.parametrize("small", [0, 1 << 14])
def test_leading_blocks_that_cross(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """None holds all: one has more rows, another more columns, and a corner stays the server's."""
    monkeypatch.setattr(module, "SMALL", small)
    monkeypatch.setattr(module, "BLOCK", 16)
    own = {"w": drawn(9, 8), "v": drawn(7, seed=9)}
    shapes = ((9, 2), (3, 8), (5, 5), (3, 8))
    sent = [
        Update({"w": drawn(*shape, seed=n), "v": drawn(shape[0] - 2, seed=n)}, n + 1, str(n))
        for n, shape in enumerate(shapes)
    ]
    merged = merge(own, sent)
    for name, value in own.items():
        assert torch.allclose(merged[name], counted(value, sent, name), atol=1e-6)
    assert torch.equal(merged["w"][5:, 5:], own["w"][5:, 5:])


def test_the_order_of_arrival_does_not_matter() -> None:
    own = {"w": drawn(30, 20)}
    updates = [Update({"w": drawn(30, 20, seed=n)}, n + 0.3, f"client{n}") for n in range(9)]
    assert torch.equal(merge(own, updates)["w"], merge(own, updates[::-1])["w"])


def test_what_nobody_sent_stays_and_nothing_given_changes() -> None:
    own = {"w": drawn(4), "other": drawn(3)}
    before = {name: tensor.clone() for name, tensor in own.items()}
    merged = merge(own, [Update({"w": torch.ones(2)})])
    assert torch.equal(merged["other"], own["other"])
    assert torch.equal(merged["w"], torch.cat([torch.ones(2), own["w"][2:]]))
    assert all(torch.equal(own[name], before[name]) for name in own)
    assert merged["other"].data_ptr() != own["other"].data_ptr()


def test_out_is_written_into() -> None:
    own, out = {"w": drawn(4)}, {"w": torch.zeros(4)}
    place = out["w"].data_ptr()
    merged = merge(own, [Update({"w": torch.ones(4)})], out=out)
    assert merged["w"].data_ptr() == place
    assert torch.equal(out["w"], torch.ones(4))


def test_counters_become_the_largest() -> None:
    own = {"steps": torch.tensor(7), "flags": torch.tensor([True, False])}
    sent = [
        Update({"steps": torch.tensor(n), "flags": torch.tensor([False, n == 9])}) for n in (3, 9)
    ]
    merged = merge(own, sent)
    assert merged["steps"].item() == 9
    assert merged["flags"].tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    sent = [Update({"w": torch.full((5,), 1.0 if n else 256.0, dtype=dtype)}) for n in range(256)]
    merged = merge({"w": torch.zeros(5, dtype=dtype)}, sent)["w"]
    assert merged.dtype == dtype
    # summed in the type itself, every later one would be lost against 256
    assert torch.equal(merged, torch.full((5,), (256 + 255) / 256).to(dtype))
    precise = merge({"w": torch.zeros(5)}, sent)["w"]
    assert torch.allclose(precise, torch.full((5,), (256 + 255) / 256))


class OneByOne(Mapping[str, Tensor]):
    """Tensors that are made when they are asked for, as those in a file."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.asked = names, list[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.asked.append(name)
        return torch.ones(3)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def test_each_tensor_is_asked_for_once() -> None:
    sent = OneByOne(["a", "b"])
    merge({"a": torch.zeros(3), "b": torch.zeros(3)}, [Update(sent)])
    assert sent.asked == ["a", "b"]


@pytest.mark.parametrize("small", [0, 1 << 14])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused_by_name(
    value: float, small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SMALL", small)
    bad = drawn(6, 5)
    bad[3, 2] = value
    sent = [Update({"w": drawn(6, 5)}, 1, "good"), Update({"w": bad}, 1, "broken")]
    with pytest.raises(InputError, match="client 'broken' holds NaN or infinity in 'w'"):
        merge({"w": torch.zeros(6, 5)}, sent)


def test_large_numbers_whose_sum_overflows_are_no_error() -> None:
    large = torch.full((100,), 3e38)
    assert torch.equal(merge({"w": torch.zeros(100)}, [Update({"w": large})])["w"], large)


@pytest.mark.parametrize(
    ("updates", "words"),
    [
        ([], "no update to merge"),
        ([Update({"v": torch.zeros(2)}, 1, "x")], "client 'x' has 'v', which the server does not"),
        ([Update({"w": torch.zeros(5)}, 1, "x")], r"'w' of shape \(5,\).*shared shape \(4,\)"),
        ([Update({"w": torch.zeros(2, 2)}, 1, "x")], r"shape \(2, 2\)"),
        ([Update({"w": torch.zeros(2)}, 1, "x", {"w": (np.array([1, 9]),)})], "does not fit"),
        ([Update({"w": torch.zeros(2)}, 1, "x", {"w": (slice(0, 3),)})], "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(updates: list[Update], words: str) -> None:
    with pytest.raises(InputError, match=words):
        merge({"w": torch.zeros(4)}, updates)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_a_weight_must_be_positive(weight: float) -> None:
    with pytest.raises(InputError, match=r"client 'x' has the weight .*above 0"):
        Update({}, weight, "x")
