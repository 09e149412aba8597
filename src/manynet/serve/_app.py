"""The HTTP side of a server; imported where the server starts, since it needs FastAPI."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from manynet._version import __version__
from manynet.errors import InputError, ManynetError
from manynet.serve import _wire as wire
from manynet.serve._engine import Closed, Engine, Overload
from manynet.serve._metrics import Metrics

__all__ = ["app_of", "bounded_body", "errors_as_json", "failure", "refusal"]

_PATIENCE = 4
"""How many times the largest body is read before a client that sends more is cut off."""
_LONG = 1 << 16
"""Bytes from which on a body is read aside, so that the loop goes on."""


def app_of(
    engine: Engine, metrics: Metrics, *, max_body: int, describes: dict[str, Any]
) -> FastAPI:
    """Return the app that hands requests to an engine.

    Args:
        engine: answers requests.
        metrics: hears of them.
        max_body: the most bytes of a request.
        describes: what `/members` says beside the members.
    """
    app = FastAPI(
        title="manynet",
        version=__version__,
        description="A family of networks that switches members by latency target and load.",
        docs_url=None,  # its page would be fetched from elsewhere
        redoc_url=None,
    )
    errors_as_json(app)

    @app.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", summary="Whether requests are taken")
    async def ready() -> Response:
        state = "ready" if engine.ready else "not ready"
        return JSONResponse({"status": state}, status_code=200 if engine.ready else 503)

    @app.get("/members", summary="The members to choose from, the best quality last")
    async def members() -> dict[str, Any]:
        return _described(engine, describes)

    @app.get("/metrics", summary="Figures in the format of Prometheus")
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.post(
        "/predict",
        summary="Answer some samples with the member that suits their target and the load",
        openapi_extra={"requestBody": _body(engine)},
        responses=_RESPONSES,
    )
    async def predict(request: Request) -> Response:
        response = await _predict(request, engine, metrics, max_body)
        metrics.requests.labels(str(response.status_code)).inc()
        return response

    return app


async def _predict(request: Request, engine: Engine, metrics: Metrics, max_body: int) -> Response:
    began = time.perf_counter()
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        body = await bounded_body(request, max_body)
        arrays, target = await _parsed(body, kind, engine)
        named = request.query_params.get("latency_ms")
        answer = await asyncio.wrap_future(engine.submit(arrays, wire.target_of(named) or target))
        data, media = wire.render(answer, kind)
    except Exception as error:
        return failure(error)
    metrics.answered(answer, time.perf_counter() - began)
    more = {"X-Manynet": json.dumps(wire.about(answer))} if media != wire.JSON else {}
    return Response(data, media_type=media, headers=more)


async def _parsed(body: bytes, kind: str, engine: Engine) -> Any:
    how = (body, kind, engine.members.takes, engine.batching.max_batch)
    if len(body) > _LONG:
        return await asyncio.to_thread(wire.parse, *how)
    return wire.parse(*how)


async def bounded_body(request: Request, limit: int) -> bytes:
    """Return the body of a request.

    Raises:
        HTTPException: 413: it is longer than `limit` bytes. What is too much is read and thrown
            away for a while, so that a client that is still sending hears the reason.
    """
    told = request.headers.get("content-length", "")
    size = int(told) if told.isdigit() else 0
    parts: list[bytes] = []
    if size <= _PATIENCE * limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size <= limit:
                parts.append(part)
            elif size > _PATIENCE * limit:
                break
    if size > limit:
        raise HTTPException(413, f"the body is larger than {limit:,} bytes; send less at a time")
    return b"".join(parts)


def failure(error: Exception) -> Response:
    """Return what a client is told of an error."""
    if isinstance(error, HTTPException):
        return refusal(error.status_code, str(error.detail))
    if isinstance(error, InputError):
        return refusal(400, str(error))
    if isinstance(error, Overload):
        return refusal(503, str(error), {"Retry-After": str(max(1, round(error.retry_after_s)))})
    if isinstance(error, Closed):
        return refusal(503, str(error), {"Retry-After": "1"})
    if isinstance(error, ManynetError):
        return refusal(500, str(error))
    return refusal(500, f"the server failed: {type(error).__name__}: {error}")


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status_code=status, headers=headers)


def errors_as_json(app: FastAPI) -> None:
    """Let an app tell its own errors, such as an unknown path, as `{"error": …}` too."""

    async def tell(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        known = ", ".join(sorted(app.openapi()["paths"]))
        hint = f"; there is {known}" if error.status_code == 404 else ""
        where = f"{request.method} {request.url.path}"
        return refusal(
            error.status_code, f"{where}: {error.detail}{hint}", dict(error.headers or {})
        )

    app.add_exception_handler(HTTPException, tell)


def _described(engine: Engine, more: dict[str, Any]) -> dict[str, Any]:
    members = [
        {
            "name": one.name,
            "quality": one.quality,
            "costs": dict(one.costs),
            "times_ms": {str(size): round(ms, 4) for size, ms in one.times_ms.items()},
            "arch": dict(one.arch),
        }
        for one in engine.candidates
    ]
    takes = [
        {"name": one.name, "shape": list(one.shape), "dtype": one.dtype}
        for one in engine.members.takes
    ]
    return {
        **more,
        "latency_ms": engine.latency_ms,
        "max_batch": engine.batching.max_batch,
        "pace": round(engine.pace, 3),
        "inputs": takes,
        "members": members,
    }


def _body(engine: Engine) -> dict[str, Any]:
    """Return what `/predict` takes, for OpenAPI."""
    by_name: dict[str, Any] = {}
    for one in engine.members.takes:
        schema: dict[str, Any] = {"type": "number"}
        for size in reversed(one.shape):
            schema = {"type": "array", "items": schema, "minItems": size, "maxItems": size}
        most = engine.batching.max_batch
        by_name[one.name] = {"type": "array", "items": schema, "minItems": 1, "maxItems": most}
    named = {"type": "object", "properties": by_name, "required": list(by_name)}
    bare = list(by_name.values()) if len(by_name) == 1 else []
    target = {"type": "number", "exclusiveMinimum": 0, "description": "Target in milliseconds."}
    document = {
        "type": "object",
        "properties": {"inputs": {"oneOf": [*bare, named]}, "latency_ms": target},
        "required": ["inputs"],
        "additionalProperties": False,
    }
    binary = {"schema": {"type": "string", "format": "binary"}}
    content = {wire.JSON: {"schema": document}, wire.NPY: binary, wire.SAFETENSORS: binary}
    return {"required": True, "content": content}


_ERROR = {"application/json": {"example": {"error": "what is wrong, where, and what to do"}}}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The outputs by name, one row a sample, and who has served.",
        "content": {
            "application/json": {
                "example": {
                    "outputs": {"output": [[0.1, 2.3]]},
                    "member": "1d2cbf1d6a2e",
                    "quality": 0.97,
                    "batch": 4,
                    "waited_ms": 0.8,
                    "compute_ms": 2.1,
                    "target_ms": 10.0,
                    "in_time": True,
                }
            }
        },
    },
    400: {"description": "The request does not fit.", "content": _ERROR},
    413: {"description": "The body is too large.", "content": _ERROR},
    503: {"description": "The queue is full; see Retry-After.", "content": _ERROR},
}
