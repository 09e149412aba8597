"""How a file keeps a tensor of a member: as it is, or as the integers that it was rounded to.

Members are ordinary modules, and their tensors ordinary tensors; a note on the tensor says that
its values stand for integers. A copy of the tensor has no note, and is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.bindings.axes import Axis
from manynet.bindings.operation import Operation, operand_values, resolved
from manynet.bindings.pack import Integers
from manynet.bindings.protocol import Binding
from manynet.space import Arch

__all__ = ["entry_bits", "integers_of", "note", "stored_bytes"]

_NOTE = "_manynet_stored"


@dataclass(frozen=True)
class _Note:
    bits: int
    bytes: int
    integers: Integers | None = None


def note(
    tensor: Tensor,
    binding: Binding | None,
    arch: Arch,
    sizes: Mapping[Axis, int],
    shared: Mapping[str, Tensor] | None = None,
) -> None:
    """Note on a member's tensor how it can be kept, where its binding rounds it.

    Args:
        tensor: the member's own.
        binding: how it is read.
        arch: the member's.
        sizes: of the elastic axes in the member.
        shared: for a tensor that stays as it is from now on: what its integers are made of.
    """
    binding = None if binding is None else resolved(binding, arch)
    bits = binding.entry_bits(arch) if isinstance(binding, Operation) else None
    if bits is None or not isinstance(binding, Operation):
        return
    integers = None
    if shared is not None:
        integers = binding.integers(arch, *operand_values(binding, arch, sizes, shared))
    size = int(binding.stored_bits(arch, tensor)) // 8
    setattr(tensor, _NOTE, _Note(bits, size, integers))


def _note_of(tensor: Tensor) -> _Note | None:
    """Return the note of a tensor, if its values are still those that it speaks of."""
    found: _Note | None = getattr(tensor, _NOTE, None)
    if found is None or found.integers is None:
        return found
    value = found.integers.weight()
    same = value.shape == tensor.shape and value.dtype == tensor.dtype
    return found if same and torch.equal(value.to(tensor.device), tensor.detach()) else None


def integers_of(tensor: Tensor) -> Integers | None:
    """Return the integers that stand for exactly the values of an extracted member's tensor.

    None where there are none, or where the values have changed since.
    """
    found = _note_of(tensor)
    return None if found is None else found.integers


def entry_bits(tensor: Tensor) -> int:
    """Return how many bits an entry of a tensor has."""
    found = _note_of(tensor)
    return 8 * tensor.element_size() if found is None else found.bits


def stored_bytes(tensor: Tensor) -> int:
    """Return how many bytes a file takes for a tensor, packed where it is rounded."""
    found = _note_of(tensor)
    return tensor.numel() * tensor.element_size() if found is None else found.bytes
