"""The addresses of the live page: itself, its scripts, its state, and the files to download.

Imported where the server starts, since it needs FastAPI.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware

from manynet.errors import InputError, ManynetError
from manynet.report.live import Live
from manynet.ui._export import Exporter

__all__ = ["make_app"]

_HEADERS = {
    "Content-Security-Policy": Live.policy,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(folder: Path, *, host: str = "127.0.0.1", export: bool = False) -> FastAPI:
    """Return the live page of a run as an ASGI application.

    Requests that name another host than the one it listens on are refused, so that no page from
    elsewhere can read it through the reader's own browser.

    Args:
        folder: the run's folder.
        host: the address it is served on; `0.0.0.0` and `::` answer to any name.
        export: whether the page may export members.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    live, exporter = Live(folder), Exporter(folder, allowed=export)
    scripts = {name: live.script(name).encode() for name in ("plotly", "page", "live")}
    app = FastAPI(title="manynet ui", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=_names(host))
    app.add_exception_handler(ManynetError, _told)
    app.middleware("http")(_guarded)

    def state() -> dict[str, Any]:
        found = live.state()
        return found | exporter.state(str(found["revision"]))

    @app.get("/")
    def page() -> Response:
        return HTMLResponse(live.page(state()), headers={"Cache-Control": "no-store"})

    @app.get("/{name}.js")
    def script(name: str) -> Response:
        if name not in scripts:
            return _absent(f"{name}.js")
        return Response(scripts[name], media_type="text/javascript")

    @app.get("/api/state")
    def news(since: str = "") -> Response:
        found = state()
        if found["revision"] == since:
            return Response(status_code=204)
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    @app.post("/api/export")
    async def begin(request: Request) -> Response:
        exporter.begin(await _json(request))
        return JSONResponse({"started": True}, 202)

    @app.get("/{address:path}")
    def file(address: str) -> Response:
        path = live.files().get(quote(address))
        if path is None:
            return _absent(address)
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return FileResponse(path, media_type=kind, filename=path.name)

    return app


async def _guarded(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await go_on(request)
    response.headers.update(_HEADERS)
    return response


async def _told(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


async def _json(request: Request) -> Any:
    """Return what was posted; only a page of ours can send this type without being asked first."""
    if request.headers.get("content-type") != "application/json":
        raise InputError("send JSON, with the content type application/json")
    try:
        return await request.json()
    except ValueError:
        raise InputError("send JSON; this is none") from None


def _absent(address: str) -> Response:
    text = f"there is no file {address!r} here; / lists the exported members"
    return JSONResponse({"error": text}, 404)


def _names(host: str) -> list[str]:
    if host in {"0.0.0.0", "::"}:
        return ["*"]
    return [host, "localhost", "127.0.0.1", "[::1]"]
