"""A run's folder as `manynet run` leaves it, with figures that could be real."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from manynet._files import write_json
from manynet.deploy import FileRecord, Manifest
from manynet.search import Front, Record, Store
from manynet.space import Arch, Choice, Space

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
CONVOLUTIONS = ["conv1", *(f"{block}.{name}" for block in BLOCKS for name in ("conv1", "conv2"))]


def make_space() -> Space:
    """Return the space of a ResNet-18 that is elastic in width and depth."""
    widths = [Choice(f"{block}.conv1.width", _widths(block)) for block in BLOCKS]
    depths = [Choice(f"layer{stage}.depth", (1, 2)) for stage in (1, 2, 3, 4)]
    return Space((*widths, *depths))


def _widths(block: str) -> tuple[int, ...]:
    full = 16 * 2 ** int(block[5])
    return tuple(full * quarter // 4 for quarter in (1, 2, 3, 4))


def judge(arch: Arch, rng: np.random.Generator) -> Record:
    """Return a record whose quality grows with what the arch costs."""
    size = np.mean([arch[f"{b}.conv1.width"] / _widths(b)[-1] for b in BLOCKS])
    depth = np.mean([arch[f"layer{stage}.depth"] / 2 for stage in (1, 2, 3, 4)])
    macs = round(1.27e6 * (0.12 + 0.88 * size * depth))
    quality = 0.987 - 0.04 * math.exp(-3.2 * macs / 1.27e6) - abs(rng.normal(0, 0.0025))
    bytes_ = round(4 * (9_000 + 160_000 * size**1.4))
    latency = 0.11 + 0.5e-6 * macs * depth**0.5 * rng.normal(1, 0.05)
    costs = {"macs": macs, "bytes": bytes_, "latency_ms": round(latency, 5)}
    return Record(arch, round(quality * 500) / 500, costs)


def make_run(folder: Path, *, judged: int = 240, seed: int = 0) -> Path:
    """Fill `folder` with every file that a page can show and return it."""
    rng, space = np.random.default_rng(seed), make_space()
    archs = [space.smallest, space.largest, *(space.sample(rng) for _ in range(judged - 2))]
    records = [judge(arch, rng) for arch in dict.fromkeys(archs)]
    front = Front.of(records, metric="accuracy")
    folder.mkdir(parents=True, exist_ok=True)
    front.to_json(folder / "front.json")
    with Store(folder / "evaluations.sqlite") as store:
        for record in records:
            store.add(record.arch, {"accuracy": record.quality, **record.costs})
    write_json(folder / "family.json", _family(space))
    (folder / "config.yaml").write_text("model: torchvision:resnet18\ndata: digits\nepochs: 20\n")
    machine = {"cpu": "AMD EPYC 7B13", "cores": 2, "memory_bytes": 8 * 2**30}
    versions = {"manynet": "0.1.0", "torch": "2.14.1", "python": "3.12.3"}
    environment = {"machine": machine, "versions": versions, "seed": 0, "seconds": 87.4}
    write_json(folder / "environment.json", environment)
    _training(folder, rng)
    _measurements(folder, rng, front)
    for name, record in zip(("small", "middle", "large"), front.pick(3), strict=True):
        _member(folder / "members" / name, record)
    return folder


def _family(space: Space) -> dict[str, object]:
    elastic = [[f"{block}.conv1.width", "4 widths"] for block in BLOCKS]
    fixed = [["conv1", "its input is the image"], ["fc", "its output is the classes"]]
    report = {"elastic": elastic, "fixed": fixed, "warnings": []}
    return {"source": "torchvision:resnet18", "space": space.to_json(), "report": report}


def _training(folder: Path, rng: np.random.Generator) -> None:
    lines = []
    for step in range(0, 1200, 3):
        members = {}
        for name, floor in (("largest", 0.05), ("smallest", 0.14), ("random", 0.09)):
            loss = floor + 2.2 * math.exp(-step / 150) * rng.normal(1, 0.08)
            accuracy = min(1.0, 1 - 0.4 * loss + rng.normal(0, 0.012))
            members[name] = {"loss": abs(loss), "accuracy": accuracy}
        line = {"step": step, "epoch": step / 60, "loss": 1.0, "learning_rate": 0.1}
        lines.append(json.dumps(line | {"members": members}))
    (folder / "training.jsonl").write_text("\n".join(lines) + "\n")


def _measurements(folder: Path, rng: np.random.Generator, front: Front) -> None:
    measured = np.linspace(0.16, 0.7, 24)
    predicted = measured * rng.normal(1, 0.05, 24)
    write_json(
        folder / "latency.json",
        {
            "predicted": predicted.tolist(),
            "measured": measured.tolist(),
            "mape": 0.043,
            "tau": 0.94,
            "device": "AMD EPYC 7B13",
            "threads": 1,
        },
    )
    ranked = [
        {
            "arch": dict(record.arch),
            "macs": record.costs["macs"],
            "inherited": record.quality,
            "alone": record.quality + rng.normal(0, 0.002),
        }
        for record in front.pick(5)
    ]
    write_json(folder / "ranking.json", {"tau": 0.8, "members": ranked})
    sizes = {"largest": 1.0, "middle": 0.5, "smallest": 0.25}
    write_json(folder / "layers.json", {"members": {n: _layers(s) for n, s in sizes.items()}})


def _layers(share: float) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for place, path in enumerate(CONVOLUTIONS):
        weights, side = round(580 * 1.35**place * share), 64 // 2 ** (place // 4)
        found.append(
            {"path": path, "type": "Conv2d", "macs": weights * side, "parameters": weights}
        )
        norm = path.replace("conv", "bn")
        found.append({"path": norm, "type": "BatchNorm2d", "macs": 0, "parameters": 64})
    return found


def _member(folder: Path, record: Record) -> None:
    size = int(record.costs["bytes"])
    files = (
        FileRecord.of("model.onnx", "onnx", b"\0" * size, difference=2.4e-7, tolerance=1e-4),
        FileRecord.of("model.safetensors", "safetensors", b"\0" * size),
        FileRecord.of("model.int8.onnx", "onnx-int8", b"\0" * (size // 4), quality=0.9619),
    )
    manifest = Manifest(
        files, dict(record.arch), dict(record.costs), record.quality, metric="accuracy"
    )
    folder.mkdir(parents=True)
    manifest.save(folder / "manifest.json")
