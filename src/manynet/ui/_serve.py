"""Opening a port and serving the live page until it is stopped."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from pathlib import Path

from manynet.errors import InputError, MissingExtraError
from manynet.run import is_run

__all__ = ["LOOPBACK", "ui"]

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def ui(
    folder: Path | str,
    *,
    host: str = "127.0.0.1",
    port: int = 8700,
    export: bool = False,
    ready: Callable[[str], object] | None = None,
) -> None:
    """Serve the live page of a run until the process is interrupted.

    The page follows the run's folder while it trains and searches, and works on a finished one. It
    needs no network, and only reads.

    Args:
        folder: the run's folder.
        host: the address to listen on; any other than the default lets other machines in, and
            there is no password.
        port: the port to listen on; 0 takes one that is free.
        export: let the page export members into the folder, as `manynet extract` does.
        ready: called with the page's address when it can be opened.

    Raises:
        InputError: there is no run in the folder, or the port is taken or out of range.
        MissingExtraError: FastAPI and uvicorn, or plotly, are not installed.
    """
    folder = Path(folder)
    if not is_run(folder):
        raise InputError(
            f"{folder} holds no run (there is no config.yaml in it); give the folder of a run, "
            "or begin one with `manynet run --out FOLDER`"
        )
    try:
        import uvicorn

        from manynet.ui._app import make_app
    except ImportError as error:
        missing = error.name or "fastapi"
        raise MissingExtraError(missing.partition(".")[0], "serve") from error

    with contextlib.closing(_listening(host, port)) as listener:
        found = listener.getsockname()[1]
        app = make_app(folder, host=host, export=export)
        shown = f"[{host}]" if ":" in host else host
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        if ready is not None:
            ready(f"http://{shown}:{found}")
        with contextlib.suppress(KeyboardInterrupt):  # that is how it is stopped
            uvicorn.Server(settings).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise InputError(f"the port {port} must lie between 0 and 65535")
    try:
        where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(where[0], socket.SOCK_STREAM)
    except OSError as error:
        raise InputError(f"there is no address {host!r} here: {error.strerror or error}") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where[4])
        listener.listen(64)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        why = "it is taken" if taken else error.strerror or str(error)
        raise InputError(
            f"cannot listen on {host}:{port}: {why}; try another one with --port, or --port 0 for "
            "any that is free"
        ) from error
    return listener
