"""Integers without gaps: what is packed comes back, and takes the bytes that it should."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manynet.bindings.pack import Integers, pack, packed_bytes, unpack
from manynet.errors import InputError


@given(st.integers(1, 8), st.integers(0, 70), st.integers(0, 2**31))
def test_every_integer_comes_back(bits: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, 2**bits, (count,), generator=generator)
    packed = pack(integers, bits)
    assert packed.dtype == torch.uint8
    assert packed.numel() == packed_bytes(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack(packed, bits, count).long(), integers)


def test_the_order_of_the_bits_is_that_of_the_documentation() -> None:
    assert pack(torch.tensor([1, 0, 1, 1]), 1).tolist() == [0b1101]
    assert pack(torch.tensor([2, 1, 3, 0]), 2).tolist() == [0b00_11_01_10]
    assert pack(torch.tensor([0x3, 0xA]), 4).tolist() == [0xA3]
    assert pack(torch.tensor([5, 6, 7]), 3).tolist() == [0b11_110_101, 0b1]  # over a byte's end
    assert pack(torch.tensor([255, 0]), 8).tolist() == [255, 0]


@pytest.mark.parametrize("bits", [0, 9, 16])
def test_other_numbers_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="use 1 to 8"):
        pack(torch.zeros(4), bits)
    with pytest.raises(InputError, match="use 1 to 8"):
        unpack(torch.zeros(4, dtype=torch.uint8), bits, 4)


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(InputError, match="take 3 bytes, and there are 2"):
        unpack(torch.zeros(2, dtype=torch.uint8), 4, 6)


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("offset", [True, False])
def test_a_weight_survives_its_tensors(zero: bool, offset: bool) -> None:
    torch.manual_seed(0)
    integers = Integers(
        torch.randint(0, 8, (4, 6)).float(),
        torch.rand(4, 1),
        torch.randint(0, 8, (4, 1)).float() if zero else None,
        3,
        (4, 2, 3),
        torch.randn(4, 1) if offset else None,
    )
    tensors = integers.tensors()
    expected = {"packed", "scale"} | ({"zero"} if zero else set())
    assert set(tensors) == expected | ({"offset"} if offset else set())
    again = Integers.of(tensors, integers.about())
    assert torch.equal(again.weight(), integers.weight())
    assert again.weight().shape == (4, 2, 3)
