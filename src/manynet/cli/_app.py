"""The application that the verbs register with, and what `manynet` alone says."""

from __future__ import annotations

from typing import Annotated

import typer

from manynet._version import __version__

__all__ = ["app", "device_app"]

app = typer.Typer(
    name="manynet",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

device_app = typer.Typer(
    help="Time members on the machine where they will run.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(device_app, name="device")


@app.callback(invoke_without_command=True)
def _manynet(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Turn a network into a family that shares its weights, and ship the members that fit.

    `manynet run` does everything. The other verbs do it step by step, each going on from what the
    one before left in the run's folder: train, search, extract, export, report.
    """
    if version:
        typer.echo(f"manynet {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
