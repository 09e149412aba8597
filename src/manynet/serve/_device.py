"""`manynet device serve`: times exported networks for others, on the machine that will run them."""

from __future__ import annotations

import contextlib
import platform
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from manynet._version import __version__
from manynet.cost import ExportedRun, Latency, exported_run, latency, unpacked
from manynet.deploy import onnx_model
from manynet.errors import InputError, StorageError
from manynet.run import cores
from manynet.serve._http import background, foreground, needs_serve, socket_at

__all__ = ["Device", "new_token", "read_token", "serve_device", "serving_device"]

MOST_S = 60.0
_SHORTEST = 16


@dataclass(frozen=True)
class Device:
    """What a device server may do.

    Args:
        token: whoever asks must show it.
        max_body_mib: the largest exported network, in MiB.
        device: where networks run here, `"cpu"` or a CUDA device that ONNX Runtime supports.

    Networks run in ONNX Runtime, or in OpenVINO where that is asked for and installed.
    """

    token: str
    max_body_mib: float = 512.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if len(self.token) < _SHORTEST or not self.token.isascii() or not self.token.isprintable():
            raise InputError(
                f"the token has {len(self.token)} characters; it needs at least {_SHORTEST} of "
                "printable ASCII; where you give none, one is made and printed"
            )

    def time(self, body: bytes, settings: dict[str, Any]) -> Latency:
        """Time an exported network.

        Args:
            body: what `manynet.latency` sends: an ONNX file and its inputs in safetensors. It is
                data: no code is run from it, and no other file is read for it.
            settings: those of `manynet.latency`.

        Raises:
            InputError: it is something else, cannot run on its inputs, or takes too long.
            StorageError: the runtime cannot load it.
            MissingExtraError: the runtime is not installed here.
        """
        data, arrays = unpacked(body)
        clock = latency(self.device, **{"runtime": "onnx", **settings})
        _refuse(data, loops=clock.runtime == "openvino")
        run = exported_run(
            data, arrays, device=self.device, threads=clock.threads, runtime=clock.runtime
        )
        try:
            with _stopping(run, clock.time_limit_s + MOST_S), clock.settings():
                return clock.read(clock.clock_of(run))
        except Exception as error:  # the runtimes' errors share no base that they export
            first = str(error).strip().splitlines()[-1]
            raise InputError(f"the network cannot run on its inputs here: {first}") from error

    def described(self) -> dict[str, Any]:
        """Return what this machine is, as JSON values."""
        return {
            "manynet": __version__,
            **{name: _version(name) for name in ("onnxruntime", "openvino")},
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cores": cores(),
            "device": self.device,
        }


@contextlib.contextmanager
def _stopping(run: ExportedRun, seconds: float) -> Iterator[None]:
    """End a pass that goes on for far longer than was asked for."""
    timer = threading.Timer(seconds, run.stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _refuse(data: bytes, *, loops: bool) -> None:
    """Refuse an ONNX file whose weights lie in other files: they would be files of this machine.

    Args:
        data: the file's bytes.
        loops: refuse loops too: OpenVINO stops between two operations only, and one may be endless.

    Raises:
        InputError: they do, or there are loops.
        StorageError: the bytes are no ONNX file.
    """
    for message in _messages(onnx_model(data)):
        if _outside(message):
            raise InputError(
                "the ONNX file keeps weights in other files; send one that holds all of them"
            )
        if loops and message.DESCRIPTOR.name == "NodeProto" and message.op_type == "Loop":
            raise InputError(
                "the ONNX file holds a loop, which OpenVINO could not be stopped in; time it with "
                "runtime='onnx'"
            )


def _messages(message: Any) -> Iterator[Any]:
    """Yield a message of protobuf and all those in it."""
    yield message
    for known, value in message.ListFields():
        if known.type == known.TYPE_MESSAGE:
            for part in value if _repeated(value) else (value,):
                yield from _messages(part)


def _repeated(value: Any) -> bool:
    return hasattr(value, "__len__")


def _outside(message: Any) -> bool:
    return message.DESCRIPTOR.name == "TensorProto" and (
        message.data_location == message.EXTERNAL or len(message.external_data) > 0
    )


def new_token() -> str:
    """Return a token that nobody guesses."""
    return secrets.token_urlsafe(24)


def read_token(path: Path) -> str:
    """Return the token in a file, without the space around it.

    Raises:
        StorageError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"cannot read the token in {path}: {error}") from error


def serve_device(
    device: Device,
    *,
    host: str = "127.0.0.1",
    port: int = 8100,
    told: Callable[[str], object] = print,
) -> None:
    """Time exported networks for whoever shows the token, until SIGTERM or SIGINT.

    One network is timed at a time; whoever asks meanwhile is told to come again.

    Args:
        device: what it may do.
        host: the address to listen at; by default this machine alone can reach it.
        port: 0 for any that is free.
        told: hears the address once it listens.

    Raises:
        MissingExtraError: the extra `serve` or `onnx` is not installed.
        InputError: the address is taken.
    """
    app = _app(device)
    with socket_at(host, port) as listening:
        foreground(app, listening, told)


@contextlib.contextmanager
def serving_device(device: Device) -> Iterator[str]:
    """Time exported networks at a free port of this machine while the context is open.

    Args:
        device: what it may do.

    Yields:
        The address.
    """
    with background(_app(device)) as url:
        yield url


def _app(device: Device) -> Any:
    needs_serve(("onnx", "onnx", "onnx"), ("onnxruntime", "onnxruntime", "onnx"))
    latency(device.device)  # a device that this machine lacks is told now
    from manynet.serve._device_app import device_app

    return device_app(device)


def settings_of(query: dict[str, str]) -> dict[str, Any]:
    """Return the settings of `manynet.latency` that a query names.

    Raises:
        InputError: one is unknown, no number, or beyond what a device allows.
    """
    found: dict[str, Any] = {}
    for name, text in query.items():
        if name == "runtime":
            found[name] = _runtime(text)
            continue
        limits = _LIMITS.get(name)
        if limits is None:
            raise InputError(f"there is no setting {name!r} (known: runtime, {', '.join(_LIMITS)})")
        kind, least, most = limits
        try:
            found[name] = kind(text)
        except ValueError:
            raise InputError(f"{name}={text!r} is no number") from None
        if not least <= found[name] <= most:
            raise InputError(f"{name}={text} should be from {least:g} to {most:g} on this device")
    return found


def _runtime(text: str) -> str:
    if text not in _RUNTIMES:
        raise InputError(
            f"runtime={text!r} does not run exported files; it can be {' or '.join(_RUNTIMES)}"
        )
    return text


_RUNTIMES = ("onnx", "openvino")
_LIMITS: dict[str, tuple[Callable[[str], Any], float, float]] = {
    "threads": (int, 1, cores()),
    "batch": (int, 1, 1 << 20),
    "warmup": (int, 0, 1000),
    "repeats": (int, 1, 100_000),
    "time_limit_s": (float, 0.0, MOST_S),
    "precision": (float, 0.0, 1.0),
}


def report_of(found: Latency) -> dict[str, Any]:
    """Return what a clock has read, as JSON values."""
    return {**asdict(found), "torch": str(torch.__version__)}
