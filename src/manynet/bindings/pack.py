"""Integers of 1 to 8 bits as bytes without gaps, and weights that are kept as such integers.

A file then holds, for a weight of 4 bits, half a byte an entry and a scale for each group of
entries; `Integers.weight` gives back exactly the numbers that were rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = [
    "Integers",
    "pack",
    "pack_sparse",
    "packed_bytes",
    "sparse_bytes",
    "unpack",
    "unpack_sparse",
]


def pack(integers: Tensor, bits: int) -> Tensor:
    """Return `integers` from 0 to `2 ** bits - 1` as bytes without gaps, lowest bits first.

    Args:
        integers: any shape and type; they are read row by row.
        bits: of each, from 1 to 8.

    Raises:
        InputError: there is no such number of bits.

    Shapes: any to `(packed_bytes(numel, bits),)`, of `torch.uint8`.

    Example:
        >>> packed = pack(torch.tensor([1, 7, 4, 2]), 3)
        >>> packed.numel(), unpack(packed, 3, 4).tolist()
        (2, [1, 7, 4, 2])
    """
    _check(bits)
    small = integers.reshape(-1).to(torch.uint8)
    if bits == 8:
        return small.clone()
    if bits == 1 and small.device.type == "cpu":  # at a byte's work an entry, not eight
        return torch.from_numpy(np.packbits(small.numpy(), bitorder="little"))
    places = torch.arange(8, dtype=torch.uint8, device=small.device)
    ones = (small[:, None] >> places[:bits] & 1).flatten()
    ones = torch.nn.functional.pad(ones, (0, -len(ones) % 8)).view(-1, 8)
    return (ones << places).sum(1, dtype=torch.uint8)


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """Return the `count` integers that `pack` wrote, of `torch.uint8`.

    Raises:
        InputError: there is no such number of bits, or there are not as many bytes as it takes.
    """
    _check(bits)
    if len(packed) != packed_bytes(count, bits):
        raise InputError(
            f"{count} integers of {bits} bits take {packed_bytes(count, bits)} bytes, and there "
            f"are {len(packed)}; the file is damaged, or bits or shape are another tensor's"
        )
    if bits == 8:
        return packed.clone()
    if bits == 1 and packed.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(packed.numpy(), count=count, bitorder="little"))
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    ones = (packed[:, None] >> places & 1).flatten()
    return (ones[: count * bits].view(count, bits) << places[:bits]).sum(1, dtype=torch.uint8)


def packed_bytes(count: int, bits: int) -> int:
    """Return how many bytes `count` integers of `bits` bits take."""
    return -(-count * bits // 8)


def pack_sparse(tensor: Tensor) -> dict[str, Tensor] | None:
    """Return a tensor as `bits`, one for each of its numbers, and the `nonzero` ones in order.

    None where that takes as much as the tensor itself, or more.

    Example:
        >>> parts = pack_sparse(torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 0.0, 0.5]))
        >>> parts["bits"].tolist(), parts["nonzero"].tolist()
        ([132], [3.0, 0.5])
    """
    flat = tensor.detach().cpu().flatten()
    alive = flat != 0
    if _sparse_size(flat, int(alive.sum())) >= flat.nbytes:
        return None
    return {"bits": pack(alive, 1), "nonzero": flat[alive]}


def unpack_sparse(parts: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """Return the tensor that `pack_sparse` was given.

    Raises:
        InputError: bits, numbers and shape do not fit together.
    """
    bits, values = parts["bits"], parts["nonzero"]
    alive = unpack(bits, 1, torch.Size(shape).numel()).bool()
    if int(alive.sum()) != values.numel():
        raise InputError(
            f"{int(alive.sum())} places are marked, and there are {values.numel()} numbers; the "
            "file is damaged"
        )
    flat = values.new_zeros(alive.shape)
    flat[alive] = values
    return flat.view(tuple(shape))


def sparse_bytes(tensor: Tensor) -> int:
    """Return how many bytes a tensor takes as `pack_sparse` gives it, or as it is."""
    return min(tensor.nbytes, _sparse_size(tensor, int(tensor.count_nonzero())))


def _sparse_size(tensor: Tensor, count: int) -> int:
    return packed_bytes(tensor.numel(), 1) + count * tensor.element_size()


def _check(bits: int) -> None:
    if not 1 <= bits <= 8:
        raise InputError(f"integers of {bits} bits cannot be packed; use 1 to 8")


@dataclass(frozen=True)
class Integers:
    """A quantized weight: `(integers - zero) * scale + offset`, in the shape of `shape`.

    Args:
        integers: `(groups, entries of a group)`, from 0 to `2 ** bits - 1`.
        scale: `(groups, 1)`.
        zero: `(groups, 1)`: which integer stands for 0; None for the middle, `2 ** (bits - 1)`. Of
            half precision it need not be whole.
        bits: how many bits an integer has.
        shape: the weight's.
        offset: `(groups, 1)`, where the levels have one of their own.
        dtype: the weight's type where that is not the scale's, as of scales of half precision.
    """

    integers: Tensor
    scale: Tensor
    zero: Tensor | None
    bits: int
    shape: tuple[int, ...]
    offset: Tensor | None = None
    dtype: torch.dtype | None = None

    def weight(self) -> Tensor:
        """Return the weight."""
        scale = self.scale if self.dtype is None else self.scale.float()
        middle = 2 ** (self.bits - 1) if self.zero is None else self.zero.to(scale)
        value = (self.integers.to(scale, copy=True).sub_(middle)).mul_(scale)
        value = (value if self.offset is None else value + self.offset).view(self.shape)
        return value if self.dtype is None else value.to(self.dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a file holds: `packed`, `scale`, and `zero` and `offset` where they matter.

        Shapes: `packed` `(bytes,)`, the others `(groups,)`.
        """
        found = {"packed": pack(self.integers, self.bits), "scale": self.scale.flatten()}
        if self.zero is not None:
            zero = self.zero.flatten()
            found["zero"] = zero if zero.dtype == torch.float16 else zero.to(torch.uint8)
        if self.offset is not None:
            found["offset"] = self.offset.flatten()
        return {role: tensor.detach().cpu().contiguous() for role, tensor in found.items()}

    def about(self) -> dict[str, object]:
        """Return what else it takes to read `tensors` back, as JSON values."""
        about: dict[str, object] = {"bits": self.bits, "shape": list(self.shape)}
        return about if self.dtype is None else {**about, "dtype": _name(self.dtype)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> Integers:
        """Return the integers of what `tensors` and `about` gave.

        Raises:
            InputError: they do not fit together.
        """
        bits, shape = int(about["bits"]), tuple(int(size) for size in about["shape"])
        scale, offset = tensors["scale"].view(-1, 1), tensors.get("offset")
        count = torch.Size(shape).numel()
        if count % max(1, len(scale)):
            raise InputError(f"{len(scale)} scales do not divide a weight of shape {shape}")
        zero = tensors["zero"].view(-1, 1) if "zero" in tensors else None
        if zero is not None and zero.dtype == torch.uint8:
            zero = zero.to(scale)
        integers = unpack(tensors["packed"], bits, count).view(len(scale), -1)
        own = None if offset is None else offset.view(-1, 1)
        return cls(integers, scale, zero, bits, shape, own, _dtype(about.get("dtype")))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str | None) -> torch.dtype | None:
    found = None if name is None else getattr(torch, name, None)
    if name is not None and not isinstance(found, torch.dtype):
        raise InputError(f"{name!r} is no type of a weight; the file is damaged")
    return found
