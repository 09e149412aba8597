"""Members of few bits in ONNX Runtime: the file computes what the fake-quantized member does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import manynet as mn
from manynet.deploy import load_weights, onnx_session
from manynet.deploy._nbits import rounded_member
from manynet.errors import InputError, VerificationError
from manynet.fit import fit_low_bit
from manynet.models import small_gpt

X = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(20, (3, 8), generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 64), nn.Linear(64, 6)).eval()


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return small_gpt(20, width=32, depth=2).eval()


def member_of(width: int, **options: Any) -> nn.Module:
    family = fit_low_bit(decoder(), bits=(2, 3, 4, 8), **options).eval()
    for name, parameter in family.named_parameters():
        if name.endswith(".left"):
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return family.extract(dict.fromkeys(family.space.names, width)).eval()


def operations(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize(
    ("width", "options"),
    [
        (2, {"rank": 0}),
        (3, {"rank": 2}),
        (4, {"rank": 0, "symmetric": True}),
        (8, {"rank": 2, "per": 16}),
    ],
)
def test_a_language_models_member_keeps_its_own_integers(
    width: int, options: dict[str, Any], tmp_path: Path
) -> None:
    member, path = member_of(width, **options), tmp_path / "small.onnx"
    manifest = mn.export(member, path, TOKENS, weights="int4")
    assert manifest.files[0].format == "onnx-int4"
    found = onnx_session(path).run(None, _feed(path))[0]
    quantized = rounded_member(member)  # the head, which has no integers, is rounded there
    # the runtime's kernel sums in another order
    assert torch.allclose(torch.from_numpy(found), quantized(TOKENS), atol=1e-4)
    for name, parameter in member.named_parameters():
        if name.startswith("blocks."):
            assert torch.equal(quantized.get_parameter(name), parameter)
    assert operations(path).count("MatMulNBits") == 2 * 6 + 1
    if width == 4:
        mn.export(member, tmp_path / "float.onnx", TOKENS)
        assert path.stat().st_size < 0.8 * (tmp_path / "float.onnx").stat().st_size


def _feed(path: Path) -> dict[str, Any]:
    return {onnx_session(path).get_inputs()[0].name: TOKENS.numpy()}


def test_plain_weights_are_rounded_and_the_file_is_held_against_that(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "small.onnx"
    mn.export(model, path, X, weights="int4", tolerance=1e-5)
    assert operations(path).count("MatMulNBits") == 2  # 32 does not divide the 48 inputs of one
    rounded = rounded_member(model)
    assert not torch.allclose(rounded(X), model(X), atol=1e-3)
    assert torch.equal(rounded[2].weight, model[2].weight)
    assert mn.verify(rounded, path, X) < 1e-5
    with pytest.raises(VerificationError):
        mn.verify(model, path, X)


def test_a_tied_head_stays_as_it_is(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.inner = nn.Embedding(20, 32), nn.Linear(32, 32)
            self.head = nn.Linear(32, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.inner(self.table(tokens)))
            return out

    mn.export(Tied().eval(), tmp_path / "tied.onnx", TOKENS, weights="int4")
    assert operations(tmp_path / "tied.onnx").count("MatMulNBits") == 1


def test_other_formats_have_no_such_weights(tmp_path: Path) -> None:
    for name, weights in (("a.safetensors", "int4"), ("a.onnx", "int3")):
        with pytest.raises(InputError, match="'int4' for ONNX"):
            mn.export(network(), tmp_path / name, X, weights=weights)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="int8 or int4"):
        mn.export_member(network(), tmp_path / "m", X, formats=("torch",), int4=True)


def test_a_members_folder_has_the_file_beside_the_others(tmp_path: Path) -> None:
    labels = torch.zeros(5, dtype=torch.long)
    manifest = mn.export_member(network(), tmp_path / "m", X, int4=True, int8=X, test=(X, labels))
    names = [record.name for record in manifest.files]
    assert names == ["model.onnx", "model.safetensors", "model.int8.onnx", "model.int4.onnx"]
    record = manifest["model.int4.onnx"]
    assert record.bytes < manifest["model.onnx"].bytes
    assert record.quality is not None and record.difference is not None
    mn.check_manifest(tmp_path / "m")


def test_an_int8_file_of_a_member_is_near_its_own_values(tmp_path: Path) -> None:
    member = fit_low_bit(decoder(), bits=8, rank=0, per="channel").extract({}).eval()
    mn.export(member, tmp_path / "m.onnx", TOKENS)
    mn.quantize(tmp_path / "m.onnx", tmp_path / "m8.onnx", [(TOKENS, None)])
    found = onnx_session(tmp_path / "m8.onnx").run(None, _feed(tmp_path / "m.onnx"))[0]
    wanted = member(TOKENS).detach()
    assert float((torch.from_numpy(found) - wanted).abs().mean()) < 0.2 * float(wanted.std())
    mn.export(member, tmp_path / "m.safetensors", TOKENS)
    again = decoder()
    again.load_state_dict(load_weights(tmp_path / "m.safetensors"))
    assert torch.equal(again(TOKENS), member(TOKENS))
