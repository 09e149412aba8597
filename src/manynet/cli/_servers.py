"""The verbs that listen until they are stopped, and tables of latency: serve, device, ui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from manynet.cli._app import app, device_app
from manynet.cli._options import Debug, Host, Json, Port, Quiet, Run
from manynet.cli._outcome import show_result
from manynet.errors import InputError


@app.command()
def serve(
    run: Run,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    latency_ms: Annotated[
        float | None,
        typer.Option(metavar="NUMBER", help="Target of requests that name none, in milliseconds."),
    ] = None,
    members: Annotated[
        int, typer.Option(metavar="COUNT", help="Members of the front to switch between.")
    ] = 8,
    max_batch: Annotated[
        int, typer.Option(metavar="COUNT", help="The most samples of one pass.")
    ] = 16,
    max_wait_ms: Annotated[
        float, typer.Option(metavar="NUMBER", help="How long a request waits for others.")
    ] = 1.0,
    max_queue: Annotated[
        int, typer.Option(metavar="COUNT", help="The most samples that wait.")
    ] = 512,
    max_body_mib: Annotated[
        float, typer.Option(metavar="NUMBER", help="The largest request, in MiB.")
    ] = 16.0,
    threads: Annotated[int, typer.Option(metavar="COUNT", help="Threads of a pass.")] = 1,
    policy: Annotated[
        str, typer.Option(metavar="NAME", help="in_time, largest or FILE.py:FUNCTION.")
    ] = "in_time",
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Serve a run's family over HTTP, switching members.

    The best member serves with which everyone who waits is answered in time: a request names its
    target as latency_ms, and with a longer queue smaller members serve. It ends at Ctrl+C or
    SIGTERM, when those who wait have been answered.
    """
    from manynet.cli._terminal import Screen
    from manynet.serve import Serving, policy_of
    from manynet.serve import serve as start

    settings = Serving(
        members=members,
        latency_ms=latency_ms,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_body_mib=max_body_mib,
        threads=threads,
        policy=policy_of(policy),
    )

    def told(address: str) -> None:
        if not quiet:
            print(f"Serving at {address}, described at {address}/openapi.json", flush=True)

    with Screen(run, quiet=quiet) as screen:
        start(run, host=host, port=port, settings=settings, tell=screen.tell, told=told)


@device_app.command("serve")
def device_serve(
    *,
    host: Host = "127.0.0.1",
    port: Port = 8100,
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Holds the token; else MANYNET_DEVICE_TOKEN does, else one is made and printed.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, or cuda where ONNX Runtime has it.")
    ] = "cpu",
    max_body_mib: Annotated[
        float, typer.Option(metavar="NUMBER", help="The largest exported member, in MiB.")
    ] = 512.0,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Time exported members for other machines, until Ctrl+C or SIGTERM.

    There, mn.latency("http://ADDRESS:8100", token=…) is the cost. Whoever asks must show the token.
    No code of what is sent is run, and no other file is read for it.
    """
    from manynet.serve import Device, new_token, read_token, serve_device

    given = read_token(token_file) if token_file else os.environ.get("MANYNET_DEVICE_TOKEN")
    token = given or new_token()

    def told(address: str) -> None:
        if not given:
            print(f"Token: {token}", flush=True)
        if not quiet:
            print(f"Timing members at {address}", flush=True)

    found = Device(token, max_body_mib=max_body_mib, device=device)
    serve_device(found, host=host, port=port, told=told)


@device_app.command("table")
def device_table(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="The folder of a run or of a saved family; or the file of a table, to be shown.",
            show_default=False,
        ),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write; by default latency-table.json there."),
    ] = None,
    runtime: Annotated[
        str, typer.Option(metavar="NAME", help="torch, onnx or openvino.")
    ] = "torch",
    threads: Annotated[int, typer.Option(metavar="NUMBER", help="Of the runtime.")] = 1,
    seconds: Annotated[float, typer.Option(metavar="NUMBER", help="How long to measure.")] = 60.0,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Time the blocks of a family on this machine, or show a table of such times.

    LatencyTable.load(FILE) is then a cost, here and on any other machine.
    """
    from manynet.cli._terminal import print_table
    from manynet.cost import LatencyTable, latency_table
    from manynet.models.load import load

    if path.is_file():
        table = LatencyTable.load(path)
    else:
        target = out or path / "latency-table.json"
        if target.exists():
            raise InputError(f"{target} is there already; name another file with --out")
        how: dict[str, Any] = {"runtime": runtime, "threads": threads, "time_limit_s": seconds}
        table = latency_table(load(path), **how)
        table.save(target)
    show_result(table.to_json(), as_json, quiet, lambda: print_table(table))


@app.command()
def ui(
    run: Run,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8700,
    export: Annotated[
        bool, typer.Option("--export", help="Let the page export members into the folder.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show a run in the browser while it works, or afterwards.

    Training and search as they happen, the front, a slider for the budget, two members side by
    side, and the exported files. It listens on this machine only, and ends at Ctrl+C.
    """
    from manynet.ui import ui as serve_page

    def ready(address: str) -> None:
        if not quiet:
            typer.echo(f"Open {address} in a browser; stop with Ctrl+C.")
            sys.stdout.flush()

    serve_page(run, host=host, port=port, export=export, ready=ready)
