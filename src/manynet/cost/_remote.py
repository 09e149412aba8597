"""How long one forward pass takes on another machine, which `manynet device serve` answers for."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlencode

import numpy as np
from torch import nn

from manynet._inputs import Example, Inputs, evaluating, positional, tensors_in, with_batch
from manynet.cost._latency import Clock, Latency, LatencyCost, Runtime
from manynet.deploy import to_onnx
from manynet.errors import InputError

__all__ = ["TOKEN", "RemoteLatency", "packed", "remote_latency", "unpacked"]

TOKEN = "MANYNET_DEVICE_TOKEN"
_MODEL = "model"
_SLACK_S = 60.0
_SENT = ("runtime", "threads", "batch", "warmup", "repeats", "time_limit_s", "precision")


@dataclass(frozen=True)
class RemoteLatency(LatencyCost):
    """The cost that `latency("http://…")` makes: it times members where they will run."""

    token: str = field(default="", repr=False)

    def measure(self, member: nn.Module, example_inputs: Example) -> Latency:
        """Export a network, send it to the device, and return what its clock has read.

        Raises:
            InputError: the device cannot be reached, is busy for long, or refuses the token or the
                network.
            MissingExtraError: ONNX is not installed.
        """
        inputs = with_batch(positional(member, example_inputs), self.batch)
        with evaluating(member):
            data = to_onnx(member, inputs, dynamic_batch=False)
        query = urlencode({name: getattr(self, name) for name in _SENT})
        found = self._asked(f"/time?{query}", packed(data, inputs))
        known = {one.name for one in fields(Latency)}
        return Latency(**{name: found[name] for name in known if name in found} | self._here())

    def _here(self) -> dict[str, Any]:
        return {"device": self.device, "batch": self.batch}

    def described(self) -> dict[str, Any]:
        """Return what the device says of itself. Raises `InputError` as `measure` does."""
        return self._asked("/device", None)

    def prepared(self, member: nn.Module, example_inputs: Example) -> Callable[[], object]:
        """Refuse: another machine's passes cannot be run one by one from here."""
        raise InputError(
            f"{self.device} times whole networks; its passes cannot be run one by one, as "
            "interleaved clocks and fit_latency do: use measure, or run that there"
        )

    @contextlib.contextmanager
    def clock(self, member: nn.Module, example_inputs: Example) -> Iterator[Clock]:
        """Refuse, as `prepared` does."""
        self.prepared(member, example_inputs)
        yield Clock(lambda: None, member, 1)  # type: ignore[arg-type] # never reached

    def _asked(self, path: str, body: bytes | None) -> dict[str, Any]:
        """Return the device's answer; where it is busy, ask again for a while."""
        deadline = time.monotonic() + self.time_limit_s + _SLACK_S
        while True:
            try:
                return self._ask(path, body)
            except _Busy as busy:
                if time.monotonic() + busy.seconds > deadline:
                    raise InputError(
                        f"the device at {self.device} is busy for others; try again later"
                    ) from None
                time.sleep(busy.seconds)

    def _ask(self, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            headers["Content-Type"] = "application/x-safetensors"
        request = urllib.request.Request(self.device + path, body, headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
        try:
            with direct.open(request, timeout=self.time_limit_s + _SLACK_S) as reply:
                found: dict[str, Any] = json.load(reply)
                return found
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(self.device, error) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"the device at {self.device} cannot be reached: {reason}; start `manynet device "
                "serve` there, and check the address and the port"
            ) from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for one address and goes to no other."""

    def redirect_request(self, *given: object, **named: object) -> None:
        return None


class _Busy(Exception):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds


def _refused(device: str, error: urllib.error.HTTPError) -> Exception:
    """Return the error that a device's refusal means."""
    if error.code == 503:
        wait = error.headers.get("Retry-After", "1")
        return _Busy(float(wait) if wait.isdigit() else 1.0)
    if error.code == 401:
        return InputError(
            f"the device at {device} refuses the token; give the one that `manynet device serve` "
            f"printed there, as token=… or in {TOKEN}"
        )
    try:
        reason = json.load(error)["error"]
    except (ValueError, KeyError, TypeError):
        reason = f"{error.code} {error.reason}; is it `manynet device serve` that answers there?"
    return InputError(f"the device at {device} refuses: {reason}")


def remote_latency(
    address: str, *, runtime: Runtime | None, token: str | None, **settings: Any
) -> RemoteLatency:
    """Return the cost of another machine; see `latency`.

    Raises:
        InputError: there is no token, or PyTorch is asked for as the runtime.
    """
    if runtime == "torch":
        raise InputError(
            f"{address} runs exported files, and the runtime asked for is 'torch'; leave it out"
        )
    token = token or os.environ.get(TOKEN)
    if not token:
        raise InputError(
            f"latency on {address} needs a token, the one that `manynet device serve` printed "
            f"there; give it as token=… or in {TOKEN}"
        )

    def function(member: nn.Module, inputs: Inputs) -> float:
        return made.measure(member, inputs).median_ms

    made = RemoteLatency(
        "latency_ms",
        "ms",
        function,
        measured=True,
        timed=True,
        device=address.rstrip("/"),
        runtime="onnx" if runtime is None else runtime,
        token=token,
        **settings,
    )
    return made


def packed(data: bytes, inputs: Inputs) -> bytes:
    """Return an exported network and its inputs as one safetensors file's bytes."""
    from safetensors.numpy import save

    arrays = {_MODEL: np.frombuffer(data, np.uint8)}
    for number, tensor in enumerate(tensors_in(inputs)):
        arrays[f"input.{number}"] = np.ascontiguousarray(tensor.detach().cpu().numpy())
    return save(arrays)


def unpacked(body: bytes) -> tuple[bytes, list[np.ndarray]]:
    """Return what `packed` has put together; nothing in it is run.

    Raises:
        InputError: the bytes are something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(body)
        data = arrays.pop(_MODEL).tobytes()
        return data, [arrays[f"input.{number}"] for number in range(len(arrays))]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"the body is not an exported network with its inputs ({error}); send what "
            "manynet.latency('http://…') sends, by the same version"
        ) from None
