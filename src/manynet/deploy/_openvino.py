"""OpenVINO: a runtime for Intel's and ARM's processors that reads ONNX files."""

from __future__ import annotations

from typing import Any

from manynet.deploy._formats import needs
from manynet.errors import StorageError

__all__ = ["openvino_request"]


def openvino_request(data: bytes, *, threads: int = 1) -> Any:
    """Return an OpenVINO inference request on the CPU that keeps to a number of threads.

    It computes in float32, as the network does; left to itself, OpenVINO rounds to bfloat16 where
    the processor has instructions for that. With one thread it runs on the caller's.

    Args:
        data: the bytes of an ONNX file that holds all of its weights.
        threads: threads within an operation; operations run one after the other.

    Raises:
        MissingExtraError: openvino is not installed.
        StorageError: OpenVINO cannot load the file.
    """
    openvino = needs("openvino", "openvino")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "CPU_DENORMALS_OPTIMIZATION": True,
        "ENABLE_CPU_PINNING": False,  # where to run is the caller's to say, as with `taskset`
    }
    core = openvino.Core()
    try:
        return core.compile_model(core.read_model(data), "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise StorageError(f"OpenVINO cannot load the ONNX bytes: {_reason(error)}") from error


def _reason(error: RuntimeError) -> str:
    """Return the line of a message that says what happened; the others say where in its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (said or lines or ["no reason given"])[0]
