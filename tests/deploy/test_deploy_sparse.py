"""Sparse weights in files, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings.pack import pack_sparse, sparse_bytes, unpack_sparse
from manynet.errors import InputError, StorageError

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def network(density: float = 0.1) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)
    )
    with torch.no_grad():
        for module in (net[0], net[4]):
            module.weight.mul_(torch.rand_like(module.weight) < density)
    return net.eval()


@pytest.mark.parametrize("shape", [(1,), (7,), (8, 3), (5, 3, 3, 3), (0, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_a_tensor_comes_back_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tensor = torch.randn(shape).to(dtype) * (torch.rand(shape) < 0.3)
    parts = pack_sparse(tensor)
    if parts is None:
        assert sparse_bytes(tensor) == tensor.nbytes
    else:
        assert torch.equal(unpack_sparse(parts, shape), tensor)
        assert sum(part.nbytes for part in parts.values()) == sparse_bytes(tensor) < tensor.nbytes


def test_the_file_is_small_and_the_same_network(tmp_path: Path) -> None:
    net, path = network(), tmp_path / "net.safetensors"
    mn.export(net, path, X, weights="sparse")
    plain = tmp_path / "plain.safetensors"
    mn.export(net, plain, X)
    assert path.stat().st_size < 0.35 * plain.stat().st_size
    loaded = mn.load_weights(path)
    assert loaded.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
    head = path.read_bytes()
    about = json.loads(head[8 : 8 + int.from_bytes(head[:8], "little")])["__metadata__"]
    weights = {"0.weight": [16, 3, 3, 3], "4.weight": [10, 256]}
    assert json.loads(about["manynet_sparse"]).items() >= weights.items()


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    mn.export(network(), path, X, weights="sparse")
    data = path.read_bytes().replace(b'\\"4.weight\\": [10, 256]', b'\\"4.weight\\": [10, 255]')
    path.write_bytes(data)
    with pytest.raises(StorageError, match="damaged"):
        mn.load_weights(path)


def test_other_formats_have_no_sparse_weights(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'sparse' for safetensors"):
        mn.export(network(), tmp_path / "net.onnx", X, weights="sparse")


def test_the_costs_are_stated_apart() -> None:
    net = network()
    own = [p for p in net.parameters()]
    assert mn.nonzeros()(net, X) == sum(int(p.count_nonzero()) for p in own)
    conv, linear = (int(net[n].weight.count_nonzero()) for n in (0, 4))  # type: ignore[union-attr]
    assert mn.live_macs()(net, X) == pytest.approx(16 * conv + linear)
    assert mn.macs()(net, X) == 16 * 16 * 27 + 2560
    stored = mn.sparse_bytes()(net, X)
    assert stored < mn.bytes_()(net, X)
    assert stored == sum(sparse_bytes(t) for t in net.state_dict().values())
