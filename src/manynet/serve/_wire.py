"""Requests and replies as bytes: JSON, one `.npy` array, or safetensors."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manynet.errors import InputError, VerificationError, did_you_mean
from manynet.serve._engine import Answer
from manynet.serve._members import Takes

__all__ = ["JSON", "NPY", "SAFETENSORS", "about", "parse", "render", "target_of"]

JSON, NPY, SAFETENSORS = "application/json", "application/x-npy", "application/x-safetensors"
Arrays = dict[str, NDArray[Any]]


def parse(
    body: bytes, kind: str, takes: Sequence[Takes], max_batch: int
) -> tuple[Arrays, float | None]:
    """Return the samples of a request by the names of the inputs, and its latency target if any.

    Args:
        body: of the request.
        kind: its media type; JSON where there is none.
        takes: what the members take.
        max_batch: the most samples.

    Raises:
        InputError: what is wrong, where, and what to send.
    """
    reader = {JSON: _json, NPY: _npy, SAFETENSORS: _safetensors}.get(kind or JSON)
    if reader is None:
        raise InputError(
            f"Content-Type {kind!r} is not read here; send {JSON}, {NPY} or {SAFETENSORS}"
        )
    given, target = reader(body, takes)
    names = [one.name for one in takes]
    for name in given:
        if name not in names:
            raise InputError(f"there is no input {name!r}{did_you_mean(name, names)}")
    missing = [name for name in names if name not in given]
    if missing:
        raise InputError(f"the input {missing[0]!r} is missing; send {_wanted(takes)}")
    arrays = {one.name: _checked(given[one.name], one) for one in takes}
    counts = {name: len(array) for name, array in arrays.items()}
    count = next(iter(counts.values()))
    if len(set(counts.values())) > 1:
        raise InputError(f"the inputs differ in their number of samples: {counts}")
    if not 1 <= count <= max_batch:
        raise InputError(f"a request holds 1 to {max_batch} samples, and this one {count}")
    return arrays, target


def target_of(value: object) -> float | None:
    """Return a latency target in milliseconds; None for none.

    Raises:
        InputError: it is no positive number.
    """
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise InputError(f"latency_ms should be a positive number, and is {value!r}")
    return number


def _json(body: bytes, takes: Sequence[Takes]) -> tuple[dict[str, Any], float | None]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"the body is not valid JSON ({error}); send "
            f'{{"inputs": …}}, or another Content-Type: {NPY}, {SAFETENSORS}'
        ) from None
    if not isinstance(document, dict) or "inputs" not in document:
        raise InputError('the body should be a JSON object with "inputs", and may have latency_ms')
    strange = [key for key in document if key not in ("inputs", "latency_ms")]
    if strange:
        near = did_you_mean(strange[0], ("inputs", "latency_ms"))
        raise InputError(f"there is no field {strange[0]!r}{near}")
    inputs = document["inputs"]
    if not isinstance(inputs, dict):
        inputs = {_only(takes): inputs}
    return inputs, target_of(document.get("latency_ms"))


def _npy(body: bytes, takes: Sequence[Takes]) -> tuple[dict[str, Any], float | None]:
    file = io.BytesIO(body)
    try:
        array = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, TypeError, MemoryError, OverflowError) as error:
        raise InputError(
            f"the body is not one .npy array ({error}); write it with numpy.save"
        ) from None
    return {_only(takes): array}, None


def _safetensors(body: bytes, takes: Sequence[Takes]) -> tuple[dict[str, Any], float | None]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(body), None
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"the body is not safetensors ({error}); write it with safetensors.numpy.save"
        ) from None


def _only(takes: Sequence[Takes]) -> str:
    if len(takes) > 1:
        raise InputError(f"the network takes several inputs; name them: {_wanted(takes)}")
    return takes[0].name


def _wanted(takes: Sequence[Takes]) -> str:
    return ", ".join(f"{one.name} (samples, {', '.join(map(str, one.shape))})" for one in takes)


def _checked(value: object, one: Takes) -> NDArray[Any]:
    """Return an input as an array of the right shape and type, all of it finite."""
    wanted = f"should have shape (samples, {', '.join(map(str, one.shape))})"
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):
        raise InputError(
            f"the input {one.name!r} has rows of unequal lengths; it {wanted}"
        ) from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"the input {one.name!r} holds {array.dtype}, not numbers; it {wanted}")
    if array.shape[1:] != one.shape or not array.ndim:
        raise InputError(f"the input {one.name!r} has shape {array.shape}; it {wanted}")
    whole = np.dtype(one.dtype).kind in "iu"
    if whole and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise InputError(f"the input {one.name!r} takes whole numbers ({one.dtype})")
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.ascontiguousarray(array, dtype=one.dtype)
    if not np.isfinite(found).all():
        raise InputError(f"the input {one.name!r} holds values that are not finite")
    return found


def about(answer: Answer) -> dict[str, Any]:
    """Return what a reply says beside the outputs."""
    return {
        "member": answer.member.name,
        "quality": answer.member.quality,
        "batch": answer.batch,
        "waited_ms": round(answer.waited_ms, 3),
        "compute_ms": round(answer.compute_ms, 3),
        "target_ms": round(answer.target_ms, 3),
        "in_time": answer.in_time,
    }


def render(answer: Answer, kind: str) -> tuple[bytes, str]:
    """Return a reply and its media type, the one that the request came in.

    Raises:
        VerificationError: an output is not finite, which JSON has no word for.
    """
    outputs: Mapping[str, NDArray[Any]] = answer.outputs
    if kind == NPY and len(outputs) == 1:
        file = io.BytesIO()
        np.save(file, next(iter(outputs.values())), allow_pickle=False)
        return file.getvalue(), NPY
    if kind in (NPY, SAFETENSORS):
        from safetensors.numpy import save

        whole = {name: np.ascontiguousarray(array) for name, array in outputs.items()}
        return save(whole), SAFETENSORS
    shown = {"outputs": {name: array.tolist() for name, array in outputs.items()}, **about(answer)}
    try:
        return json.dumps(shown, allow_nan=False).encode(), JSON
    except ValueError:
        raise VerificationError(
            f"the outputs of member {answer.member.name} are not finite; look at its weights and "
            "statistics, or ask for an array in place of JSON"
        ) from None
