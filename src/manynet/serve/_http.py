"""Running an app with uvicorn: in the foreground until a signal, or in a thread for a while."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

from manynet.errors import InputError, MissingExtraError

__all__ = ["background", "foreground", "is_loopback", "needs_serve", "socket_at"]

_GRACE_S = 10


def needs_serve(*more: tuple[str, str, str]) -> None:
    """Refuse to go on where the libraries of the extra `serve` are missing.

    Args:
        more: further ones, each its module, its name and its extra.

    Raises:
        MissingExtraError: one of them is not installed.
    """
    for module, library, extra in (*_LIBRARIES, *more):
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise MissingExtraError(library, extra) from error


_LIBRARIES = (
    ("fastapi", "fastapi", "serve"),
    ("uvicorn", "uvicorn", "serve"),
    ("prometheus_client", "prometheus-client", "serve"),
)


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def socket_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is any that is free.

    Raises:
        InputError: the address is taken, or not one of this machine.
    """
    listening = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(found[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[4])
        listening.listen(512)
    except (OSError, OverflowError) as error:
        if listening is not None:
            listening.close()
        raise InputError(
            f"cannot listen at {host}:{port}: {error}; choose another --host or --port"
        ) from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Return the address of a listening socket."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def foreground(app: Any, listening: socket.socket, told: Callable[[str], object]) -> None:
    """Serve an app until SIGTERM or SIGINT, then answer what is under way and return.

    Args:
        app: an ASGI app.
        listening: from `socket_at`.
        told: hears the address.
    """
    server = _server(app)
    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, server.handle_exit) for number in signals}
    try:
        told(url_of(listening))
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def background(app: Any, listening: socket.socket | None = None) -> Iterator[str]:
    """Serve an app on a thread while the context is open; yields its address."""
    listening = listening or socket_at("127.0.0.1", 0)
    server = _server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield url_of(listening)
    finally:
        server.should_exit = True
        thread.join()


def _server(app: Any) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """One that leaves signals to `foreground`: uvicorn's raises them again in the end."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    config = uvicorn.Config(
        app,
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    return Server(config)
