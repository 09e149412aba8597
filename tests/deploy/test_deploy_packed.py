"""Quantized members in files: small, read back to the same values, and counted as they are."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings.recipes import quantized
from manynet.cost import bit_operations
from manynet.cost import bytes as bytes_cost
from manynet.deploy import export, load_weights

BITS, PERS, FORMS = (2, 3, 4, 8), ("tensor", "channel"), (True, False)
X = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(20, 30, bias=False), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 5)
    ).eval()


@pytest.fixture(params=[True, False], ids=["learned", "from the entries"])
def family(request: pytest.FixtureRequest) -> mn.Family:
    recipe = quantized((*BITS, 32), per=PERS, symmetric=FORMS, learned=request.param)
    return mn.bind(network(), nn.Linear, recipe, example_inputs=(X,))


def forms(family: mn.Family) -> list[mn.Arch]:
    found = []
    for values in product((*BITS, 32), PERS, FORMS):
        by_role = dict(zip(("bits", "per", "symmetric"), values, strict=True))
        found.append(
            family.space.arch({n: by_role[n.rpartition(".")[2]] for n in family.space.names})
        )
    return found


def data_bytes(path: Path) -> int:
    """Return the bytes of the tensors in a safetensors file."""
    data = path.read_bytes()
    return len(data) - 8 - int.from_bytes(data[:8], "little")


def test_every_form_is_read_back_exactly_and_takes_what_its_cost_says(
    family: mn.Family, tmp_path: Path
) -> None:
    cost, path = bytes_cost(), tmp_path / "member.safetensors"
    for arch in forms(family):
        member = family.extract(arch)
        export(member, path, X)
        weights = load_weights(path)
        for name, tensor in member.state_dict().items():
            assert torch.equal(weights[name], tensor), (arch, name)
        again = family.extract(family.space.largest)
        again.load_state_dict(weights)
        assert torch.equal(again(X), family.at(arch)(X))
        size = data_bytes(path)
        assert size == cost(member, X) == cost(family.at(arch), X) == cost.of_arch(family, arch)


def test_four_bits_take_an_eighth_of_the_bytes(family: mn.Family, tmp_path: Path) -> None:
    sizes = {}
    for arch in forms(family):
        bits, per, symmetric = (arch[f"0.weight.{r}"] for r in ("bits", "per", "symmetric"))
        if per == "tensor" and symmetric:
            export(family.extract(arch), tmp_path / "m.safetensors", X)
            sizes[bits] = data_bytes(tmp_path / "m.safetensors")
    rest = sizes[32] - 4 * (600 + 150)
    assert {b: n - rest for b, n in sizes.items()} == {
        32: 3000,
        8: 750 + 8,
        4: 375 + 8,
        3: 225 + 57 + 8,
        2: 150 + 38 + 8,
    }


def test_weights_that_changed_after_extraction_are_kept_as_they_are(
    family: mn.Family, tmp_path: Path
) -> None:
    path, arch = tmp_path / "member.safetensors", forms(family)[0]
    whole = bytes_cost()(network(), X)
    for change in ("trained", "copied"):
        member = family.extract(arch)
        if change == "trained":
            with torch.no_grad():
                for parameter in member.parameters():
                    parameter.add_(0.01)
        else:
            member = copy.deepcopy(member)
        export(member, path, X)
        for name, tensor in member.state_dict().items():
            assert torch.equal(load_weights(path)[name], tensor)
        assert data_bytes(path) == bytes_cost()(member, X) == whole


def test_a_damaged_file_says_so(family: mn.Family, tmp_path: Path) -> None:
    path = tmp_path / "member.safetensors"
    export(family.extract(forms(family)[0]), path, X)
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    about = json.loads(header["__metadata__"]["manynet_packed"])
    about["0.weight"]["bits"] = 3
    header["__metadata__"]["manynet_packed"] = json.dumps(about)
    text = json.dumps(header).encode()
    start = 8 + int.from_bytes(data[:8], "little")
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
    with pytest.raises(mn.errors.StorageError, match=r"0\.weight: 600 integers of 3 bits"):
        load_weights(path)


def test_bit_operations_follow_the_bits(family: mn.Family) -> None:
    cost = bit_operations()
    macs = 20 * 30 + 30 * 5
    for arch in forms(family):
        bits = int(arch["0.weight.bits"])
        assert cost.of_arch(family, arch) == cost(family.at(arch), X) == macs * bits * 32
    assert cost(network(), X) == macs * 32 * 32
