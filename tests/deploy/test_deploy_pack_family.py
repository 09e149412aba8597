"""A family that keeps integers where it kept weights: same values, far fewer bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings.recipes import quantized
from manynet.cost import bytes as bytes_cost
from manynet.deploy import export, pack_family
from manynet.elastic import add_input_quantizers
from manynet.family.file import load_family

X = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.ReLU(), nn.Linear(40, 6)).eval()


def file_bytes(family: mn.Family, folder: Path) -> int:
    family.save(folder)
    return (folder / "family.safetensors").stat().st_size


@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("symmetric", [True, False, (True, False)])
@pytest.mark.parametrize("bits", [4, (2, 3, 4)])
def test_every_member_keeps_its_values_in_memory_and_on_disk(
    bits: int | tuple[int, ...], symmetric: bool | tuple[bool, ...], learned: bool, tmp_path: Path
) -> None:
    recipe = quantized(bits, per=("tensor", "channel"), symmetric=symmetric, learned=learned)
    family = mn.bind(network(), "0.weight", recipe, example_inputs=(X,)).eval()
    packed = pack_family(family)
    whole = "0.weight" in packed.state_dict()
    assert whole == (bits != 4 and symmetric == (True, False))  # 36 bits in all are no gain
    packed.save(tmp_path / "packed")
    again = load_family(tmp_path / "packed", network())
    for arch in family.space.enumerate():
        weight = family.at(arch)[0].weight
        assert torch.equal(packed.at(arch)[0].weight, weight)
        assert torch.equal(packed.extract(arch)[0].weight, weight)
        assert torch.equal(again.at(arch)(X), family.at(arch)(X))
    assert "not packed" in str(packed.report()) or not whole


def test_the_file_is_truly_small_and_members_of_it_as_small_as_before(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256, bias=False), nn.Linear(256, 4))
    family = mn.bind(net, "0.weight", quantized(4), example_inputs=(torch.zeros(1, 256),)).eval()
    packed = pack_family(family)
    before, after = (file_bytes(f, tmp_path / n) for f, n in ((family, "a"), (packed, "b")))
    assert before - after == pytest.approx(256 * 256 * 3.5 - 256 * 4, abs=600)  # the header's names
    sizes = []
    for one in (family, packed):
        export(one.extract({}), tmp_path / "m.safetensors", torch.zeros(2, 256))
        data = (tmp_path / "m.safetensors").read_bytes()
        sizes.append(len(data) - 8 - int.from_bytes(data[:8], "little"))
        assert sizes[-1] == bytes_cost()(one.at({}), torch.zeros(1, 256))
    assert sizes[0] == sizes[1]


def test_a_family_with_rounded_inputs_is_packed_too(tmp_path: Path) -> None:
    family = mn.elastic_bits(
        network(), X, bits=(2, 4), input_bits=(4, 8), per="channel", symmetric=True, edges=None
    ).eval()
    packed = pack_family(family)
    packed.save(tmp_path)
    again = load_family(tmp_path, add_input_quantizers(network()))
    for arch in (family.space.largest, family.space.smallest):
        assert torch.equal(again.at(arch)(X), family.at(arch)(X))


def test_weights_that_members_cut_stay_as_they_are() -> None:
    elastic = mn.elastic(network(), X, width=(0.5, 1.0), multiple_of=1)
    family = mn.bind(elastic, nn.Linear, quantized(4)).eval()
    packed = pack_family(family)
    assert "0.weight" in packed.state_dict()
    assert str(packed.report()).count("members cut parts of it") == 2
    small = family.space.smallest
    assert torch.equal(packed.at(small)(X), family.at(small)(X))
