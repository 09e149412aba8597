"""R6: making a model elastic, all included, against `torch.export` and Torch-Pruning's graph.

`python benchmarks/conversion.py [NAME …]` writes `benchmarks/results/conversion.json`. The three
take turns on the same model, on one thread; ratios are medians of the rounds. Torch-Pruning
(`pip install torch-pruning`) builds its dependency graph and removes half of every group; it
counts as usable if the pruned model runs, has at most 60 % of the parameters, and is there within
two minutes. Each model is stored as soon as it is measured.
"""

from __future__ import annotations

import contextlib
import copy
import json
import signal
import statistics
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import torch
import torchvision
from torch import nn

import _measure
import manynet
from _measure import ratio

MODELS = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_large", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t", "vgg11",
    "vit_b_32",
)  # fmt: skip


def prune(model: nn.Module, inputs: tuple[object, ...]) -> bool:
    """Halve a copy with Torch-Pruning; return whether it is usable afterwards."""
    import torch_pruning

    model = copy.deepcopy(model)
    whole = sum(p.numel() for p in model.parameters())
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.MagnitudePruner(
        model,
        inputs if len(inputs) > 1 else inputs[0],
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=last,
    )
    pruner.step()
    model(*inputs)
    return sum(p.numel() for p in model.parameters()) <= 0.6 * whole


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise `TimeoutError` after so many seconds."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def usable(model: nn.Module, x: torch.Tensor) -> bool | str:
    try:
        with limited(120):
            return prune(model, (x,))
    except Exception as error:  # the peer's failure is the result
        return f"{type(error).__name__}: {str(error)[:80]}"


def main() -> None:
    _measure.prepare()
    warnings.simplefilter("ignore")
    path = Path(__file__).parent / "results" / "conversion.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for name in sys.argv[1:] or MODELS:
        options = {"image_size": 64} if name == "vit_b_32" else {}
        model = torchvision.models.get_model(name, **options).eval()
        x = torch.randn(1, 3, 64, 64)
        own = ratio(
            lambda m=model, x=x: manynet.elastic(m, x),
            lambda m=model, x=x: torch.export.export(m, (x,)),
            rounds=3, warmups=1, least_ms=1,
        )  # fmt: skip
        peer = usable(model, x)
        theirs = None
        if peer is True:
            theirs = ratio(
                lambda m=model, x=x: prune(m, (x,)),
                lambda m=model, x=x: torch.export.export(m, (x,)),
                rounds=3, warmups=0, least_ms=1,
            )  # fmt: skip
        results[name] = {"manynet": own, "torch-pruning": theirs, "torch-pruning usable": peer}
        print(f"{name:<20} {own}   torch-pruning: {theirs or peer}", flush=True)
        _measure.write("conversion", results)
    rows = json.loads(path.read_text())["results"].values()
    medians = [row["manynet"]["median"] for row in rows]
    print(f"R6 median over {len(medians)} models: {statistics.median(medians):.3f}")


if __name__ == "__main__":
    main()
