"""How a command ends: its result printed, an error in one line, an interrupt with a way on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import typer

from manynet.cli._app import app
from manynet.errors import BudgetError, ManynetError

__all__ = ["Interrupted", "interruptible", "main", "show_result"]


@contextlib.contextmanager
def interruptible(command: str | Callable[[], str]) -> Iterator[None]:
    """Say how to go on after an interrupt; a polite kill is one too."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        again = command if isinstance(command, str) else command()
        kept = f"go on with: {again}" if again else "nothing was written"
        raise Interrupted(f"interrupted; {kept}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupted(Exception):
    """The user has stopped a command; the message says how to go on."""


def show_result(result: Any, as_json: bool, quiet: bool, show: Callable[[], object]) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=1, ensure_ascii=False))
    elif not quiet:
        show()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are told in one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, prog_name="manynet", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `manynet run | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, Exception) as error:
        if "--debug" in arguments and not isinstance(error, Interrupted):
            raise
        message, code = _explained(error)
        print(f"manynet: {' '.join(message.split())}", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _explained(error: BaseException) -> tuple[str, int]:
    """Return what to tell of an error, and the exit code."""
    if isinstance(error, ManynetError):
        return str(error), 2 if isinstance(error, BudgetError) else 1
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return str(error) or "interrupted", 130
    if hasattr(error, "format_message"):  # of the parser of the command line
        context = getattr(error, "ctx", None)
        verb = context.command_path if context is not None else "manynet"
        return f"{error.format_message().rstrip('.')}. See: {verb} --help", 1
    return (
        f"{type(error).__name__}: {error} (this is a bug of manynet: please report it to the "
        "project's issues, with what --debug shows)",
        1,
    )
