"""Files of tensors: the same as the library's, and never all in memory twice."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, load_file

import manynet
from manynet.errors import InputError
from manynet.family._tensor_file import write_tensors

TYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def test_every_type_and_shape_is_read_back_by_the_library() -> None:
    tensors = {f"{n}.{str(t)[6:]}": (10 * torch.rand(n, 3)).to(t) for t in TYPES for n in (1, 5, 0)}
    tensors |= {"single": torch.tensor(3.0), "turned": torch.rand(4, 6).t(), "ä ü": torch.ones(2)}
    file = io.BytesIO()
    write_tensors(file, tensors)
    found = load(file.getvalue())
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_a_type_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match=r"z holds torch\.complex128"):
        write_tensors(io.BytesIO(), {"z": torch.zeros(2, dtype=torch.complex128)})


def test_saving_a_family_holds_no_second_copy_of_its_weights(tmp_path: Path) -> None:
    net = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(12)))
    family = manynet.elastic(net, torch.zeros(1, 256), importance=None)
    whole = sum(p.nbytes for p in family.parameters())
    tracemalloc.start()
    try:
        family.save(tmp_path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < whole / 4
    stored = load_file(tmp_path / "family.safetensors")
    assert all(torch.equal(stored[n], p) for n, p in family.named_parameters())
