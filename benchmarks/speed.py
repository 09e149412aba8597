"""The ratios R1 to R5 and R7, and the import: `python benchmarks/speed.py [--large] [R1 R2 …]`.

Results go to `benchmarks/results/speed.json`. With `--large`, R1 to R6 of a ViT and of SmolLM2-135M
in fewer rounds, to `speed_large.json`. See `_measure.py` for how ratios are taken.
"""

from __future__ import annotations

import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import _measure
import manynet
from _measure import Ratio, ratio
from _networks import LARGE, NETWORKS, Make

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plan:
    """What is measured: networks, the batches of R1, of a step and of its peak memory, rounds."""

    networks: Mapping[str, Make]
    batches: tuple[int, ...]
    steps: tuple[tuple[str, int], ...]
    peaks: tuple[tuple[str, int], ...]
    rounds: int


SMALL = Plan(
    NETWORKS, (1, 8),
    (("resnet18", 16), ("mobilenet_v3", 16), ("vit_tiny", 16), ("mobilenet_v3", 128)),
    tuple(itertools.product(("resnet18", "mobilenet_v3"), (32, 128))), 11,
)  # fmt: skip
"""128 is what `manynet.train` takes where nothing is said."""
BIG = Plan(LARGE, (1, 4), (("vit_small", 4), ("smollm2", 1)), (("vit_small", 8), ("smollm2", 2)), 5)


def family_of(plan: Plan, name: str) -> tuple[manynet.Family, tuple[Tensor, ...]]:
    model, inputs = plan.networks[name](1)
    return manynet.elastic(model.eval(), inputs, importance=None), inputs


