"""How many of torchvision's classification models become correct families.

`python benchmarks/torchvision_models.py [NAME …]` writes `benchmarks/results/torchvision.json`.
A model counts if its largest member equals the original, and the smallest and five random members
run, train a step, and equal their extraction to 1e-5 in output and gradient.
"""

from __future__ import annotations

import gc
import sys
import time

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import _measure
import manynet

SIZES = {"inception_v3": 299, "maxvit_t": 224, "alexnet": 64}
"""The smallest input that a model accepts, where 64 pixels are not it."""
OPTIONS = {name: {"image_size": 64} for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")}
OPTIONS["vit_h_14"] = {"image_size": 56}
SIZES["vit_h_14"] = 56


def settle(model: nn.Module) -> nn.Module:
    """Give norms, biases and layer scales values that differ, so that an error shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in model.parameters():
            narrow = parameter.dim() == 1 or parameter.numel() == max(parameter.shape)
            if narrow or not parameter.any():
                parameter.add_(torch.rand(parameter.shape, generator=generator), alpha=0.1)
    return model


def plain(out: object) -> Tensor:
    """Return the logits, also of a model that returns auxiliary ones in training."""
    return out if isinstance(out, Tensor) else out[0]


def distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def gradients(model: nn.Module, x: Tensor) -> Tensor:
    torch.manual_seed(0)  # dropout and stochastic depth draw the same
    out = plain(model(x))
    out.square().mean().backward()
    return out.detach()


def check_member(family: manynet.Family, arch: manynet.Arch, x: Tensor) -> dict[str, float]:
    """Return how far a member is from its extraction, in output and in gradient."""
    family.eval()
    with torch.no_grad():
        output = distance(plain(family.at(arch)(x)), plain(family.extract(arch)(x)))
    family.train()
    alone, member = family.extract(arch), family.at(arch)
    family.zero_grad()
    gradients(alone, x)
    gradients(member, x)
    mine = torch.sqrt(sum(p.grad.square().sum() for p in family.parameters() if p.grad is not None))
    theirs = torch.sqrt(
        sum(p.grad.square().sum() for p in alone.parameters() if p.grad is not None)
    )
    optimizer = torch.optim.SGD(family.parameters(), lr=1e-6)
    family.guard(optimizer)
    optimizer.step()
    return {"output": output, "gradient": float((mine - theirs).abs() / theirs.clamp_min(1e-12))}


def check(name: str) -> dict[str, object]:
    size = SIZES.get(name, 64)
    model = settle(torchvision.models.get_model(name, **OPTIONS.get(name, {}))).eval()
    x = torch.randn(2, 3, size, size)
    start = time.perf_counter()
    family = manynet.elastic(model, x)
    seconds = time.perf_counter() - start
    with torch.no_grad():
        largest = distance(plain(family.at(family.space.largest)(x)), plain(model(x)))
    whole = sum(p.numel() for p in model.parameters())
    least = sum(p.numel() for p in family.extract(family.space.smallest).parameters())
    del model
    rng = np.random.default_rng(0)
    archs = [family.space.smallest, *(family.space.sample(rng, by="choice") for _ in range(5))]
    members = [check_member(family, arch, x) for arch in archs]
    worst = max(max(member.values()) for member in members)
    return {
        "correct": largest <= 1e-5 and worst <= 1e-5,
        "largest": largest,
        "members": worst,
        "smallest_share": least / whole,
        "choices": len(family.space.choices),
        "depths": sum(c.name.endswith(".depth") for c in family.space.choices),
        "unknown": [note.name for note in family.report().warnings],
        "seconds": seconds,
    }


def main() -> None:
    _measure.prepare()
    names = sys.argv[1:] or torchvision.models.list_models(module=torchvision.models)
    results: dict[str, object] = {}
    for name in names:
        try:
            results[name] = check(name)
        except Exception as error:  # the list goes on, and the table says what failed
            results[name] = {"correct": False, "error": f"{type(error).__name__}: {error}"}
        print(name, results[name], flush=True)
        gc.collect()
    correct = sum(bool(r["correct"]) for r in results.values())
    print(f"{correct} of {len(results)} are correct families")
    if not sys.argv[1:]:
        _measure.write("torchvision", results)


if __name__ == "__main__":
    main()
