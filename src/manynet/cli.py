"""The command line: it parses, calls the library and prints.

Exit codes: 0 done; 1 an error, told in one line; 2 no member satisfies the budget; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from manynet._version import __version__
from manynet.errors import BudgetError, InputError, ManynetError

__all__ = ["app", "main"]

app = typer.Typer(
    name="manynet",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)

Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG",
        help="A YAML file, or the folder of a run to go on with.",
        show_default=False,
    ),
]
Run = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The folder of a run.", show_default=False)
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="torchvision:NAME, timm:NAME, hf:FOLDER, FILE.py:FUNCTION or manynet:small_cnn; "
        "options may follow, as in torchvision:resnet18?num_classes=10.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="digits, cifar10, a folder of images, a .parquet file, hf:NAME, text:FILE or "
        "FILE.py:FUNCTION.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder of the run; by default runs/NAME-N, a new one."),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COST=NUMBER",
        help="The most of a cost, such as macs=2M or latency_ms=4; may be repeated.",
    ),
]
Hours = Annotated[
    float | None,
    typer.Option(metavar="NUMBER", help="About how long to take; epochs and evaluations follow."),
]
Epochs = Annotated[int | None, typer.Option(metavar="COUNT", help="Passes over the training data.")]
Evaluations = Annotated[
    int | None, typer.Option(metavar="COUNT", help="Archs that the search judges.")
]
Strategy = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="How to search: nsga2, linas (with predictors), random …"),
]
Workers = Annotated[
    int | None, typer.Option(metavar="COUNT", help="Members that the search judges at once.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="A running Ray cluster for it: HOST:6379 or auto."),
]
Seed = Annotated[int | None, typer.Option(metavar="NUMBER", help="Decides every random number.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda or auto.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any key of the config, such as train.batch_size=128; may be repeated.",
    ),
]
Name = Annotated[str, typer.Option(metavar="NAME", help="What the member is called.")]
Format = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="onnx, torch, safetensors or transformers; may be repeated.",
    ),
]
Host = Annotated[
    str, typer.Option(metavar="ADDRESS", help="Where to listen; others can reach 0.0.0.0.")
]
Port = Annotated[
    int, typer.Option(metavar="NUMBER", min=0, max=65535, help="0 for any that is free.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


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
    from manynet._terminal import Screen, print_result
    from manynet.run import run_config

    options = _options(locals())
    resolved, folder = _resolved(config, out, options)
    with _resumable("run", folder), Screen(folder, quiet=quiet or as_json) as screen:
        result = run_config(resolved, folder=folder, progress=screen.tell)
    _print(result.summary, as_json, quiet, lambda: print_result(result))


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
    from manynet._terminal import Screen
    from manynet.run import help_launched, train_verb

    if help_launched():
        return

    options = _options(locals())
    resolved, folder = _resolved(config, out, options)
    with _resumable("train", folder), Screen(folder, quiet=quiet or as_json) as screen:
        found = train_verb(resolved, folder, tell=screen.tell)
    text = f"{found['members']:,} members share {found['parameters']:,} weights in {folder}."
    _print(found, as_json, quiet, lambda: typer.echo(f"{text}\nNext: manynet search {folder}"))


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
    from manynet._terminal import Screen, print_front
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

    _print({"folder": str(run), "front": members}, as_json, quiet, show)


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
    from manynet._terminal import print_member
    from manynet.run import extract_verb

    manifest = extract_verb(run, _budget(budget), name)

    def show() -> None:
        print_member(run, name, manifest)
        typer.echo(f"Next: manynet export {run} --name {name} --format onnx")

    _print({"name": name, **manifest.to_json()}, as_json, quiet, show)


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
    from manynet._terminal import print_member
    from manynet.run import export_verb

    manifest = export_verb(run, name, tuple(formats or ("onnx",)))
    shown = {"name": name, **manifest.to_json()}
    _print(shown, as_json, quiet, lambda: print_member(run, name, manifest))


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
    _print({"report": str(page)}, as_json, quiet, lambda: typer.echo(f"Open {page} in a browser."))


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
    from manynet._terminal import Screen
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
    from manynet._terminal import print_table
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
    _print(table.to_json(), as_json, quiet, lambda: print_table(table))


@app.command()
def ui(
    run: Run,
    *,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; others can reach 0.0.0.0.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="NUMBER", min=0, max=65535, help="0 for any that is free.")
    ] = 8700,
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


@app.command()
def systems(as_json: Json = False, debug: Debug = False) -> None:
    """List the published systems: what each claims, and what was measured here."""
    from manynet._catalog_terminal import listing, print_listing
    from manynet.systems import results_folder

    entries = listing(results_folder())
    _print(entries, as_json, False, lambda: print_listing(entries))


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
        float,
        typer.Option(metavar="SHARE", help="Share of the full size; all arms are thinned alike."),
    ] = 1.0,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where the result and finished arms go.")
    ] = Path("results"),
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run the proof of a published system: the method against its baseline at equal cost.

    Stopped at any moment, the same command goes on with the arms that are missing.
    """
    from manynet._catalog_terminal import print_result, telling
    from manynet.systems import Proof, command_of, find
    from manynet.systems import reproduce as prove

    system = find(name)
    silent = quiet or as_json
    proof = Proof(
        seeds=_numbers(seeds),
        budget=share,
        folder=out / "arms" / system.name,
        tell=None if silent else telling,
    )
    with _interruptible(f"{command_of(system, proof)} --out {out}"):
        result = prove(system, proof, out)
    shown = {**asdict(result), "verdict": result.verdict}
    path = out / result.file_name
    _print(shown, as_json, quiet, lambda: print_result(system, result, path))


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {text!r} should be numbers such as 0,1,2") from None


@app.command()
def doctor(as_json: Json = False, debug: Debug = False) -> None:
    """Show what is installed, and what is missing."""
    from manynet._doctor import examine, print_findings

    findings = examine()
    _print(findings, as_json, False, lambda: print_findings(findings))


# -- what the verbs share ----------------------------------------------------------------------

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

    with _interruptible(lambda: f"manynet {verb} {folder}" if is_run(folder) else ""):
        yield


@contextlib.contextmanager
def _interruptible(command: str | Callable[[], str]) -> Iterator[None]:
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


def _print(result: Any, as_json: bool, quiet: bool, show: Callable[[], object]) -> None:
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
        return f"{error.format_message()} See: manynet --help", 1
    return (
        f"{type(error).__name__}: {error} (this is a bug of manynet: please report it to the "
        "project's issues, with what --debug shows)",
        1,
    )


if __name__ == "__main__":
    sys.exit(main())
