"""The HTTP side of a device server; imported where it starts, since it needs FastAPI."""

from __future__ import annotations

import asyncio
import hmac
import threading
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from manynet._version import __version__
from manynet.cost import Latency
from manynet.serve._app import bounded_body, errors_as_json, failure, refusal
from manynet.serve._device import Device, report_of, settings_of
from manynet.serve._engine import Overload

__all__ = ["device_app"]

_MIB = 1 << 20


def device_app(device: Device) -> FastAPI:
    """Return the app of a device server."""
    app = FastAPI(
        title="manynet device", version=__version__, docs_url=None, redoc_url=None, openapi_url=None
    )
    errors_as_json(app)
    busy = threading.Lock()

    def timed(body: bytes, settings: dict[str, Any]) -> Latency:
        if not busy.acquire(blocking=False):
            raise Overload("another network is being timed; try again", 1.0)
        try:
            return device.time(body, settings)
        finally:
            busy.release()

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/device")
    async def describe(request: Request) -> Response:
        if not _known(request, device):
            return _unknown()
        return JSONResponse(device.described())

    @app.post("/time")
    async def time(request: Request) -> Response:
        if not _known(request, device):
            return _unknown()
        try:
            settings = settings_of(dict(request.query_params))
            body = await bounded_body(request, int(device.max_body_mib * _MIB))
            return JSONResponse(report_of(await asyncio.to_thread(timed, body, settings)))
        except Exception as error:
            return failure(error)

    return app


def _known(request: Request, device: Device) -> bool:
    """Whether a request shows the token; it is compared in a time that tells nothing of it."""
    shown = request.headers.get("authorization", "").encode("latin-1", "replace")
    return hmac.compare_digest(shown, f"Bearer {device.token}".encode())


def _unknown() -> Response:
    message = "this needs the device's token, as Authorization: Bearer TOKEN"
    return refusal(401, message, {"WWW-Authenticate": "Bearer"})
