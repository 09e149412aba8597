"""`run` and `run_config`: everything in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from manynet.config import Config, resolve
from manynet.run._events import Tell, silent
from manynet.run._folder import fresh_folder
from manynet.run._material import HANDED_IN, from_objects
from manynet.run._result import RunResult
from manynet.run._run import run_all
from manynet.search import Quality
from manynet.train import Loss

__all__ = ["run", "run_config"]


def run(
    model: nn.Module | str = "manynet:small_cnn",
    train_data: Any = "digits",
    val_data: Any = None,
    *,
    test_data: Any = None,
    budget: Mapping[str, float] | None = None,
    hours: float | None = None,
    folder: Path | str | None = None,
    quality: Quality | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    elastic: Mapping[str, Any] | None = None,
    train: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    ranking: Mapping[str, Any] | None = None,
    deploy: Mapping[str, Any] | None = None,
    progress: Tell | None = None,
) -> RunResult:
    """Make a family of a model, train it once, find its front, and ship the members that fit.

    Everything is kept in a folder. Stopped at any moment and called again with the same arguments,
    it goes on and ends with the same result; a folder that holds another run is never touched.
    The validation data drives the search; the test data is looked at once, in the end.

    Args:
        model: a network, or the name of one: `torchvision:NAME`, `timm:NAME`, `FILE.py:FUNCTION`
            or `manynet:small_cnn`.
        train_data: what to learn from: a data set, a loader, tensors (inputs, targets), a
            `manynet.data.Data`, or with the name of a model the name of data (see `load_data`).
        val_data: what members are compared on; part of a `Data`, or of data by name.
        test_data: what the shipped members are reported on; may be left out.
        budget: the most that a member may cost, such as `{"latency_ms": 4, "bytes": 1e6}`.
        hours: about how long it may take; the amount of training and searching follows from it.
        folder: where to keep the run; by default `runs/NAME-N` with the first free number.
        quality: what judges a member: by default the accuracy where targets are classes, the
            perplexity of text, and the loss where targets are numbers.
        loss: a function of outputs and targets that returns their mean loss; by default the
            cross-entropy of classes and the squared error of numbers.
        seed: decides every random number.
        device: `"cpu"`, `"cuda"`, or `"auto"` for the best there is.
        threads: of PyTorch; by default as many as it would take.
        elastic: arguments of `manynet.elastic`, and `warmup_epochs`.
        train: arguments of `manynet.train`, by the names of the config's section.
        search: arguments of `manynet.search`, likewise.
        ranking: `archs` to train alone for comparison, and `epochs`.
        deploy: `members`, `formats`, `int8`, `int4`, `fine_tune_epochs`, `tolerance`.
        progress: is called with an `Event` whenever there is news.

    Returns:
        the chosen member, the front, and where the rest is.

    Raises:
        InputError: an argument does not fit, or the folder holds another run.
        BudgetError: no member satisfies the budget; its `nearest` misses by least.
        TraceError: no family can be made of the model.
        TrainingError: training cannot go on.
        StorageError: a file cannot be read or written.

    Example:
        >>> import manynet as mn, tempfile
        >>> little = {"train": {"epochs": 1}, "ranking": {"archs": 0},
        ...           "search": {"evaluations": 4, "latency_samples": 0},
        ...           "deploy": {"formats": ["safetensors"]}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = mn.run("manynet:mlp?widths=[16]", "digits", folder=folder, **little)
        >>> sorted(result.record.costs)
        ['bytes', 'latency_ms', 'macs', 'parameters', 'peak_memory']
    """
    sections = {
        "elastic": elastic,
        "train": train,
        "search": search,
        "ranking": ranking,
        "deploy": deploy,
    }
    named = isinstance(model, str) and isinstance(train_data, str)
    values = {
        "model": model if isinstance(model, str) else f"{type(model).__name__} ({HANDED_IN})",
        "data": train_data if isinstance(train_data, str) else HANDED_IN,
        "budget": dict(budget or {}),
        "hours": hours,
        "seed": seed,
        "device": device,
        "threads": threads,
        **{name: dict(section) for name, section in sections.items() if section},
    }
    config = resolve(values)
    material = None if named else from_objects(config, model, train_data, val_data, test_data)
    path = fresh_folder(config) if folder is None else Path(folder)
    tell = progress or silent
    return run_all(config, path, material=material, quality=quality, loss=loss, tell=tell)


def run_config(
    config: Config, *, folder: Path | str | None = None, progress: Tell | None = None
) -> RunResult:
    """Do the run that a config describes; see `run`.

    Args:
        config: as `manynet.config.resolve` returns it.
        folder: where to keep the run.
        progress: is called with an `Event` whenever there is news.

    Raises:
        InputError: as `run` does, and likewise the other errors.
    """
    path = fresh_folder(config) if folder is None else Path(folder)
    return run_all(config, path, tell=progress or silent)
