"""One client process of `serve.py`: sends requests at times drawn beforehand, checks each answer.

Times are counted from when a request was due, so that a client that is held up does not hide a
late answer. It imports no torch, so that it takes little of the machine.
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TIMEOUT_S = 30.0


class Client:
    """Connections to one server, kept open and used again."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of the reply to a request."""
        reader, writer = self.free.pop() if self.free else await self._open()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-npy\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        data = await reader.readexactly(int(headers["content-length"]))
        self.free.append((reader, writer))
        return int(lines[0].split()[1]), headers, data

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


class Checker:
    """Tells whether an answer is that of the member named."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            self.images, self.labels = file["images"], file["labels"]
            self.tolerance = float(file["tolerance"])
            self.wanted = {n: file[n] for n in file.files if file[n].ndim == 2}

    def body(self, rows: list[int]) -> bytes:
        """Return a request for some images."""
        file = io.BytesIO()
        np.save(file, self.images[rows])
        return file.getvalue()

    def check(self, rows: list[int], member: str, data: bytes) -> tuple[bool, int]:
        """Return whether the answer is right, and how many labels it hits."""
        found = np.load(io.BytesIO(data))
        right = np.abs(found - self.wanted[member][rows]).max() <= self.tolerance
        return bool(right), int((found.argmax(1) == self.labels[rows]).sum())


async def one(
    client: Client, checker: Checker, path: str, rows: list[int], due: float
) -> dict[str, Any]:
    try:
        sent = client.post(path, checker.body(rows))
        status, headers, data = await asyncio.wait_for(sent, TIMEOUT_S)
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return {"status": type(error).__name__}
    took_ms = 1e3 * (time.monotonic() - due)
    if status != 200:
        return {"status": status, "ms": took_ms}
    told = json.loads(headers["x-manynet"])
    right, hits = checker.check(rows, told["member"], data)
    return {
        "status": 200,
        "ms": took_ms,
        "right": right,
        "hits": hits,
        "member": told["member"],
        "batch": told["batch"],
    }


async def open_loop(plan: dict[str, Any], checker: Checker) -> list[dict[str, Any]]:
    """Send each request when it is due, whatever has become of those before."""
    client, start = Client(plan["port"]), time.monotonic()
    tasks = []
    for at, rows in zip(plan["times"], plan["rows"], strict=True):
        await asyncio.sleep(max(0.0, start + at - time.monotonic()))
        request = one(client, checker, plan["path"], rows, start + at)
        tasks.append(asyncio.create_task(request))
    return list(await asyncio.gather(*tasks))


async def closed_loop(plan: dict[str, Any], checker: Checker) -> list[dict[str, Any]]:
    """Keep some requests under way for some seconds: what the server can take."""
    client, end = Client(plan["port"]), time.monotonic() + plan["seconds"]

    async def keep() -> list[dict[str, Any]]:
        found = []
        while time.monotonic() < end:
            rows = plan["rows"][len(found) % len(plan["rows"])]
            found.append(await one(client, checker, plan["path"], rows, time.monotonic()))
        return found

    lists = await asyncio.gather(*(keep() for _ in range(plan["under_way"])))
    return [reply for replies in lists for reply in replies]


def main() -> None:
    plan = json.loads(sys.stdin.read())
    checker = Checker(Path(plan["wanted"]))
    loop = open_loop if "times" in plan else closed_loop
    json.dump(asyncio.run(loop(plan, checker)), sys.stdout)


if __name__ == "__main__":
    main()
