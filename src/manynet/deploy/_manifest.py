"""What stands beside a deployed file: what it is, what it costs, and how to know it is whole."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manynet._files import read_json, write_json
from manynet._inputs import Inputs
from manynet._version import __version__
from manynet.errors import StorageError, VerificationError, did_you_mean

__all__ = ["FileRecord", "Manifest", "check_manifest", "read_manifest"]

MANIFEST = "manifest.json"
Data = bytes  # the class below has a field of that name


@dataclass(frozen=True)
class FileRecord:
    """One file of a member.

    Args:
        name: the file's name in the manifest's folder.
        format: `onnx`, `torch`, `safetensors`, `transformers`, `onnx-int8` or `onnx-int4`.
        sha256: the hash of its bytes.
        bytes: its size.
        difference: how far its outputs were from the member's; None if they were not compared.
        tolerance: how far they were allowed to be; None if they were not compared.
        quality: measured on the file itself; None if it was not.
    """

    name: str
    format: str
    sha256: str
    bytes: int
    difference: float | None = None
    tolerance: float | None = None
    quality: float | None = None

    @classmethod
    def of(cls, name: str, format: str, data: Data, **more: float | None) -> FileRecord:
        """Return the record of a file with these bytes."""
        return cls(name, format, hashlib.sha256(data).hexdigest(), len(data), **more)


@dataclass(frozen=True)
class Manifest:
    """What a deployed member is; written as `manifest.json` beside its files.

    Args:
        files: what belongs to it.
        arch: the arch's values by name; None if the network is of no family.
        costs: figures by the name of the cost.
        quality: the member's quality before export; None if unknown.
        metric: what the quality is, for example `"accuracy"`.
        inputs: shape and type of each tensor that the member takes, the batch first.
        versions: of what made the files.
        notes: anything else that the maker wants to keep.
    """

    files: tuple[FileRecord, ...]
    arch: Mapping[str, Any] | None = None
    costs: Mapping[str, float] = field(default_factory=dict)
    quality: float | None = None
    metric: str | None = None
    inputs: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> FileRecord:
        for record in self.files:
            if record.name == name:
                return record
        raise KeyError(f"no file {name!r}{did_you_mean(name, [f.name for f in self.files])}")

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Return the manifest of JSON values.

        Raises:
            StorageError: a key is missing or unknown, or a value is of the wrong type.
        """
        try:
            files = tuple(FileRecord(**record) for record in data["files"])
            rest = {key: value for key, value in data.items() if key != "files"}
            inputs = tuple(rest.pop("inputs", ()))
            made = cls(files=files, inputs=inputs, **rest)
        except (TypeError, KeyError, AttributeError) as error:
            raise StorageError(f"not a manifest that this version knows: {error}") from error
        wrong = [f for f in files if not all(isinstance(v, str) for v in (f.name, f.sha256))]
        if wrong:
            raise StorageError(f"not a manifest that this version knows: {wrong[0]!r} is no file")
        return made

    def save(self, path: Path | str) -> None:
        """Write it as JSON. Raises `StorageError` as all writing does."""
        write_json(path, self.to_json())


def read_manifest(path: Path | str) -> Manifest:
    """Return the manifest of a member's folder, or of a manifest file.

    Raises:
        StorageError: it is missing, damaged, or no manifest.
    """
    path = Path(path)
    path = path / MANIFEST if path.is_dir() else path
    data = read_json(path)
    try:
        return Manifest.from_json(data)
    except StorageError as error:
        raise StorageError(f"{path}: {error}") from error


def check_manifest(path: Path | str) -> Manifest:
    """Return the manifest of a member's folder after checking the hash of every file.

    Args:
        path: the folder, or the manifest file.

    Raises:
        StorageError: the manifest or a file is missing or cannot be read.
        VerificationError: a file is not the one that was written.
    """
    manifest = read_manifest(path)
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    for record in manifest.files:
        if Path(record.name).name != record.name:
            raise StorageError(f"{path} names {record.name!r}, which is not in its folder")
        try:
            data = (folder / record.name).read_bytes()
        except OSError as error:
            reason = error.strerror or error
            raise StorageError(f"cannot read {folder / record.name}: {reason}") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise VerificationError(
                f"{folder / record.name} was changed after it was made: it has {len(data)} bytes "
                f"and another hash than the {record.bytes} bytes in {MANIFEST}; export it again"
            )
    return manifest


def versions() -> dict[str, str]:
    """Return the versions of what makes a file, without importing what is not in use."""
    from importlib import metadata

    found = {
        "manynet": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    for library in ("onnx", "onnxruntime", "onnxscript", "safetensors", "transformers"):
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def described(inputs: Inputs) -> tuple[dict[str, Any], ...]:
    """Return shape and type of each tensor among the inputs."""
    return tuple(
        {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for value in inputs
        if isinstance(value, Tensor)
    )
