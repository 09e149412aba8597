"""One set of weights, many networks.

    import manynet as mn

    family = mn.elastic(model, example_inputs)
    mn.train(family, train_data, epochs=20)
    front = mn.search(family, mn.accuracy(val_data), costs=[mn.macs()])
    small = family.extract(front.best(macs=2e6).arch)
    mn.export(small, "small.onnx", example_inputs)

Each name is loaded when it is first used, so `import manynet` itself takes no time. `cost`,
`elastic`, `run`, `search` and `train` are functions here and also packages, from which
`from manynet.train import Sandwich` takes what they hold.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

from manynet._version import __version__

if TYPE_CHECKING:
    from manynet import errors
    from manynet.bindings import Binding
    from manynet.cost import (
        Cost,
        Latency,
        LatencyPredictor,
        LatencyTable,
        LayerCost,
        bit_operations,
        by_layer,
        cost,
        energy,
        fit_latency,
        kv_cache_bytes,
        latency,
        latency_table,
        live_macs,
        macs,
        nonzeros,
        parameters,
        peak_memory,
        sparse_bytes,
        token_latency,
    )
    from manynet.cost import bytes as bytes_
    from manynet.data import Data, load_data
    from manynet.deploy import (
        Manifest,
        calibrate,
        check_manifest,
        describable,
        export,
        export_member,
        load_program,
        load_weights,
        quantize,
        verify,
    )
    from manynet.elastic import compact, cut, elastic, elastic_bits, replace_head
    from manynet.family import Family, Report
    from manynet.family.apply import bind
    from manynet.family.masks import hold, lift, masks_of, pack_masks, prune
    from manynet.family.settle import settle
    from manynet.models.build import build
    from manynet.models.load import load
    from manynet.report import write_report
    from manynet.run import RunResult, run, run_config
    from manynet.search import (
        Front,
        Metric,
        RayWorkers,
        Record,
        Store,
        Strategy,
        accuracy,
        loss,
        metric,
        perplexity,
        search,
    )
    from manynet.space import Arch, Choice, Constraint, Space
    from manynet.train import (
        Distill,
        DistillOutputs,
        DistillTokens,
        Fixed,
        Objective,
        Prune,
        Sampler,
        Sandwich,
        Shrink,
        Task,
        TaughtBy,
        TrainingLog,
        Uniform,
        accumulate,
        token_loss,
        train,
    )

__all__ = [
    "Arch",
    "Binding",
    "Choice",
    "Constraint",
    "Cost",
    "Data",
    "Distill",
    "DistillOutputs",
    "DistillTokens",
    "Family",
    "Fixed",
    "Front",
    "Latency",
    "LatencyPredictor",
    "LatencyTable",
    "LayerCost",
    "Manifest",
    "Metric",
    "Objective",
    "Prune",
    "RayWorkers",
    "Record",
    "Report",
    "RunResult",
    "Sampler",
    "Sandwich",
    "Shrink",
    "Space",
    "Store",
    "Strategy",
    "Task",
    "TaughtBy",
    "TrainingLog",
    "Uniform",
    "__version__",
    "accumulate",
    "accuracy",
    "bind",
    "bit_operations",
    "build",
    "by_layer",
    "bytes_",
    "calibrate",
    "check_manifest",
    "compact",
    "cost",
    "cut",
    "describable",
    "elastic",
    "elastic_bits",
    "energy",
    "errors",
    "export",
    "export_member",
    "fit_latency",
    "hold",
    "kv_cache_bytes",
    "latency",
    "latency_table",
    "lift",
    "live_macs",
    "load",
    "load_data",
    "load_program",
    "load_weights",
    "loss",
    "macs",
    "masks_of",
    "metric",
    "nonzeros",
    "pack_masks",
    "parameters",
    "peak_memory",
    "perplexity",
    "prune",
    "quantize",
    "replace_head",
    "run",
    "run_config",
    "search",
    "settle",
    "sparse_bytes",
    "token_latency",
    "token_loss",
    "train",
    "verify",
    "write_report",
]

_ROOMS = {
    "family.apply": ("bind",),
    "family.settle": ("settle",),
    "family.masks": ("hold", "lift", "masks_of", "pack_masks", "prune"),
    "bindings": ("Binding",),
    "cost": (
        "Cost",
        "Latency",
        "LatencyPredictor",
        "LatencyTable",
        "LayerCost",
        "bit_operations",
        "by_layer",
        "cost",
        "energy",
        "fit_latency",
        "kv_cache_bytes",
        "latency",
        "latency_table",
        "live_macs",
        "macs",
        "nonzeros",
        "parameters",
        "peak_memory",
        "sparse_bytes",
        "token_latency",
    ),
    "data": ("Data", "load_data"),
    "deploy": (
        "Manifest",
        "calibrate",
        "check_manifest",
        "describable",
        "export",
        "export_member",
        "load_program",
        "load_weights",
        "quantize",
        "verify",
    ),
    "elastic": ("compact", "cut", "elastic", "elastic_bits", "replace_head"),
    "family": ("Family", "Report"),
    "models": ("build", "load"),
    "report": ("write_report",),
    "run": ("RunResult", "run", "run_config"),
    "search": (
        "Front",
        "Metric",
        "RayWorkers",
        "Record",
        "Store",
        "Strategy",
        "accuracy",
        "loss",
        "metric",
        "perplexity",
        "search",
    ),
    "space": ("Arch", "Choice", "Constraint", "Space"),
    "train": (
        "Distill",
        "DistillOutputs",
        "DistillTokens",
        "Fixed",
        "Objective",
        "Prune",
        "Sampler",
        "Sandwich",
        "Shrink",
        "Task",
        "TaughtBy",
        "TrainingLog",
        "Uniform",
        "accumulate",
        "token_loss",
        "train",
    ),
}
_HOME = {name: (room, name) for room, names in _ROOMS.items() for name in names}
_HOME["bytes_"] = ("cost", "bytes")


def __getattr__(name: str) -> object:
    if name in _HOME:
        room, attribute = _HOME[name]
        value: object = getattr(importlib.import_module(f"manynet.{room}"), attribute)
    elif name == "errors":
        value = importlib.import_module("manynet.errors")
    else:
        raise AttributeError(f"module 'manynet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _FrontDoor(types.ModuleType):
    """Keeps `manynet.train` the function when Python imports the package `manynet.train`."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _FrontDoor
