"""Members as files that are verified before they appear."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from manynet._files import write_bytes
from manynet._inputs import Inputs, as_inputs
from manynet.deploy._formats import Format, format_of, to_bytes
from manynet.deploy._language import write_plain
from manynet.deploy._manifest import MANIFEST, FileRecord, Manifest, described, versions
from manynet.deploy._quantize import quantize
from manynet.deploy._verify import difference_of
from manynet.errors import InputError, StorageError

__all__ = ["export", "export_member"]

NAMES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "safetensors": "model.safetensors",
}


def export(
    member: nn.Module,
    path: Path | str,
    example_inputs: Tensor | Inputs,
    *,
    format: str | None = None,
    verify: bool = True,
    tolerance: float = 1e-4,
    dynamic_batch: bool = True,
    opset: int | None = None,
    arch: Mapping[str, Any] | None = None,
    costs: Mapping[str, float] | None = None,
    quality: float | None = None,
    metric: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a network as a deployable file, unless that file disagrees with the network.

    The file is made and verified in memory, then put in place in one step, with its manifest
    beside it (`small.onnx` and `small.onnx.manifest.json`). Whatever fails before leaves an older
    file as it was.

    Args:
        member: the network; its weights and mode stay as they are.
        path: where to write.
        example_inputs: real inputs that fit; the file is verified on them.
        format: `"onnx"`; `"torch"` for a `.pt2` of `torch.export`, which `load_program` reads;
            `"safetensors"` for the weights alone, which `load_weights` reads. By default the
            file's ending says.
        verify: run the file at two batch sizes and compare, see `verify`.
        tolerance: the largest difference allowed.
        dynamic_batch: the file takes any batch size.
        opset: the version of ONNX's operators; PyTorch's default if None.
        arch: kept in the manifest, as are `costs`, `quality`, `metric` and `notes`.
        costs: see `arch`.
        quality: see `arch`.
        metric: see `arch`.
        notes: see `arch`.

    Returns:
        The manifest that was written.

    Raises:
        VerificationError: the file would not compute what the network computes.
        InputError: the inputs do not fit, the network cannot be traced, or an operation is missing.
        StorageError: the file cannot be written.
        MissingExtraError: ONNX is not installed.
    """
    path = Path(path)
    found = format_of(path, format)
    inputs = as_inputs(example_inputs)
    allowed = tolerance if verify else None
    data, record = _make(
        member,
        path.name,
        inputs,
        found,
        tolerance=allowed,
        dynamic_batch=dynamic_batch,
        opset=opset,
    )
    manifest = _manifest(
        [record], inputs, arch, costs, quality=quality, metric=metric, notes=dict(notes or {})
    )
    write_bytes(path, data)
    manifest.save(path.with_name(f"{path.name}.{MANIFEST}"))
    return manifest


