"""Members as files that are verified before they appear."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from manynet._files import write_bytes
from manynet._inputs import Example, Inputs, positional
from manynet.deploy._formats import Format, format_of, to_bytes
from manynet.deploy._language import write_plain
from manynet.deploy._manifest import MANIFEST, FileRecord, Manifest, described, versions
from manynet.deploy._nbits import rounded_member, with_integers
from manynet.deploy._quantize import quality_of, quantize
from manynet.deploy._verify import difference_of
from manynet.errors import InputError, StorageError

__all__ = ["Weights", "export", "export_member"]

Weights = Literal["float", "int4", "sparse"]
"""What the weights are in a file: those of linear layers in ONNX, or all in safetensors."""

NAMES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torch": "model.pt2",
    "safetensors": "model.safetensors",
}


def export(
    member: nn.Module,
    path: Path | str,
    example_inputs: Example,
    *,
    format: str | None = None,
    weights: Weights = "float",
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
        weights: `"int4"` makes the linear layers of an ONNX file multiply with integers of 4 bits
            (`MatMulNBits`, which ONNX Runtime has). Weights that are quantized keep their own, in
            4 or 8 bits; others are rounded in groups of 32 inputs, and the file is verified
            against the network with those values. It needs ONNX Runtime to run. `"sparse"` keeps of
            a safetensors file's tensors with many zeros a bit a number and the other numbers.
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
        InputError: the inputs do not fit, the network cannot be traced, an operation is missing, or
            the format has no such weights.
        StorageError: the file cannot be written.
        MissingExtraError: ONNX is not installed.
    """
    path = Path(path)
    found = format_of(path, format)
    if weights != "float" and (weights, found) not in (("int4", "onnx"), ("sparse", "safetensors")):
        raise InputError(
            f"export(weights={weights!r}) of a {found} file: give 'float', 'int4' for ONNX, or "
            "'sparse' for safetensors"
        )
    inputs = positional(member, example_inputs)
    allowed = tolerance if verify else None
    data, record = _make(
        member,
        path.name,
        inputs,
        found,
        tolerance=allowed,
        dynamic_batch=dynamic_batch,
        opset=opset,
        weights=weights,
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
    example_inputs: Example,
    *,
    formats: Sequence[Format | Literal["transformers"]] = ("onnx", "safetensors"),
    tokenizer: Any = None,
    int8: Any = None,
    int4: bool = False,
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
        int4: whether to write `model.int4.onnx` too, see `weights` of `export`.
        test: data (inputs, targets) to measure the accuracy of the int8 and int4 files on, or a
            function that judges a module.
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
        InputError: int8 or int4 without `"onnx"`, no format, two that write one file, no config
            describes the member, or as in `export`.
        StorageError: the folder cannot be written, or it holds something else than a member.
        MissingExtraError: ONNX is not installed.
    """
    if not formats or ((int8 is not None or int4) and "onnx" not in formats):
        raise InputError(
            f"export_member(formats={tuple(formats)}) should name at least one format, and 'onnx' "
            "where int8 or int4 is asked for"
        )
    if {"transformers", "safetensors"} <= set(formats):
        raise InputError(
            "export_member: 'transformers' writes model.safetensors itself; leave 'safetensors' out"
        )
    folder, inputs, records = Path(folder), positional(member, example_inputs), list[FileRecord]()
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
        if int4:
            options = {"tolerance": tolerance, "dynamic_batch": dynamic_batch, "opset": opset}
            records.append(_int4(member, aside / "model.int4.onnx", inputs, test, **options))
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
    weights: Weights = "float",
) -> tuple[bytes, FileRecord]:
    """Return a file's bytes and record, verified where a tolerance is given."""
    traced, kind = member, str(format)
    if weights == "int4":
        traced, member, kind = with_integers(member), rounded_member(member), "onnx-int4"
    sparse = weights == "sparse"
    data = to_bytes(traced, inputs, format, dynamic_batch=dynamic_batch, opset=opset, sparse=sparse)
    if tolerance is None:
        return data, FileRecord.of(name, kind, data)
    difference = difference_of(
        member, data, format, inputs, tolerance, dynamic_batch=dynamic_batch, name=name
    )
    return data, FileRecord.of(name, kind, data, difference=difference, tolerance=tolerance)


def _int4(member: nn.Module, path: Path, inputs: Inputs, test: Any, **options: Any) -> FileRecord:
    """Write a file whose linear layers multiply with integers; return its record."""
    data, record = _make(member, path.name, inputs, "onnx", weights="int4", **options)
    write_bytes(path, data)
    return record if test is None else replace(record, quality=quality_of(data, test))


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
