from __future__ import annotations

import errno
import hashlib
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.deploy import (
    FileRecord,
    Manifest,
    accuracy_of,
    check_manifest,
    export,
    export_member,
    load_weights,
    quantize,
    read_manifest,
    verify,
)
from manynet.errors import InputError, MissingExtraError, StorageError, VerificationError
from manynet.space import Arch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Linear(32, 4)
        self.tied = nn.Linear(32, 4)
        self.tied.weight = self.head.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return self.head(x) + self.tied(x)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class OneSize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, -1)


def inputs(rows: int = 4) -> tuple[Tensor, ...]:
    return (torch.randn(rows, 3, 9, 9),)


@pytest.fixture
def net() -> Net:
    return Net().train()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Net, Path, Manifest]:
    """One member's folder with everything in it."""
    net, folder = Net().eval(), tmp_path_factory.mktemp("run") / "members" / "small"
    torch.manual_seed(1)
    x = torch.randn(64, 3, 9, 9)
    manifest = export_member(
        net,
        folder,
        inputs(),
        int8=x,
        test=(x, net(x).argmax(1)),
        arch=Arch({"width": 8}),
        costs={"macs": 10.0},
        quality=0.9,
        metric="accuracy",
    )
    return net, folder, manifest


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_members_folder(deployed: tuple[Net, Path, Manifest]) -> None:
    _, folder, manifest = deployed
    names = {"model.onnx", "model.safetensors", "model.int8.onnx"}
    assert set(contents(folder)) == {*names, "manifest.json"}
    assert [p.name for p in folder.parent.iterdir()] == ["small"]
    assert check_manifest(folder) == read_manifest(folder / "manifest.json")
    assert json.dumps(read_manifest(folder).to_json()) == json.dumps(manifest.to_json())
    assert manifest.arch == {"width": 8}
    assert (manifest.costs, manifest.quality, manifest.metric) == ({"macs": 10.0}, 0.9, "accuracy")
    assert manifest.inputs == ({"shape": [4, 3, 9, 9], "dtype": "float32"},)
    assert {"manynet", "torch", "python", "onnx"} <= set(manifest.versions)
    for name in names - {"model.int8.onnx"}:
        data, record = (folder / name).read_bytes(), manifest[name]
        assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert record.difference is not None
        assert record.difference <= record.tolerance == 1e-4
    with pytest.raises(KeyError, match=r"did you mean 'model\.onnx'"):
        manifest["model.onx"]


def test_files_take_any_batch_and_compute_the_same(deployed: tuple[Net, Path, Manifest]) -> None:
    net, folder, _ = deployed
    for name in ("model.onnx", "model.safetensors"):
        for rows in (1, 3):
            assert verify(net, folder / name, inputs(rows)) <= 1e-5


def test_a_file_of_another_network_is_told(deployed: tuple[Net, Path, Manifest]) -> None:
    _, folder, _ = deployed
    torch.manual_seed(2)  # not the seed that the deployed one may have begun with
    other = Net().eval()
    with pytest.raises(VerificationError, match="differs from Net by"):
        verify(other, folder / "model.onnx", inputs())
    assert verify(other, folder / "model.onnx", inputs(), tolerance=100.0) > 1e-3
    with pytest.raises(VerificationError, match="cannot run a batch of"):
        verify(nn.Flatten(), folder / "model.onnx", (torch.randn(2, 5),))
    with pytest.raises(VerificationError, match="and the network"):
        verify(nn.Flatten(), folder / "model.onnx", inputs())


def test_int8_is_measured(deployed: tuple[Net, Path, Manifest]) -> None:
    net, folder, manifest = deployed
    record = manifest["model.int8.onnx"]
    assert record.format == "onnx-int8"
    assert record.quality is not None
    assert record.quality > 0.8  # of the float network's own answers
    x = torch.randn(32, 3, 9, 9)
    data = (x, net(x).argmax(1))
    assert accuracy_of(folder / "model.onnx", data) == 1.0
    assert accuracy_of(folder / "model.onnx", [(x[:8], data[1][:8] * 0 - 1)]) == 0.0
    import onnx

    types = {node.op_type for node in onnx.load(folder / "model.int8.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= types


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no batch in the calibration data"),
        (torch.full((4, 3, 9, 9), float("nan")), "NaN or infinite"),
        (torch.randn(4, 2, 9, 9), "does not fit the file"),
    ],
    ids=["empty", "nan", "shape"],
)
def test_bad_calibration_data(
    deployed: tuple[Net, Path, Manifest], tmp_path: Path, data: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        quantize(deployed[1] / "model.onnx", tmp_path / "int8.onnx", data)
    assert not list(tmp_path.iterdir())


def test_accuracy_needs_targets(deployed: tuple[Net, Path, Manifest]) -> None:
    with pytest.raises(InputError, match="needs targets"):
        accuracy_of(deployed[1] / "model.onnx", inputs()[0])
    with pytest.raises(InputError, match="no sample"):
        accuracy_of(deployed[1] / "model.onnx", [])


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) + self.right(right)