def archs_of(family: manynet.Family) -> dict[str, manynet.Arch]:
    space = family.space
    middle = {c.name: c.values[len(c.values) // 2 - (len(c.values) > 2)] for c in space.choices}
    return {"smallest": space.smallest, "middle": space.arch(middle), "largest": space.largest}


def backward(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    model(*inputs).float().square().mean().backward()


def r1_forward(plan: Plan) -> Mapping[str, Ratio]:
    """A member in its family against the same extracted: forward, forward and backward."""
    results: dict[str, Ratio] = {}
    for name, make in plan.networks.items():
        family, _ = family_of(plan, name)
        for size, arch in archs_of(family).items():
            for batch in plan.batches:
                inputs = make(batch)[1]
                key = f"{name} {size} batch {batch}"
                family.eval()
                member, alone = family.at(arch), family.extract(arch)
                with torch.inference_mode():
                    assert torch.allclose(member(*inputs), alone(*inputs), atol=1e-5)
                    results[f"{key} forward"] = ratio(
                        lambda m=member, x=inputs: m(*x),
                        lambda m=alone, x=inputs: m(*x),
                        rounds=plan.rounds,
                    )
                member, alone = family.train().at(arch), alone.train()
                results[f"{key} forward and backward"] = ratio(
                    lambda m=member, x=inputs: backward(m, x),
                    lambda m=alone, x=inputs: backward(m, x),
                    rounds=plan.rounds,
                )
                show(f"R1 {key}", results[f"{key} forward"])
                show("   and backward", results[f"{key} forward and backward"])
    return results


def r2_switch(plan: Plan) -> Mapping[str, object]:
    """Switching to a member seen before, against one batch-1 forward of the smallest member."""
    results: dict[str, object] = {}
    for name in plan.networks:
        family, inputs = family_of(plan, name)
        family.eval()
        rng = np.random.default_rng(0)
        archs = [family.space.sample(rng) for _ in range(50)]
        with torch.inference_mode():
            smallest = family.at(family.space.smallest)
            for arch in archs:
                family.at(arch)
            turn = itertools.cycle(archs).__next__
            results[name] = ratio(
                lambda at=family.at, turn=turn: at(turn()),
                lambda m=smallest, x=inputs: m(*x),
            )
        show(f"R2 {name}", results[name])
    results["recompilations over 50 archs seen before"] = recompilations()
    print("R2 recompilations over 50 archs seen before:", results[next(reversed(results))])
    return results


def recompilations() -> int:
    """Compile 50 members, then run all of them again: how many new graphs the second pass makes."""
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 4))
    family = manynet.elastic(model.eval(), torch.zeros(2, 16), multiple_of=1,
                             width=tuple(i / 16 for i in range(1, 17)))  # fmt: skip
    rng = np.random.default_rng(0)
    archs = list({family.space.sample(rng) for _ in range(80)})[:50]
    graphs = []

    def count(module: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        graphs.append(1)
        return module.forward

    torch._dynamo.reset()
    x = torch.randn(2, 16)
    with torch._dynamo.config.patch(recompile_limit=256, cache_size_limit=256):
        compiled = {a: torch.compile(family.at(a), backend=count) for a in archs}
        for arch in archs:
            assert torch.allclose(compiled[arch](x), family.extract(arch)(x), atol=1e-6)
        first = len(graphs)
        for arch in archs:
            family.at(arch)
            compiled[arch](x)
    return len(graphs) - first


def r3_extract(plan: Plan) -> Mapping[str, Ratio]:
    """Extracting a member against a deep copy of the extracted member."""
    results = {}
    for name in plan.networks:
        family, _ = family_of(plan, name)
        for size, arch in archs_of(family).items():
            alone = family.extract(arch)
            results[f"{name} {size}"] = ratio(
                lambda f=family, a=arch: f.extract(a), lambda m=alone: copy.deepcopy(m)
            )
            show(f"R3 {name} {size}", results[f"{name} {size}"])
    return results


def r4_bytes(plan: Plan) -> Mapping[str, float]:
    """The family's file with n named members against the file of its largest member."""
    from safetensors.torch import save

    results = {}
    for name in dict(plan.steps):
        family, _ = family_of(plan, name)
        largest = family.extract(family.space.largest)
        tensors = dict([*largest.named_parameters(), *largest.named_buffers()])  # a tied one once
        alone = len(save({k: v.detach().contiguous() for k, v in tensors.items()}))
        rng = np.random.default_rng(0)
        for n in (1, 100):
            family.members = {f"member-{i}": family.space.sample(rng) for i in range(n)}
            with tempfile.TemporaryDirectory() as folder:
                family.save(folder)
                size = sum(path.stat().st_size for path in Path(folder).iterdir())
            results[f"{name} n={n}"] = size / alone
            print(f"R4 {name} n={n}: {size / alone:.4f}")
    return results


def r5_step(plan: Plan) -> Mapping[str, object]:
    """A sandwich step against the four extracted members' own steps, and its peak memory."""
    results: dict[str, object] = {}
    for name, batch in plan.steps:
        model, inputs = plan.networks[name](batch)
        family = manynet.elastic(model.train(), tuple(x[:1] for x in inputs), importance=None)
        space, rng = family.space, np.random.default_rng(0)
        fixed = [space.largest, space.smallest, space.sample(rng), space.sample(rng)]
        alone = [family.extract(arch) for arch in fixed]
        optimizer = torch.optim.SGD(family.parameters(), lr=1e-4, momentum=0.9)
        family.guard(optimizer)
        own = [torch.optim.SGD(m.parameters(), lr=1e-4, momentum=0.9) for m in alone]

        def sandwich(distill: bool, f=family, o=optimizer, a=fixed, x=inputs) -> None:
            o.zero_grad()
            teacher = None
            for arch in a:
                out = f.at(arch)(*x)
                if distill and teacher is not None:
                    loss = functional.kl_div(
                        out.log_softmax(-1), teacher, reduction="batchmean", log_target=True
                    )
                else:
                    loss = out.float().square().mean()
                    teacher = out.detach().log_softmax(-1) if distill else None
                loss.backward()
            o.step()

        def apart(models=alone, optimizers=own, x=inputs) -> None:
            for network, o in zip(models, optimizers, strict=True):
                o.zero_grad()
                backward(network, x)
                o.step()

        for distill in (False, True):
            key = f"{name} batch {batch}" + (" distilled" if distill else "")
            results[key] = ratio(
                lambda d=distill, s=sandwich: s(d), apart, rounds=plan.rounds, least_ms=1
            )
            show(f"R5 {key}", results[key])
    for name, batch in plan.peaks:
        sides = {mode: peak(name, batch, mode) for mode in ("sandwich", "drawn", "largest")}
        for mode, what in (("sandwich", "peak memory"), ("drawn", "peak memory, drawn anew")):
            results[f"{name} batch {batch} {what}"] = sides[mode] / sides["largest"]
        print(f"R5 {name} batch {batch} peak memory: {sides}", flush=True)
    return results


def peak(name: str, batch: int, mode: str) -> float:
    """Return the MiB that ten steps add to a process that has loaded everything.

    What is freed goes back to the system at once, so that no side pays for gaps between blocks.
    """
    done = subprocess.run(
        [sys.executable, str(HERE / "_peak.py"), name, str(batch), mode],
        check=True, capture_output=True, text=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    return float(json.loads(done.stdout)["mib"])


def r7_calibrate() -> Mapping[str, Ratio]:
    """Recalibrating batch-norm over 8 batches against 8 plain forwards."""
    results = {}
    for name in ("resnet18", "mobilenet_v3"):
        family, _ = family_of(SMALL, name)
        batches = [NETWORKS[name](16)[1][0] for _ in range(8)]
        member = family.eval().at(family.space.arch(archs_of(family)["middle"]))

        def forwards(m=member, b=batches) -> None:
            with torch.inference_mode():
                for x in b:
                    m(x)

        results[name] = ratio(
            lambda m=member, b=batches: manynet.calibrate(m, b, batches=8), forwards, least_ms=1
        )
        show(f"R7 {name}", results[name])
    return results


def import_time() -> Mapping[str, Ratio]:
    """`import manynet`, which loads nothing of torch, and all that the main job loads later.

    Both against `import torch`, each in a process of its own.
    """

    def run(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True)

    names = "from manynet import Family, accuracy, elastic, export, macs, search, train"
    results = {}
    for label, code in (
        ("import manynet", "import manynet"),
        ("import torch, manynet", "import torch, manynet"),
        ("the rooms of the main job", names),
    ):
        results[label] = ratio(run(code), run("import torch"), rounds=11, warmups=1, least_ms=1)
        show(label, results[label])
    return results


def show(label: str, result: object) -> None:
    print(f"{label:<52} {result}", flush=True)


def r6_convert(plan: Plan) -> Mapping[str, Ratio]:
    """Making a model elastic against `torch.export.export` of the same model."""
    results = {}
    for name, make in plan.networks.items():
        model, inputs = make(1)
        model.eval()
        results[name] = ratio(
            lambda m=model, x=inputs: manynet.elastic(m, x),
            lambda m=model, x=inputs: torch.export.export(m, x),
            rounds=3, warmups=1, least_ms=1,
        )  # fmt: skip
        show(f"R6 {name}", results[name])
    return results


FAMILY: dict[str, Callable[[Plan], object]] = {
    "R1": r1_forward,
    "R2": r2_switch,
    "R3": r3_extract,
    "R4": r4_bytes,
    "R5": r5_step,
}
PARTS: dict[str, Callable[[], object]] = {
    **{name: partial(part, SMALL) for name, part in FAMILY.items()},
    "R7": r7_calibrate,
    "import": import_time,
}
LARGE_PARTS: dict[str, Callable[[], object]] = {
    name: partial(part, BIG) for name, part in {**FAMILY, "R6": r6_convert}.items()
}


def main() -> None:
    _measure.prepare()
    large = "--large" in sys.argv
    parts, name = (LARGE_PARTS, "speed_large") if large else (PARTS, "speed")
    path = HERE / "results" / f"{name}.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for part in [asked for asked in sys.argv[1:] if asked != "--large"] or parts:
        results[part] = parts[part]()
        _measure.write(name, results)


if __name__ == "__main__":
    main()
