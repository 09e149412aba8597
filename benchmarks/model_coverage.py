"""Which models become correct families: torchvision, timm, transformers, graph networks and more.

`python benchmarks/model_coverage.py [GROUP or NAME …]` checks every model in a process of its own,
adds each result to `benchmarks/results/coverage.json` as it comes, and writes
`docs/results/coverage.md` from it. It goes on where it was stopped: of a group it checks what is
missing or failed, and a model named alone always. `--again` checks everything anew, `--untimed`
does so without both libraries' turns where their times are stored, `--page` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import _measure
from _coverage_models import GROUPS, cases
from _coverage_page import write_page

RESULTS = Path(__file__).parent / "results" / "coverage.json"
TIMEOUT_S = 900
"""Of the processor's time: a machine may be shared."""
Times = dict[str, Any]
TIMED = ("seconds", "torch-pruning")
_FORK = multiprocessing.get_context("fork")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="GROUP or NAME")
    parser.add_argument("--again", action="store_true", help="check what has a result too")
    parser.add_argument("--untimed", action="store_true", help="keep stored times")
    parser.add_argument("--gib", type=int, default=16, help="memory that a model may take")
    parser.add_argument("--page", action="store_true", help="only write the page")
    args = parser.parse_args()
    if not args.page:
        import _coverage_checks  # noqa: F401  (once, before the processes part)

        for group, name in _chosen(args.what, again=args.again):
            times = _times(group, name) if args.untimed else {}
            result = _in_a_process(group, name, times, args.gib)
            _keep(group, name, result)
            print(f"{group:<27}{name:<36}{result['reason'] or 'correct'}", flush=True)
    write_page(_results())


def _check(group: str, name: str, times: Times, gib: int, answer: Connection) -> None:
    """Check one model and send the result; runs in a process of its own."""
    from _coverage_checks import check

    resource.setrlimit(resource.RLIMIT_DATA, (gib << 30, gib << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S + 5))
    _measure.prepare()
    answer.send(check(cases(group)[name], times))


def _chosen(what: list[str], *, again: bool) -> list[tuple[str, str]]:
    """Return the models to check: all of those named, and of groups what has no good result."""
    results = _results()
    everything = {group: list(cases(group)) for group in GROUPS}
    unknown = set(what) - set(everything) - {n for names in everything.values() for n in names}
    if unknown:
        raise SystemExit(
            f"no group or model {', '.join(sorted(unknown))}; groups: {', '.join(GROUPS)}"
        )
    return [
        (group, name)
        for group, names in everything.items()
        for name in names
        if name in what
        or (
            (not what or group in what)
            and (again or results.get(group, {}).get(name, {}).get("reason", "missing"))
        )
    ]


def _in_a_process(group: str, name: str, times: Times, gib: int) -> dict[str, Any]:
    """Return the result of one model, or why there is none."""
    mine, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_check, args=(group, name, times, gib, theirs))
    process.start()
    theirs.close()
    try:
        return {"reason": "", **mine.recv()}
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return {"reason": f"took more than {TIMEOUT_S} s"}
        return {"reason": f"ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _results() -> dict[str, dict[str, Any]]:
    if not RESULTS.is_file():
        return {}
    results: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())["results"]
    return results


def _times(group: str, name: str) -> Times:
    """Return what is stored of a model's conversion by both libraries; nothing if not of both."""
    row = _results().get(group, {}).get(name, {})
    return {key: row[key] for key in TIMED} if row.keys() >= set(TIMED) else {}


def _keep(group: str, name: str, result: dict[str, Any]) -> None:
    results = _results()
    results.setdefault(group, {})[name] = result
    _measure.write("coverage", results)


if __name__ == "__main__":
    main()
