"""What a computed binding costs: a training step, a forward in eval mode, and peak memory.

`python benchmarks/bindings.py [--only step|eval|memory] [RECIPE …]` binds the linear weights of the
blocks of a ViT-tiny and of a GPT-tiny, one recipe after the other, and measures the only member's
step (forward, backward, SGD with momentum) at batch 32 against that of a plain module of the same
shapes; the member's forward in eval mode, where its weights are folded; and what ten steps add to a
process, each side in one of its own, imports left out. Results go to
`benchmarks/results/bindings.json`; what is not measured stays.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

import _measure
import manynet
from _measure import forget_peak, held_mib, peak_mib, ratio
from _networks import NETWORKS
from manynet.bindings import recipes
from manynet.bindings.recipes import Recipe
from manynet.family import Family

BATCH = 32
NAMES = ("vit_tiny", "gpt_tiny")
PARTS = ("step", "eval", "memory")
WEIGHTS = ("*att*n.*weight", "*mlp.*weight")
RECIPES: dict[str, tuple[Callable[[], Recipe], float]] = {
    "mask": (recipes.masked, 1.10),
    "tie": (lambda: recipes.tied(scale=True), 1.10),
    "mix": (lambda: recipes.mixed(4), 1.10),
    "shard": (lambda: recipes.sharded(2048, 96), 1.10),
    "compand": (recipes.companded, 1.10),
    "quantize": (lambda: recipes.quantized(8), 1.25),
    "generate": (lambda: recipes.generated(chunk=4096), 1.25),
}
"""By name: what is bound how, and how much longer a step may take."""


def bound(name: str, recipe: str) -> tuple[Family, tuple[torch.Tensor, ...]]:
    """Return a network as a family of one member with bound weights, and inputs for it."""
    torch.manual_seed(0)
    model, inputs = NETWORKS[name](BATCH)
    return manynet.bind(model, WEIGHTS, RECIPES[recipe][0]()), inputs


def stepper(
    network: nn.Module, weights: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> Callable[[], None]:
    """Return a function that runs one training step."""
    optimizer = torch.optim.SGD(weights.parameters(), lr=1e-5, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        get = network if isinstance(network, Family) else None
        member = network if get is None else get.at({})
        member(*inputs).float().square().mean().backward()
        optimizer.step()

    return step


def measure(name: str, recipe: str, parts: Sequence[str]) -> dict[str, object]:
    """Return the chosen figures of one network under one recipe."""
    found: dict[str, object] = {"limit": RECIPES[recipe][1]}
    if "memory" in parts:
        found["memory"] = peak(name, recipe) / peak(name, "plain")
    family, inputs = bound(name, recipe)
    plain = copy.deepcopy(family.extract({}))
    outputs = family.eval().at({})(*inputs)
    assert torch.allclose(outputs, plain.eval()(*inputs), atol=1e-5), (name, recipe)
    if "eval" in parts:
        with torch.inference_mode():
            member = family.at({})
            found["eval"] = ratio(lambda: member(*inputs), lambda: plain(*inputs), least_ms=250)
    if "step" in parts:
        found["step"] = ratio(
            stepper(family.train(), family, inputs), stepper(plain.train(), plain, inputs),
            least_ms=1,
        )  # fmt: skip
    print(f"{recipe:9} {name:9}", *(f"{part} {found[part]}" for part in parts), flush=True)
    return found


@functools.cache
def peak(name: str, side: str) -> float:
    """Return the MiB that a process holds at most while it takes ten steps, beyond its start."""
    command = [sys.executable, __file__, "--peak", name, side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _peak(name: str, side: str) -> None:
    NETWORKS[name](1)  # what is imported counts for neither side
    small = manynet.bind(nn.Linear(4, 4), "weight", recipes.masked())
    stepper(small, small, (torch.zeros(1, 4),))()
    before = held_mib()
    if side == "plain":
        network, inputs = NETWORKS[name](BATCH)
    else:
        network, inputs = bound(name, side)
    step = stepper(network.train(), network, inputs)
    held_mib()  # gives back what making them has freed
    forget_peak()
    for _ in range(10):
        step()
    print(peak_mib() - before)


def main() -> None:
    _measure.prepare()
    if sys.argv[1:2] == ["--peak"]:
        _peak(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help=", ".join(RECIPES))
    parser.add_argument("--only", choices=PARTS, help="what to measure; by default all")
    args = parser.parse_args()
    stored = Path(__file__).parent / "results" / "bindings.json"
    results = json.loads(stored.read_text())["results"] if stored.is_file() else {}
    for recipe in args.recipes or RECIPES:
        for name in NAMES:
            found = measure(name, recipe, [args.only] if args.only else PARTS)
            results[f"{recipe} {name}"] = {**results.get(f"{recipe} {name}", {}), **found}
            _measure.write("bindings", results)


if __name__ == "__main__":
    main()
