"""Eight-bit integers: ONNX Runtime's static quantization, and the accuracy of a file."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manynet._files import write_bytes
from manynet._inputs import batches as batches_of
from manynet._inputs import shapes, tensors_in
from manynet.deploy._formats import needs, onnx_session
from manynet.deploy._manifest import FileRecord
from manynet.errors import InputError, StorageError

__all__ = ["accuracy_of", "quality_of", "quantize"]


def quantize(
    onnx_path: Path | str,
    out_path: Path | str,
    calibration_data: Any,
    *,
    test: Any = None,
    batches: int = 8,
    batch_size: int = 32,
    per_channel: bool = True,
) -> FileRecord:
    """Write an int8 version of an ONNX file.

    Weights and activations become 8-bit integers (quantize-dequantize pairs that the runtime fuses;
    symmetric weights with a scale a channel, activations with a zero point). The ranges of the
    activations are the extremes over the calibration data. An int8 file never equals its float
    file: measure it, with `test` or `accuracy_of`.

    Args:
        onnx_path: the float file.
        out_path: where to write; it appears whole or not at all.
        calibration_data: real inputs as tensors, (inputs, targets), a data set or batches.
        test: data (inputs, targets) on which the file's accuracy is measured, or a function that
            judges a module, such as `manynet.loss(data)`.
        batches: how many batches to calibrate with at most.
        batch_size: samples a batch where the data does not come in batches.
        per_channel: one scale for each output channel of a weight, not one for all.

    Returns:
        The new file's record, with what `test` found as `quality` if it was given.

    Raises:
        InputError: there is no data, it does not fit, or it is not finite.
        StorageError: a file cannot be read or written.
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    needs("onnx")
    needs("onnxruntime")
    feeds = list(_feeds(onnx_path, calibration_data, batches, batch_size))
    data = _quantized(Path(onnx_path), feeds, per_channel)
    quality = None if test is None else quality_of(data, test)
    write_bytes(out_path, data)
    return FileRecord.of(Path(out_path).name, "onnx-int8", data, quality=quality)


class _AsModule(nn.Module):
    """An ONNX file as a module, so that what judges a member can judge its file."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        names = [given.name for given in self.session.get_inputs()]
        given = list(inputs) if inputs else [named[name] for name in names]
        return torch.from_numpy(_run(self.session, given)[0])


def quality_of(file: Path | str | bytes, test: Any, *, threads: int = 1) -> float:
    """Return what `test` says of a file: the accuracy on data, or what a function finds.

    Args:
        file: an ONNX file, or its bytes.
        test: (inputs, targets) as for `accuracy_of`, or a function of a module.
        threads: threads of ONNX Runtime.

    Raises:
        InputError: as in `accuracy_of`, and likewise the other errors.
    """
    if callable(test):
        return float(test(_AsModule(onnx_session(file, threads=threads)).eval()))
    return accuracy_of(file, test, threads=threads)


def accuracy_of(
    file: Path | str | bytes, data: Any, *, batch_size: int = 64, threads: int = 1
) -> float:
    """Return the share of targets whose largest output is their own.

    Args:
        file: an ONNX file, or its bytes.
        data: (inputs, targets) as tensors, a data set or an iterable of batches.
        batch_size: samples a batch where the data does not come in batches.
        threads: threads of ONNX Runtime.

    Raises:
        InputError: the data is empty, has no targets, or does not fit.
        StorageError: the file is missing or no ONNX file.
        MissingExtraError: ONNX Runtime is not installed.
    """
    session = onnx_session(file, threads=threads)
    right = total = 0
    for inputs, targets in batches_of(data, batch_size=batch_size):
        if not isinstance(targets, Tensor):
            raise InputError("accuracy needs targets; give (inputs, targets)")
        scores = _run(session, tensors_in(inputs))[0]
        classes = 1 if scores.shape[2:] == targets.shape[1:] else -1  # the last for tokens
        right += int((scores.argmax(axis=classes) == targets.numpy()).sum())
        total += targets.numel()
    if not total:
        raise InputError("there is no sample in the data to measure accuracy on")
    return right / total


def _run(session: Any, tensors: list[Tensor]) -> list[Any]:
    """Run a session on tensors; say which shapes do not fit."""
    names = [given.name for given in session.get_inputs()]
    try:
        feed = {n: t.numpy() for n, t in zip(names, tensors, strict=True)}
        return list(session.run(None, feed))
    except Exception as error:  # the runtime's errors share no base that it exports
        raise InputError(
            f"data of shape {shapes(tuple(tensors))} does not fit the file, which takes "
            f"{[tuple(given.shape) for given in session.get_inputs()]}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _feeds(
    path: Path | str, data: Any, batches: int, batch_size: int
) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Yield the calibration batches as the file wants them, after a check that they fit."""
    session = onnx_session(path)
    names = [given.name for given in session.get_inputs()]
    count = 0
    for inputs, _ in itertools.islice(batches_of(data, batch_size=batch_size), batches):
        arrays = [tensor.numpy() for tensor in tensors_in(inputs)]
        _run(session, tensors_in(inputs))
        if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            raise InputError(f"calibration batch {count} holds NaN or infinite values")
        count += 1
        yield dict(zip(names, arrays, strict=True))
    if not count:
        raise InputError("there is no batch in the calibration data; give at least one")


class _Reader:
    """What ONNX Runtime's calibration reads."""

    def __init__(self, feeds: list[dict[str, np.ndarray[Any, Any]]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        return next(self._feeds, None)


def _quantized(
    path: Path, feeds: list[dict[str, np.ndarray[Any, Any]]], per_channel: bool
) -> bytes:
    """Return the bytes of the int8 file."""
    from onnxruntime.quantization import QuantFormat, QuantType
    from onnxruntime.quantization import quantize_static as quantize_file
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        with tempfile.TemporaryDirectory(prefix="manynet-") as folder, _quiet():
            prepared, made = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            quantize_file(
                str(prepared),
                str(made),
                _Reader(feeds),
                quant_format=QuantFormat.QDQ,
                per_channel=per_channel,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
            )
            return made.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot quantize {path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice off the root log for a while."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
