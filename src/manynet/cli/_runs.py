"""The verbs of a run: run, train, search, extract, export, report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from manynet.cli._app import app
from manynet.cli._options import (
    Budget,
    Config,
    Data,
    Debug,
    Device,
    Epochs,
    Evaluations,
    Format,
    Hours,
    Json,
    Model,
    Name,
    Out,
    Quiet,
    RayAddress,
    Run,
    Seed,
    Set,
    Strategy,
    Workers,
)
from manynet.cli._outcome import interruptible, show_result
from manynet.errors import InputError


@app.command()
def run(
    config: Config = None,
    *,
    model: Model = None,
    data: Data = None,
    budget: Budget = None,
    hours: Hours = None,
    out: Out = None,
    epochs: Epochs = None,
    evaluations: Evaluations = None,
    strategy: Strategy = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    seed: Seed = None,
    device: Device = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Do everything: family, training, search, members, page.

    With nothing named it takes a small network and the digits that scikit-learn carries, and needs
    about 90 seconds. Stopped at any moment, `manynet run FOLDER` goes on and ends with the same
    result.
    """
    from manynet.cli._terminal import Screen, print_result
    from manynet.run import run_config

    options = _options(locals())
    resolved, folder = _resolved(config, out, options)
    with _resumable("run", folder), Screen(folder, quiet=quiet or as_json) as screen:
        result = run_config(resolved, folder=folder, progress=screen.tell)
    show_result(result.summary, as_json, quiet, lambda: print_result(result))


@app.command()
def train(
    config: Config = None,
    *,
    model: Model = None,
    data: Data = None,
    hours: Hours = None,
    out: Out = None,
    epochs: Epochs = None,
    seed: Seed = None,
    device: Device = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a family of a network and train it.

    Several processes may share each step: torchrun --nproc-per-node 2 -m manynet.cli train. Go on
    with `manynet search FOLDER`.
    """
    from manynet.cli._terminal import Screen
    from manynet.run import help_launched, train_verb

    if help_launched():
        return

    options = _options(locals())
    resolved, folder = _resolved(config, out, options)
    with _resumable("train", folder), Screen(folder, quiet=quiet or as_json) as screen:
        found = train_verb(resolved, folder, tell=screen.tell)
    text = f"{found['members']:,} members share {found['parameters']:,} weights in {folder}."
    show_result(found, as_json, quiet, lambda: typer.echo(f"{text}\nNext: manynet search {folder}"))


@app.command()
def search(
    run: Run,
    *,
    evaluations: Evaluations = None,
    strategy: Strategy = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    settings: Set = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the members that no other beats.

    The front is written to front.json and front.csv, and the search goes on where it was stopped.
    Go on with `manynet extract FOLDER --budget macs=2M --name small`.
    """
    from manynet.cli._terminal import Screen, print_front
    from manynet.run import search_verb

    options = _options(locals())
    with _resumable("search", run), Screen(run, quiet=quiet or as_json) as screen:
        front = search_verb(run, options, tell=screen.tell)
    members = [
        {"arch": r.arch.to_json(), "quality": r.quality, "costs": dict(r.costs)} for r in front
    ]

    def show() -> None:
        print_front(front)
        typer.echo(f"Next: manynet extract {run} --budget macs=… --name small")

    show_result({"folder": str(run), "front": members}, as_json, quiet, show)


@app.command()
def extract(
    run: Run,
    *,
    name: Name = "best",
    budget: Budget = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Take the best member within a budget out.

    Its weights go into members/NAME. Go on with `manynet export FOLDER --name NAME`.
    """
    from manynet.cli._terminal import print_member
    from manynet.run import extract_verb

    manifest = extract_verb(run, _budget(budget), name)

    def show() -> None:
        print_member(run, name, manifest)
        typer.echo(f"Next: manynet export {run} --name {name} --format onnx")

    show_result({"name": name, **manifest.to_json()}, as_json, quiet, show)


@app.command()
def export(
    run: Run,
    *,
    name: Name,
    formats: Format = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a member as a verified file.

    The member must have been taken out before, by `manynet extract` or `manynet run`.
    """
    from manynet.cli._terminal import print_member
    from manynet.run import export_verb

    manifest = export_verb(run, name, tuple(formats or ("onnx",)))
    shown = {"name": name, **manifest.to_json()}
    show_result(shown, as_json, quiet, lambda: print_member(run, name, manifest))


@app.command()
def report(
    run: Run,
    *,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the page of a run, report.html."""
    from manynet.run import report_verb

    page = report_verb(run)
    show_result(
        {"report": str(page)}, as_json, quiet, lambda: typer.echo(f"Open {page} in a browser.")
    )


_KEYS = {
    "model": "model",
    "data": "data",
    "hours": "hours",
    "epochs": "train.epochs",
    "evaluations": "search.evaluations",
    "strategy": "search.strategy",
    "workers": "search.workers",
    "ray_address": "search.ray_address",
    "seed": "seed",
    "device": "device",
}


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Return what was given on the command line, by the keys of the config."""
    from manynet.config import parse_assignment

    found = {key: given[name] for name, key in _KEYS.items() if given.get(name) is not None}
    if given.get("budget"):
        found["budget"] = _budget(given["budget"])
    found.update(parse_assignment(text) for text in given.get("settings") or ())
    return found


def _budget(texts: Sequence[str] | None) -> dict[str, float]:
    """Return the costs and limits of `--budget macs=2M`."""
    from manynet.config import parse_number

    found = {}
    for text in [part for one in texts or () for part in one.split(",")]:
        name, separator, number = text.partition("=")
        if not separator or not name.strip():
            raise InputError(f"--budget {text!r} should be COST=NUMBER, such as macs=2M")
        found[name.strip()] = parse_number(number.strip())
    return found


def _resolved(config: Path | None, out: Path | None, options: dict[str, Any]) -> tuple[Any, Path]:
    """Return the config and the folder that a command line means."""
    from manynet.config import read_config, resolve
    from manynet.run import fresh_folder, saved_config

    if config is None or not config.is_dir():
        values = {} if config is None else read_config(config)
        resolved = resolve(values, options)
        return resolved, out or fresh_folder(resolved)
    if out is not None and out != config:
        raise InputError(f"{config} is a run's folder already; leave --out {out} away")
    return resolve(saved_config(config).to_dict(), options), config


@contextlib.contextmanager
def _resumable(verb: str, folder: Path) -> Iterator[None]:
    """Say how to go on with a run after an interrupt."""
    from manynet.run import is_run

    with interruptible(lambda: f"manynet {verb} {folder}" if is_run(folder) else ""):
        yield
