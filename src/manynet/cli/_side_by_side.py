"""Commands run as processes of their own, some at a time."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence

from manynet.errors import ManynetError

__all__ = ["run_side_by_side"]

POLL = 0.1
"""Seconds between two looks at the processes."""


def run_side_by_side(commands: Sequence[Sequence[str]], workers: int) -> None:
    """Run commands, at most `workers` at a time; what they print is shown as it comes.

    None outlives this call: after an interrupt or a failure the others are asked to end.

    Raises:
        ManynetError: a command has failed; it has said why.
    """
    waiting, running = list(commands), list[subprocess.Popen[bytes]]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(subprocess.Popen(waiting.pop(0)))
            failed = [one for one in running if one.poll() not in (None, 0)]
            if failed:
                raise ManynetError("a process has failed: see what it said above")
            running = [one for one in running if one.poll() is None]
            time.sleep(POLL)
    finally:
        for one in running:
            if one.poll() is None:
                one.terminate()
        for one in running:
            one.wait()
