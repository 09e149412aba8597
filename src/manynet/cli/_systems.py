"""The verbs of the published systems and of the installation: systems, reproduce, doctor."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from manynet.cli._app import app
from manynet.cli._options import Debug, Json, Quiet
from manynet.cli._outcome import interruptible, show_result
from manynet.cli._side_by_side import run_side_by_side
from manynet.errors import InputError

if TYPE_CHECKING:
    from manynet.systems import Proof, System


@app.command()
def systems(as_json: Json = False, debug: Debug = False) -> None:
    """List the published systems: what each claims, and what was measured here."""
    from manynet.cli._systems_terminal import listing, print_listing
    from manynet.systems import results_folder

    entries = listing(results_folder())
    show_result(entries, as_json, False, lambda: print_listing(entries))


@app.command()
def reproduce(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A system's name or number.", show_default=False)
    ],
    *,
    seeds: Annotated[
        str, typer.Option(metavar="NUMBERS", help="Seeds, separated by commas.")
    ] = "0,1,2",
    share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Share of the full size, up to 1; all arms are thinned alike. "
            "By default one that is meant for half an hour on two cores.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="NUMBER", min=1, help="Seeds at a time, a process for each.")
    ] = 1,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the result and finished arms go.")
    ] = Path("results"),
    arms_only: Annotated[bool, typer.Option("--arms-only", hidden=True)] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the proof of a published system: the method against its baseline at equal cost.

    Stopped at any moment, the same command goes on with the arms that are missing.
    """
    from manynet.cli._systems_terminal import Telling, print_result
    from manynet.systems import Proof, command_of, find
    from manynet.systems import reproduce as prove

    system = find(name)
    silent = quiet or as_json
    proof = Proof(
        seeds=_numbers(seeds),
        budget=system.share if share is None else share,
        folder=out / "arms" / system.name,
        tell=None if silent or workers > 1 else Telling(),
    )
    if arms_only:  # one of several processes: the first of them says how to go on
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        system.prove(proof)
        return
    with interruptible(f"{command_of(system, proof)} --out {out}"):
        if workers > 1:
            alone = [_command_of_one_seed(system, proof, seed, out, silent) for seed in proof.seeds]
            run_side_by_side(alone, workers)
        result = prove(system, proof, out)
    shown = {**asdict(result), "verdict": result.verdict}
    path = out / result.file_name
    show_result(shown, as_json, quiet, lambda: print_result(system, result, path))


def _command_of_one_seed(
    system: System, proof: Proof, seed: int, out: Path, silent: bool
) -> list[str]:
    """Return the command that measures the arms of one seed and keeps them."""
    return [
        *(sys.executable, "-m", "manynet.cli", "reproduce", system.name, "--arms-only"),
        *("--seeds", str(seed), "--share", repr(proof.budget), "--out", str(out)),
        *(["--quiet"] if silent else []),
    ]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text!r} should be numbers such as 0,1,2") from None


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Show what is installed, and what is missing."""
    from manynet.cli._doctor import examine, print_findings

    findings = examine()
    show_result(findings, as_json, False, lambda: print_findings(findings))