def export_member(
    member: nn.Module,
    folder: Path | str,
    example_inputs: Tensor | Inputs,
    *,
    formats: Sequence[Format | Literal["transformers"]] = ("onnx", "safetensors"),
    tokenizer: Any = None,
    int8: Any = None,
    test: Any = None,
    tolerance: float = 1e-4,
    dynamic_batch: bool = True,
    opset: int | None = None,
    arch: Mapping[str, Any] | None = None,
    costs: Mapping[str, float] | None = None,
    quality: float | None = None,
    metric: str | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write a member's folder: `model.onnx`, `model.safetensors` and `manifest.json`.

    All files are made and verified in a folder aside, which then takes the place of an older one:
    the folder is whole or absent.

    Args:
        member: the network; its weights and mode stay as they are.
        folder: for example `members/small`.
        example_inputs: real inputs that fit; the files are verified on them.
        formats: which files to write; see `export`. `"transformers"` makes the folder one that
            `AutoModelForCausalLM.from_pretrained` loads, with `config.json`, `model.safetensors`
            and the tokenizer's files; the member's class must come from `transformers` and its
            config must describe the member, see `describable`.
        tokenizer: written beside a model of `transformers`.
        int8: data to calibrate `model.int8.onnx` with; none is written without.
        test: data (inputs, targets) to measure the int8 file's accuracy on.
        tolerance: the largest difference allowed.
        dynamic_batch: the files take any batch size.
        opset: the version of ONNX's operators; PyTorch's default if None.
        arch: kept in the manifest, as are `costs`, `quality`, `metric` and `notes`.
        costs: see `arch`.
        quality: see `arch`.
        metric: see `arch`.
        notes: see `arch`.

    Returns:
        The manifest that was written.

    Raises:
        VerificationError: a file would not compute what the network computes.
        InputError: int8 without `"onnx"`, no format, two that write one file, no config describes
            the member, or as in `export`.
        StorageError: the folder cannot be written, or it holds something else than a member.
        MissingExtraError: ONNX is not installed.
    """
    if not formats or (int8 is not None and "onnx" not in formats):
        raise InputError(
            f"export_member(formats={tuple(formats)}) should name at least one format, and 'onnx' "
            "where int8 is asked for, which is made from it"
        )
    if {"transformers", "safetensors"} <= set(formats):
        raise InputError(
            "export_member: 'transformers' writes model.safetensors itself; leave 'safetensors' out"
        )
    folder, inputs, records = Path(folder), as_inputs(example_inputs), list[FileRecord]()
    with _replacing(folder) as aside:
        if "transformers" in formats:
            how = {"tolerance": tolerance, "tokenizer": tokenizer}
            records += write_plain(member, aside, inputs, **how)
        for format in formats:
            if format == "transformers":
                continue
            name = NAMES[format_of("", format)]
            data, record = _make(
                member,
                name,
                inputs,
                format,
                tolerance=tolerance,
                dynamic_batch=dynamic_batch,
                opset=opset,
            )
            write_bytes(aside / name, data)
            records.append(record)
        if int8 is not None:
            records.append(
                quantize(aside / NAMES["onnx"], aside / "model.int8.onnx", int8, test=test)
            )
        manifest = _manifest(
            records, inputs, arch, costs, quality=quality, metric=metric, notes=dict(notes or {})
        )
        manifest.save(aside / MANIFEST)
    return manifest


def _make(
    member: nn.Module,
    name: str,
    inputs: Inputs,
    format: Format,
    *,
    tolerance: float | None,
    dynamic_batch: bool,
    opset: int | None,
) -> tuple[bytes, FileRecord]:
    """Return a file's bytes and record, verified where a tolerance is given."""
    data = to_bytes(member, inputs, format, dynamic_batch=dynamic_batch, opset=opset)
    if tolerance is None:
        return data, FileRecord.of(name, format, data)
    difference = difference_of(
        member, data, format, inputs, tolerance, dynamic_batch=dynamic_batch, name=name
    )
    return data, FileRecord.of(name, format, data, difference=difference, tolerance=tolerance)


def _manifest(
    records: Sequence[FileRecord],
    inputs: Inputs,
    arch: Mapping[str, Any] | None,
    costs: Mapping[str, float] | None,
    **known: Any,
) -> Manifest:
    """Return the manifest of these files."""
    return Manifest(
        files=tuple(records),
        arch=None if arch is None else dict(arch),
        costs=dict(costs or {}),
        inputs=described(inputs),
        versions=versions(),
        **known,
    )


@contextlib.contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` if all goes well."""
    if folder.exists() and not (folder.is_dir() and _is_member(folder)):
        raise StorageError(
            f"{folder} exists and is not a member's folder; choose another name, it would be lost"
        )
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        aside.chmod(0o755)
        yield aside
        _swap(aside, folder)
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose a folder "
            "that can be written"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


def _swap(new: Path, folder: Path) -> None:
    """Put a folder in the place of another, which is back if that fails."""
    old = new.with_name(f"{new.name}.old")
    if folder.exists():
        os.replace(folder, old)  # noqa: PTH105 - the atomic call, spelled as in its manual
    try:
        os.replace(new, folder)  # noqa: PTH105
    except OSError:
        if old.exists():
            os.replace(old, folder)  # noqa: PTH105
        raise
    shutil.rmtree(old, ignore_errors=True)


def _is_member(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or not any(folder.iterdir())
