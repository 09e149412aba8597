"""What merging the updates of ten clients costs, against reading the same bytes once.

    python benchmarks/federated.py

Each update is 12.4 million floats in the shapes of a ResNet-18, or of one 3/4 or 9/16 as wide. The
read sums every tensor up, which nothing that uses all of the bytes can do without; writing as much
as the result is stands beside it. For comparison: a blocked NumPy loop, the plain way (a sum and,
for unequal widths, a count for each entry), one running mean, and Flower's two aggregates where
Flower is installed. Outputs are compared first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from _measure import Ratio, prepare, ratio, write
from manynet.federate import RunningMean, Update, merge

CLIENTS, CLASSES, BLOCK = 10, 2385, 1 << 16
NESTED = (0, 0, 1, 1, 1, 1, 2, 2, 2, 2)
"""How many times each client's width is cut to three quarters."""
Tensors = dict[str, Tensor]


def shapes(cuts: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a ResNet-18's parameters, at a width of `0.75 ** cuts`."""
    stages = [int(c * 0.75**cuts) for c in (64, 128, 256, 512)]
    found: dict[str, tuple[int, ...]] = {"stem": (stages[0], 3, 7, 7)}
    inputs = stages[0]
    for stage, width in enumerate(stages):
        for block in range(2):
            name = f"{stage}.{block}"
            found[f"{name}.conv1"] = (width, inputs, 3, 3)
            found[f"{name}.conv2"] = (width, width, 3, 3)
            found |= {f"{name}.norm{n}": (width,) for n in range(4)}
            if inputs != width:
                found[f"{name}.shortcut"] = (width, inputs, 1, 1)
                found |= {f"{name}.shortcut_norm{n}": (width,) for n in range(2)}
            inputs = width
    found["head"], found["head_bias"] = (CLASSES, inputs), (CLASSES,)
    return found


def drawn(cuts: Sequence[int]) -> list[Tensors]:
    return [{name: torch.randn(s) for name, s in shapes(cut).items()} for cut in cuts]


def read(updates: Sequence[Tensors]) -> None:
    for update in updates:
        for tensor in update.values():
            tensor.sum()


def write_too(updates: Sequence[Tensors], out: Tensors) -> None:
    """Read the updates and write as much as the result: what no way of merging can do without."""
    read(updates)
    for tensor in out.values():
        tensor.zero_()


def numpy_blocks(updates: Sequence[Tensors], weights: Sequence[float], out: Tensors) -> Tensors:
    total, scratch = sum(weights), np.empty(BLOCK, np.float32)
    shares = [np.float32(weight / total) for weight in weights]
    for name, target in out.items():
        flat = target.view(-1).numpy()
        sent = [update[name].view(-1).numpy() for update in updates]
        for start in range(0, len(flat), BLOCK):
            block = flat[start : start + BLOCK]
            own = scratch[: len(block)]
            np.multiply(sent[0][start : start + BLOCK], shares[0], out=block)
            for piece, share in zip(sent[1:], shares[1:], strict=True):
                np.multiply(piece[start : start + BLOCK], share, out=own)
                block += own
    return out


def counted(updates: Sequence[Tensors], weights: Sequence[float], shared: Tensors) -> Tensors:
    """Merge the plain way: a sum and a count for each entry."""
    result = {}
    for name, own in shared.items():
        total, count = torch.zeros_like(own), torch.zeros_like(own)
        for update, weight in zip(updates, weights, strict=True):
            block = tuple(slice(0, size) for size in update[name].shape)
            total[block].add_(update[name], alpha=weight)
            count[block] += weight
        result[name] = torch.where(count > 0, total / count, own)
    return result


def running(updates: Sequence[Update], together: int) -> Tensors:
    mean = RunningMean(together=together)
    for update in updates:
        mean.add(update)
    return dict(mean.update.tensors)


def flower(
    updates: Sequence[Tensors], weights: Sequence[float]
) -> dict[str, Callable[[], Tensors]]:
    """Return Flower's ways, if it is installed: on arrays, and on the messages of its newer API."""
    try:
        from flwr.app import ArrayRecord, MetricRecord, RecordDict
        from flwr.server.strategy.aggregate import aggregate
        from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
    except ImportError:
        return {}
    names = list(updates[0])
    results = [
        ([update[name].numpy() for name in names], int(weight))
        for update, weight in zip(updates, weights, strict=True)
    ]
    records = [
        RecordDict(
            {"arrays": ArrayRecord(update), "metrics": MetricRecord({"num-examples": weight})}
        )
        for update, weight in zip(updates, weights, strict=True)
    ]

    def arrays() -> Tensors:
        found = aggregate(results)
        return {name: torch.from_numpy(a) for name, a in zip(names, found, strict=True)}

    def messages() -> Tensors:
        found = aggregate_arrayrecords(records, "num-examples").to_torch_state_dict()
        return dict(found)

    return {"flower_arrays": arrays, "flower_messages": messages}


def measure(cuts: Sequence[int]) -> dict[str, Ratio | int]:
    """Measure every way of merging clients of these widths against reading them."""
    tensors, weights = drawn(cuts), [float(100 + n) for n in range(len(cuts))]
    updates = [
        Update(t, w, f"{n:02}") for n, (t, w) in enumerate(zip(tensors, weights, strict=True))
    ]
    shared = {name: torch.zeros(shape) for name, shape in shapes().items()}
    out = {name: torch.zeros(shape) for name, shape in shapes().items()}
    ways: dict[str, Callable[[], Tensors]] = {
        "merge": lambda: merge(shared, updates, out=out),
        "merge_new_memory": lambda: merge(shared, updates),
        "sum_and_count": lambda: counted(tensors, weights, shared),
    }
    if not any(cuts):
        ways |= {
            "running_mean_8": lambda: running(updates, 8),
            "running_mean_1": lambda: running(updates, 1),
            "numpy_blocks": lambda: numpy_blocks(tensors, weights, out),
            **flower(tensors, weights),
        }
    expected = {name: tensor.clone() for name, tensor in counted(tensors, weights, shared).items()}
    found: dict[str, Ratio | int] = {"bytes_sent": sum(update.bytes for update in updates)}
    found["read_and_write"] = ratio(lambda: write_too(tensors, out), lambda: read(tensors))
    print(f"  {'read_and_write':<18} {found['read_and_write']}", flush=True)
    for name, way in ways.items():
        merged = way()
        for key, tensor in expected.items():
            assert torch.allclose(merged[key].float(), tensor, atol=1e-5), (name, key)
        found[name] = ratio(way, lambda: read(tensors))
        print(f"  {name:<18} {found[name]}", flush=True)
    return found


def main() -> None:
    prepare()
    results = {}
    for title, cuts in (("equal", (0,) * CLIENTS), ("nested", NESTED)):
        print(f"{title} widths: time of merging / time of reading")
        results[title] = measure(cuts)
    print(write("federated", results))


if __name__ == "__main__":
    main()
