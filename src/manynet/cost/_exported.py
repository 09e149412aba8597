"""Exported networks, ready to run: in ONNX Runtime or in OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from manynet.deploy import onnx_session, openvino_request
from manynet.errors import InputError

__all__ = ["RUNTIMES", "ExportedRun", "exported_run"]

Arrays = Sequence[NDArray[Any]]


class ExportedRun(Protocol):
    """An exported network with its inputs: call it for one pass."""

    def __call__(self) -> object:
        """Run one pass."""
        ...

    def stop(self) -> None:
        """End a pass that goes on for too long, from another thread, with an error."""
        ...


class OnnxRun:
    """A network in ONNX Runtime."""

    def __init__(self, data: bytes, arrays: Arrays, *, device: str, threads: int) -> None:
        self._session = onnx_session(data, device=device, threads=threads)
        names = [given.name for given in self._session.get_inputs()]
        _check_count(len(names), arrays)
        self._feed = dict(zip(names, arrays, strict=True))
        import onnxruntime

        self._options = onnxruntime.RunOptions()

    def __call__(self) -> object:
        """Run one pass."""
        return self._session.run(None, self._feed, self._options)

    def stop(self) -> None:
        """End the pass that runs now."""
        self._options.terminate = True


class OpenvinoRun:
    """A network in OpenVINO.

    The first pass runs on a thread of OpenVINO's, since only there it can be stopped; later ones
    run on the caller's own, whose time a clock can read. They take as long as the first, which was
    not stopped.
    """

    def __init__(self, data: bytes, arrays: Arrays, *, device: str, threads: int) -> None:
        self._request = openvino_request(data, threads=threads)
        self._ran = False
        _check_count(len(self._request.input_tensors), arrays)
        import openvino

        try:
            for number, array in enumerate(arrays):
                self._request.set_input_tensor(number, openvino.Tensor(np.array(array, order="C")))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"the network cannot run on its inputs in OpenVINO: {reason}"
            ) from error

    def __call__(self) -> object:
        """Run one pass."""
        if self._ran:
            return self._request.infer()
        self._request.start_async()
        self._ran = self._request.wait() is None
        return None

    def stop(self) -> None:
        """End the first pass, after the operation that it is at."""
        self._request.cancel()


RUNTIMES: dict[str, Callable[..., ExportedRun]] = {"onnx": OnnxRun, "openvino": OpenvinoRun}
"""What runs exported networks, by name."""


def exported_run(
    data: bytes, arrays: Arrays, *, device: str = "cpu", threads: int = 1, runtime: str = "onnx"
) -> ExportedRun:
    """Return a function that runs an exported network once.

    Args:
        data: an ONNX file's bytes.
        arrays: its inputs, in order.
        device: where to run.
        threads: threads of the runtime.
        runtime: `"onnx"` or `"openvino"`.

    Raises:
        InputError: the file takes another number of inputs, or the runtime lacks the device.
        StorageError: the bytes are no ONNX file, or the runtime cannot load it.
        MissingExtraError: the runtime is not installed.
    """
    return RUNTIMES[runtime](data, arrays, device=device, threads=threads)


def _check_count(wanted: int, arrays: Arrays) -> None:
    if wanted != len(arrays):
        raise InputError(f"the file takes {wanted} inputs, and {len(arrays)} were given")
