from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from manynet.deploy import load_program
from manynet.deploy._formats import to_torch
from manynet.errors import StorageError


class Several(nn.Module):
    """Two inputs, a mapping of outputs, a constant, sizes that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.constant = torch.arange(4.0)

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Any]:
        joined = torch.cat([self.inner(a), b]) + self.constant
        return {"joined": joined.view(2, a.shape[0], 4), "rest": (a * 2, [b])}


@pytest.fixture(scope="module")
def several() -> tuple[nn.Module, bytes]:
    net = Several()
    return net, to_torch(net, (torch.randn(2, 4), torch.randn(2, 4)))


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def changed(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """Return an archive in which the file that ends in `name` is another."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w") as new:
        for item in old.namelist():
            content = old.read(item)
            new.writestr(item, change(content) if item.endswith(name) else content)
    return result.getvalue()


def replaced(old: str, new: str) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


def test_an_ordinary_program_comes_back(several: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    net, data = several
    (tmp_path / "net.pt2").write_bytes(data)
    a, b = torch.randn(5, 4), torch.randn(5, 4)
    found = load_program(tmp_path / "net.pt2").module()(a, b)
    assert torch.equal(found["joined"], net(a, b)["joined"])
    assert torch.equal(found["rest"][1][0], b)


def test_pickled_weights_are_not_unpickled(
    several: tuple[nn.Module, bytes], tmp_path: Path
) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "trace"))
    data = changed(several[1], "weight_0", lambda _: bomb)
    data = changed(
        data, "weights_config.json", replaced('"use_pickle": false', '"use_pickle": true')
    )
    (tmp_path / "net.pt2").write_bytes(data)
    with pytest.raises(StorageError, match="pickled, which could run code"):
        load_program(tmp_path / "net.pt2")
    assert not (tmp_path / "trace").exists()


def test_pickled_samples_are_not_unpickled(
    several: tuple[nn.Module, bytes], tmp_path: Path
) -> None:
    buffer = io.BytesIO()
    torch.save(Bomb(tmp_path / "trace"), buffer)
    data = changed(several[1], "sample_inputs/model.pt", lambda _: buffer.getvalue())
    (tmp_path / "net.pt2").write_bytes(data)
    with pytest.raises(StorageError, match="sample inputs are pickled"):
        load_program(tmp_path / "net.pt2")
    assert not (tmp_path / "trace").exists()


CODE = "__import__('pathlib').Path('TRACE').touch()"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"guards_code": [', f'"guards_code": ["{CODE}", '),
        ('"torch.ops.aten.linear.default"', '"torch.hub.load"'),
        ('"torch.ops.aten.linear.default"', '"torch.os.system"'),
        ('"forward_arg_names": ["a", "b"]', f'"forward_arg_names": ["a", "b={CODE}"]'),
        ('\\"type\\": \\"builtins.tuple\\"', '\\"type\\": \\"collections.defaultdict\\"'),
        ('\\"context\\": \\"null\\"', '\\"context\\": \\"{\\\\\\"__enum__\\\\\\": 1}\\"'),
        ("Symbol('s", f"{CODE} or Symbol('s"),
        ("Symbol('s", "().__class__ or Symbol('s"),
        ("Symbol('s", "Symbol('__import__').s or Symbol('s"),
    ],
)
def test_code_in_a_graph_is_refused(
    several: tuple[nn.Module, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    old: str,
    new: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    data = changed(several[1], "models/model.json", replaced(old, new.replace("TRACE", "trace")))
    Path("net.pt2").write_bytes(data)
    with pytest.raises(StorageError, match="could run code"):
        load_program("net.pt2")
    assert not Path("trace").exists()


@pytest.mark.parametrize(
    "name", ["a/data/weights/model.pt", "a/data/constants/opaque_obj_0", "a/data/aotinductor/x.so"]
)
def test_files_that_hold_more_than_data_are_refused(
    several: tuple[nn.Module, bytes], tmp_path: Path, name: str
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(several[1])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"")
    with pytest.raises(StorageError, match=f"it holds {name}"):
        load_program(path)


@pytest.mark.parametrize("content", [b"", b"no zip", None])
def test_damaged_files(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.pt2"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StorageError, match=r"net\.pt2"):
        load_program(path)


def test_truncated_graph(several: tuple[nn.Module, bytes], tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(changed(several[1], "models/model.json", lambda content: content[:100]))
    with pytest.raises(StorageError, match="damaged"):
        load_program(path)
    assert json.loads("{}") == {}