def test_inputs_may_come_by_name(tmp_path: Path) -> None:
    net, named = TwoInputs().eval(), {"right": torch.randn(2, 5), "left": torch.randn(2, 3)}
    manifest = mn.export(net, tmp_path / "two.onnx", named)
    assert [entry["shape"] for entry in manifest.inputs] == [[2, 3], [2, 5]]
    assert mn.verify(net, tmp_path / "two.onnx", named) < 1e-5
    assert mn.macs()(net, named) == mn.macs()(net, (named["left"], named["right"])) == 32


class Maps(nn.Module):
    """Scores of 3 classes at each of 9 x 9 places."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.score(x)


def test_int8_is_judged_at_every_place_or_by_a_function(tmp_path: Path) -> None:
    net, x = Maps().eval(), torch.randn(16, 3, 9, 9)
    with torch.no_grad():
        labels, outputs = net(x).argmax(1), net(x)
    shares = export_member(net, tmp_path / "a", x[:2], int8=x, test=(x, labels))
    assert 0.8 < (shares["model.int8.onnx"].quality or 0) <= 1
    judge = mn.loss((x, outputs), nn.functional.mse_loss)
    errors = export_member(net, tmp_path / "b", x[:2], int8=x, test=judge)
    assert 0 < (errors["model.int8.onnx"].quality or 0) < 0.1


def test_weights_come_back_with_their_ties(deployed: tuple[Net, Path, Manifest]) -> None:
    net, folder, _ = deployed
    weights = load_weights(folder / "model.safetensors")
    assert weights["head.weight"] is weights["tied.weight"]
    other = Net()
    other.load_state_dict(weights)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    saved = sum(t.numel() * t.element_size() for t in {id(t): t for t in weights.values()}.values())
    assert saved < (folder / "model.safetensors").stat().st_size < saved + 2000


def test_changed_files_are_noticed(deployed: tuple[Net, Path, Manifest], tmp_path: Path) -> None:
    for name, data in contents(deployed[1]).items():
        (tmp_path / name).write_bytes(data)
    check_manifest(tmp_path)
    model = tmp_path / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    with pytest.raises(VerificationError, match=r"model\.onnx was changed after it was made"):
        check_manifest(tmp_path)
    model.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*model\.onnx"):
        check_manifest(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"files": [{"name": "x"}]},
        {"files": [], "other": 1},
        {"files": [{"name": 1, "format": "onnx", "sha256": "", "bytes": 0}]},
        [],
        {"files": [{"name": "../x", "format": "onnx", "sha256": "", "bytes": 0}]},
    ],
)
def test_foreign_manifests(tmp_path: Path, data: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(StorageError, match="manifest"):
        check_manifest(tmp_path)


def test_one_file_with_its_manifest(net: Net, tmp_path: Path) -> None:
    manifest = export(net, tmp_path / "small.safetensors", inputs(), notes={"why": "test"})
    assert set(contents(tmp_path)) == {"small.safetensors", "small.safetensors.manifest.json"}
    assert check_manifest(tmp_path / "small.safetensors.manifest.json") == manifest
    assert manifest.notes == {"why": "test"}
    assert net.training
    assert net.body.training
    unverified = export(net, tmp_path / "b.safetensors", inputs(), verify=False)
    assert unverified.files[0].difference is None


def test_a_file_that_disagrees_is_not_written(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.safetensors"
    export(net, path, inputs())
    before = contents(tmp_path)
    from manynet.deploy import _formats

    honest = _formats.to_safetensors
    monkeypatch.setattr(_formats, "to_safetensors", lambda member, **_: honest(Net()))
    with pytest.raises(VerificationError, match="differs from Net"):
        export(net, path, inputs())
    with pytest.raises(VerificationError):
        export_member(net, tmp_path / "new" / "member", inputs(), formats=("safetensors",))
    assert {k: v for k, v in contents(tmp_path).items()} == before


def test_the_same_weights_give_the_same_file(net: Net) -> None:
    from manynet.deploy._formats import to_safetensors

    assert len({to_safetensors(net) for _ in range(20)}) == 1


def test_a_full_disk_leaves_the_old_files(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(net, tmp_path / "a.safetensors", inputs())
    export_member(net, tmp_path / "member", inputs(), formats=("safetensors",))
    before = contents(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    changed = Net()
    with pytest.raises(StorageError, match="No space left on device"):
        export(changed, tmp_path / "a.safetensors", inputs())
    with pytest.raises(StorageError, match="No space left on device"):
        export_member(changed, tmp_path / "member", inputs(), formats=("safetensors",))
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_member(net, tmp_path / "member", inputs(), formats=("safetensors",))
    before, replace = contents(tmp_path), os.replace

    def stubborn(old: Path, new: Path) -> None:
        if Path(old).is_dir() and Path(new).name == "member" and not str(old).endswith(".old"):
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(old, new)

    monkeypatch.setattr(os, "replace", stubborn)
    with pytest.raises(StorageError, match="Permission denied"):
        export_member(Net(), tmp_path / "member", inputs(), formats=("safetensors",))
    assert contents(tmp_path) == before


def test_a_folder_of_something_else_is_not_replaced(net: Net, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(StorageError, match="not a member's folder"):
        export_member(net, tmp_path / "photos", inputs(), formats=("safetensors",))
    assert contents(tmp_path) == {"photos/a.jpg": b"x"}


@pytest.mark.parametrize(
    ("make", "given", "suffix", "message"),
    [
        (Branch, (torch.randn(2, 3),), ".pt2", "Branch cannot be traced .* data-dependent"),
        (OneSize, (torch.randn(2, 4),), ".pt2", "dynamic_batch=False"),
        (lambda: nn.Linear(3, 3), (torch.randn(2, 4),), ".pt2", "Linear cannot run on inputs"),
        (lambda: nn.Linear(3, 3), "x", ".pt2", "should be a tensor or a tuple"),
        (lambda: nn.Linear(3, 3), (torch.randn(2, 3),), ".bin", "cannot tell the format"),
        (
            lambda: nn.Linear(3, 3),
            (torch.full((2, 3), float("nan")),),
            ".safetensors",
            "not finite on these inputs",
        ),
    ],
    ids=["branch", "one size", "shape", "no tensor", "suffix", "nan"],
)
def test_what_cannot_be_exported_gets_one_line(
    make: Callable[[], nn.Module],
    given: Any,
    suffix: str,
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        export(make(), tmp_path / f"x{suffix}", given)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_an_operation_that_onnx_lacks_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"Unknown cannot become ONNX: .*bessel_j0"):
        export(Unknown(), tmp_path / "x.onnx", (torch.randn(2, 3),))
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_one_batch_size_can_be_asked_for(tmp_path: Path) -> None:
    manifest = export(OneSize(), tmp_path / "x.pt2", (torch.randn(2, 4),), dynamic_batch=False)
    assert manifest.files[0].difference == 0.0


def test_int8_needs_onnx(net: Net, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'onnx' where int8 or int4 is asked for"):
        export_member(net, tmp_path / "m", inputs(), formats=("safetensors",), int8=inputs()[0])
    with pytest.raises(InputError, match="at least one format"):
        export_member(net, tmp_path / "m", inputs(), formats=())


@pytest.mark.parametrize("library", ["onnx", "onnxscript"])
def test_a_missing_extra_is_named(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    import importlib

    real = importlib.import_module

    def without(name: str, package: str | None = None) -> Any:
        if name == library:
            raise ModuleNotFoundError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(MissingExtraError, match=rf"{library}.*manynet\[onnx\]"):
        export(net, tmp_path / "x.onnx", inputs())


@pytest.mark.parametrize("name", ["x.onnx", "x.safetensors"])
def test_damaged_files(net: Net, tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot read"):
        verify(net, tmp_path / name, inputs())
    (tmp_path / name).write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises((StorageError, ValueError)):
        verify(net, tmp_path / name, inputs())
    if name.endswith("safetensors"):
        with pytest.raises(StorageError, match="damaged or no safetensors"):
            load_weights(tmp_path / name)


def test_a_record_is_of_its_bytes() -> None:
    record = FileRecord.of("a", "onnx", b"abc", difference=0.5)
    assert record.bytes == 3
    assert record.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert np.isclose(record.difference, 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_known_networks(name: str, tmp_path: Path) -> None:
    models = pytest.importorskip("torchvision.models")
    net = models.get_model(name, num_classes=10)
    x = (torch.randn(2, 3, 64, 64),)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        manifest = export_member(
            net, tmp_path / "m", x, formats=("onnx", "torch", "safetensors"), int8=x[0]
        )
    assert all(r.difference is None or r.difference < 1e-4 for r in manifest.files)
    assert manifest["model.int8.onnx"].bytes < 0.5 * manifest["model.onnx"].bytes


@pytest.mark.slow
def test_two_inputs_and_a_mapping(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"sum": a + b, "first": a[:, 0]}

    manifest = export_member(
        Two(), tmp_path / "m", (torch.randn(3, 4), torch.randn(3, 4)), formats=("onnx", "torch")
    )
    assert len(manifest.inputs) == 2


@pytest.mark.gpu
def test_a_network_on_cuda_is_exported_and_stays(tmp_path: Path) -> None:
    net = Net().cuda()
    manifest = export_member(net, tmp_path / "m", inputs(), formats=("onnx", "torch"))
    assert all(r.difference is not None for r in manifest.files)
    assert next(net.parameters()).is_cuda
