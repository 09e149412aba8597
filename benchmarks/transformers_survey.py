"""Which model types of `transformers` become correct families, small, from default configs.

`python benchmarks/transformers_survey.py [MODEL TYPE …]` goes through every type of `AutoModel`'s
mapping. Each is made small by the names of its config's attributes, run on inputs that are found by
the names of its arguments, and checked as `model_coverage.py` checks the named models, in a process
of its own with a limit on time and memory. It adds each result to
`benchmarks/results/transformers_survey.json` as it comes, goes on where it was stopped, and writes
`docs/results/transformers-survey.md`. `--failed` checks again what is no correct family, `--page`
only writes the page, `--seconds` ends a run early, and `--backwards` is for a second run beside
one.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import multiprocessing
import os
import re
import resource
import signal
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is loaded: configs are made, weights are random

import _measure
from _survey_page import write_page

RESULTS = Path(__file__).parent / "results" / "transformers_survey.json"
TIMEOUT_S = 300
"""Of the processor's time: a machine may be shared."""
MEMORY_BYTES = 6 << 30
LARGEST = 60_000_000
"""Parameters of the largest model that is tried."""
_FORK = multiprocessing.get_context("fork")
Result = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", metavar="MODEL TYPE")
    parser.add_argument("--failed", action="store_true", help="check what failed again too")
    parser.add_argument("--page", action="store_true", help="only write the page")
    parser.add_argument("--backwards", action="store_true", help="for a second run beside one")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end after so long")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    if not args.page:
        import _coverage_checks  # noqa: F401  (once, before the processes part)

        chosen = _chosen(args.what, failed=args.failed)
        for name in reversed(chosen) if args.backwards else chosen:
            if time.monotonic() > end:
                break
            if not (args.what or args.failed) and name in _results():  # by a run beside this one
                continue
            result = _in_a_process(name)
            _keep(name, result)
            print(f"{name:<36}{result['stage']:<8}{result['reason'] or 'correct'}", flush=True)
    write_page(_results(), _types())


def _types() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return sorted(MODEL_MAPPING_NAMES)


def _chosen(what: list[str], *, failed: bool) -> list[str]:
    """Return the types to check: those named, else all without a result, or without a good one."""
    types = _types()
    if unknown := set(what) - set(types):
        raise SystemExit(f"no model type {', '.join(sorted(unknown))}")
    results = _results()
    spread = sorted(types, key=lambda name: (hash_of(name), name))  # a part is a fair sample
    again = [n for n in spread if n in results and results[n]["reason"]] if failed else []
    return what or [n for n in spread if n not in results] + again


def hash_of(name: str) -> int:
    """Return a number that spreads names and is the same in every run."""
    import zlib

    return zlib.crc32(name.encode())


# -- one model -------------------------------------------------------------------------------


def _survey(name: str, answer: Connection) -> None:
    """Build, run and check one model type; runs in a process of its own."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S + 5))
    _measure.prepare()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer.send(surveyed(name))


def surveyed(name: str) -> Result:
    """Return what became of one model type: `stage` is how far it came, `reason` why no farther."""
    from _coverage_checks import judged, settle
    from _survey_inputs import NoInputs, runnable
    from manynet._inputs import positional

    errors: list[str] = []
    stage = "build"
    for model, config in _built(name, errors):
        try:
            named = runnable(model, config)
            inputs = positional(model, named)
        except NoInputs as error:
            stage, errors = "run", [str(error)] if stage == "build" else errors
            continue
        result = judged(settle(model).eval(), inputs, deep=True)
        return {"stage": "family", "class": type(model).__name__, "given": list(named)} | result
    return {"stage": stage, "reason": re.sub(r"/\S*/site-packages/", "", errors[0])}


def _built(name: str, errors: list[str]) -> Any:
    """Yield the model of a type from ever larger configs, each with its config."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    from _survey_configs import shrinks, shrunk

    transformers.logging.set_verbosity_error()
    try:
        default = CONFIG_MAPPING[name]()
        found = MODEL_MAPPING[type(default)]
        model_type = found[0] if isinstance(found, tuple) else found
    except Exception as error:
        errors.append(_said(error))
        return
    for by in shrinks(default, model_type):
        try:
            config = without_caches(shrunk(default, by))
            with torch.device("meta"):
                count = sum(p.numel() for p in model_type(config).parameters())
            if count > LARGEST:
                raise ValueError(f"{count:,} parameters are left")
            torch.manual_seed(0)
            yield thawed(model_type(config)).float().eval(), config
        except Exception as error:
            errors.append(_said(error))


def thawed(model: Any) -> Any:
    """Let a model train that its config has frozen as a whole or but for little."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if 2 * trained < sum(p.numel() for p in model.parameters()):
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return model


def without_caches(config: Any) -> Any:
    """Switch caches of keys and values off, in a config and in those inside it."""
    if hasattr(config, "use_cache"):
        config.use_cache = False
    for inner in vars(config).values():
        if hasattr(inner, "model_type"):
            without_caches(inner)
    return config


def _said(error: Exception) -> str:
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[-2:])[:200]}"


def _in_a_process(name: str) -> Result:
    """Return the result of one model type, or why there is none."""
    mine, theirs = _FORK.Pipe(duplex=False)
    process = _FORK.Process(target=_survey, args=(name, theirs))
    process.start()
    theirs.close()
    try:
        return mine.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return {"stage": "family", "reason": f"took more than {TIMEOUT_S} s"}
        return {"stage": "family", "reason": f"ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def _results() -> dict[str, Result]:
    if not RESULTS.is_file():
        return {}
    results: dict[str, Result] = json.loads(RESULTS.read_text())["results"]
    return results


def _keep(name: str, result: Result) -> None:
    with RESULTS.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _measure.write("transformers_survey", {**_results(), name: result})


if __name__ == "__main__":
    main()
