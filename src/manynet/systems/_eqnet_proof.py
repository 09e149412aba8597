"""The arms of EQ-Net's proof: a small residual network on CIFAR-10, in every form."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from manynet.data import Data, crop_and_flip, load_data
from manynet.deploy import calibrate
from manynet.elastic import elastic_bits, mean_bits, uniform_arch
from manynet.family import Family
from manynet.models import small_cnn
from manynet.search import accuracy
from manynet.space import Arch
from manynet.systems._proof import Figures, Proof
from manynet.train import Task, Uniform, train

__all__ = ["prove_with"]

IMAGES, EPOCHS, BATCH = 10_000, 10, 64
MEMBERS, JUDGED, TEST = 4, 120, 2_000
BITS, SETTINGS = (2, 3, 4, 6, 8), (8, 6, 4, 3, 2)
Train = Callable[..., None]
SearchFor = Callable[..., Sequence[Arch]]


def prove_with(proof: Proof, train_eqnet: Train, search_eqnet: SearchFor) -> None:
    """Compare with the family without each of its two parts, and with a network for each form.

    Args:
        proof: runs the arms.
        train_eqnet: the method's training.
        search_eqnet: its search.
    """
    method = (train_eqnet, search_eqnet)
    proof.run("eqnet", lambda seed: _family_arm(proof, method, seed, {}, searched=True))
    proof.run("no regularization", lambda seed: _family_arm(proof, method, seed, {"penalty": None}))
    proof.run("no guidance", lambda seed: _family_arm(proof, method, seed, {"objective": Task()}))
    proof.run("alone", lambda seed: _alone_arm(proof, train_eqnet, seed))


def _family_arm(
    proof: Proof,
    method: tuple[Train, SearchFor],
    seed: int,
    options: Mapping[str, Any],
    *,
    searched: bool = False,
) -> Figures:
    """Train one family of all forms; judge it in the five uniform settings."""
    data, family = _data(proof.budget, seed), _family(proof.budget, seed, BITS)
    steps = _steps(proof.budget)
    method[0](family, data.train, steps=steps, **_common(seed), **options)
    found = {f"{b} bits": _judged(family, uniform_arch(family.space, b), data) for b in SETTINGS}
    more = _searched(proof, method[1], family, data, seed) if searched else {}
    count = sum(p.numel() for p in family.parameters())
    return _figures(found, more, steps * MEMBERS * BATCH, count)


def _alone_arm(proof: Proof, train_eqnet: Train, seed: int) -> Figures:
    """Train a network for each of the settings, each with a fifth of the passes."""
    data, found, count = _data(proof.budget, seed), {}, 0
    steps = _steps(proof.budget) * MEMBERS // len(SETTINGS)
    alone: dict[str, Any] = {"sampler": Uniform(1), "objective": Task(), "penalty": None}
    for bits in SETTINGS:
        single = _family(proof.budget, seed, bits)
        train_eqnet(single, data.train, steps=steps, **_common(seed), **alone)
        found[f"{bits} bits"] = _judged(single, single.space.largest, data)
        count += sum(p.numel() for p in single.parameters())
    return _figures(found, {}, steps * len(SETTINGS) * BATCH, count)


def _searched(
    proof: Proof, search_eqnet: SearchFor, family: Family, data: Data, seed: int
) -> dict[str, float]:
    """Return the accuracy of the mixed member found for 4 bits; it is chosen on validation."""

    def judge(arch: Arch) -> float:
        return _judged(family, arch, data, "val")

    judged = max(24, round(JUDGED * math.sqrt(proof.budget)))
    archs = search_eqnet(family, judge, bits=4.0, judged=judged, evaluations=1_000, seed=seed)
    best = max([*archs[:8], uniform_arch(family.space, 4)], key=judge)
    return {"mixed at 4 bits": _judged(family, best, data), "its mean bits": mean_bits(best)}


def _common(seed: int) -> dict[str, Any]:
    return {"batch_size": BATCH, "augment": crop_and_flip(), "seed": seed, "clip": 5.0}


def _steps(budget: float) -> int:
    return max(MEMBERS, round(math.sqrt(budget) * EPOCHS) * _images(budget) // BATCH)


def _images(budget: float) -> int:
    """Thin images and epochs alike: both by the root of the budget."""
    return round(math.sqrt(budget) * IMAGES)


@functools.cache
def _data(budget: float, seed: int) -> Data:
    return load_data("cifar10", limit=round(_images(budget) / 0.9), seed=seed)


@functools.cache
def _pretrained(budget: float, seed: int) -> nn.Module:
    """Return the float network that all arms of a seed start from."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.AvgPool2d(2), small_cnn(channels=3)).train()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):  # as the paper's networks: PyTorch's default is uniform
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    family = Family(network)
    options = {**_common(seed), "sampler": Uniform(1), "objective": Task(), "learning_rate": 0.1}
    train(family, _data(budget, seed).train, epochs=EPOCHS, **options)
    return network


def _family(budget: float, seed: int, bits: int | Sequence[int]) -> Family:
    """Return the family of all forms, or for one number of bits that of one form."""
    batch = torch.stack([_data(budget, seed).train[n][0] for n in range(BATCH)])
    network = copy.deepcopy(_pretrained(budget, seed))
    one: dict[str, Any] = {"per": "channel", "symmetric": True, "input_symmetric": True}
    forms = one if isinstance(bits, int) else {}
    return elastic_bits(network, batch, bits=bits, input_bits=bits, **forms)


def _judged(family: Family, arch: Arch, data: Data, part: str = "test") -> float:
    """Return the accuracy in percent, after recalibrating the member's statistics."""
    member = calibrate(family.extract(arch).eval(), data.train, batches=8)
    return 100 * float(accuracy(getattr(data, part), limit=TEST)(member))


def _figures(
    found: Mapping[str, float], more: Mapping[str, float], samples: int, parameters: int
) -> Figures:
    low = float(np.mean([found[f"{bits} bits"] for bits in SETTINGS if bits <= 4]))
    extra = {**found, "2 to 4 bits": low, **more}
    return Figures(float(np.mean(list(found.values()))), samples, parameters, extra)
