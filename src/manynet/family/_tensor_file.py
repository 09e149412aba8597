"""Safetensors files written tensor by tensor: the library's own writer holds all of them twice.

Reading needs nothing here: the library maps the file, so that what it returns is no copy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["write_tensors"]

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""What the format calls each type of numbers."""


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to `file` in the format of safetensors, one after the other.

    Only one of them is ever copied: to the CPU, or into contiguous memory.

    Args:
        file: an empty file, open for writing.
        tensors: by name, on any device.

    Raises:
        InputError: a tensor is of a type that the format has no name for.
    """
    # those of wide numbers first, so that each starts at a multiple of its numbers' size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        tensor = tensors[name]
        if tensor.dtype not in _NAMES:
            raise InputError(
                f"{name} holds {tensor.dtype}, which safetensors has no name for; convert it first"
            )
        start, end = end, end + math.prod(tensor.shape) * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for name in order:
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        file.write(memoryview(flat.view(torch.uint8).numpy()))  # type: ignore[arg-type]
