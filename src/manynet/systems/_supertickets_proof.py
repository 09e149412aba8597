"""What the proof of SuperTickets trains and measures."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from manynet.cost import live_macs, macs, nonzeros
from manynet.data import crop_and_flip, load_data
from manynet.deploy import calibrate
from manynet.family import Family
from manynet.family.masks import fixed_masks, masks_of
from manynet.models import atomic_cnn
from manynet.search import accuracy
from manynet.systems._proof import Figures, Proof
from manynet.train import Fixed, Prune, Task, train

__all__ = ["prove_with"]

IMAGES, TEST, SIZE, EPOCHS, BATCH = 4_000, 3_000, 24, 12, 32
TARGET, LEFT = 0.9, 0.6
RATE, STRENGTH, THRESHOLD = 0.1, 0.005, 1e-2
TUNED = 6
Method = tuple[Callable[..., Family], Callable[..., float], Callable[..., Family]]


def prove_with(
    proof: Proof,
    ticket_family: Callable[..., Family],
    train_supertickets: Callable[..., float],
    transfer: Callable[..., Family],
) -> None:
    """Compare with sticky masks, with search before pruning, with no search; then transfer."""
    method = ticket_family, train_supertickets, transfer
    both = {"every": 1, "last": 9}
    proof.run("supertickets", lambda seed: _arm(proof, method, seed, both))
    proof.run("sticky", lambda seed: _arm(proof, method, seed, both, mode="sticky"))
    once = {"every": 6, "rise": TARGET, "fix": 0.5}
    apart = {"every": 1, "last": 6}
    proof.run("search, then prune", lambda seed: _arm(proof, method, seed, apart, **once))
    proof.run("no search", lambda seed: _arm(proof, method, seed, None))
    proof.run("transfer", lambda seed: _transfer_arm(proof, method, seed, False))
    proof.run("transfer, random mask", lambda seed: _transfer_arm(proof, method, seed, True))


def _arm(
    proof: Proof, method: Method, seed: int, shrink: Mapping[str, Any] | None, **how: Any
) -> Figures:
    """Train one ticket; all but the first arm leave as many weights as that did, exactly."""
    first = proof.arms.get("supertickets", ())
    left = {one.seed: int(one.more["nonzeros"]) for one in first}.get(seed)
    parts = _data(proof.budget, seed)
    family = _ticket(method, parts["train"], 10, seed, shrink, left=left, **how)
    return _figures(family, parts, len(parts["train"][0]) * EPOCHS)


def _ticket(
    method: Method,
    samples: tuple[Tensor, Tensor],
    classes: int,
    seed: int,
    shrink: Mapping[str, Any] | None,
    **how: Any,
) -> Family:
    make, search, _ = method
    torch.manual_seed(seed)
    family = make(atomic_cnn(classes).train(), torch.zeros(2, 3, SIZE, SIZE))
    rule = Prune(**{"target": TARGET, "fix": 0.75, **how})
    if shrink is not None:
        shrink = {"target": LEFT, "threshold": THRESHOLD, "least": 0.0, **shrink}
    options = {"strength": STRENGTH, "learning_rate": RATE, **_common(seed)}
    search(family, samples, epochs=EPOCHS, shrink=shrink, prune=rule, **options)
    return family


def _transfer_arm(proof: Proof, method: Method, seed: int, random: bool) -> Figures:
    """Fine-tune the ticket of five classes on the others, or fresh weights under random masks."""
    first, second = (_half(_data(proof.budget, seed), n) for n in (0, 1))
    ticket = _first_ticket(proof.budget, method, seed)
    torch.manual_seed(seed + 1)
    family = method[2](ticket, nn.Linear(96, 5))
    if random:
        for module in family.shared.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None and all(p.numel() for p in module.parameters(recurse=False)):
                reset()
        _shuffle_masks(family, seed)
    before = masks_of(family, {})
    train(
        family,
        second["train"],
        epochs=TUNED,
        sampler=Fixed({}),
        objective=Task(),
        weight_decay=1e-5,
        learning_rate=RATE,
        **_common(seed),
    )
    assert all(torch.equal(mask, before[name]) for name, mask in masks_of(family, {}).items())
    samples = len(second["train"][0]) * TUNED
    return _figures(family, second, samples + len(first["train"][0]) * EPOCHS)


@functools.cache
def _first_ticket(budget: float, method: Method, seed: int) -> Family:
    """Return the ticket of the first five classes, which all arms of a transfer begin with."""
    samples = _half(_data(budget, seed), 0)["train"]
    return _ticket(method, samples, 5, seed, {"every": 1, "last": 9})


@torch.no_grad()
def _shuffle_masks(family: Family, seed: int) -> None:
    """Give each layer a random mask with as many entries as its own."""
    generator = torch.Generator().manual_seed(seed)
    shared = family.state_dict()
    for keep in fixed_masks(family).values():
        mask = shared[keep]
        order = torch.randperm(mask.numel(), generator=generator)
        mask.copy_(mask.flatten()[order].view_as(mask))


def _common(seed: int) -> dict[str, Any]:
    shift = crop_and_flip(3)

    def augment(images: Tensor) -> Tensor:  # channels last: a third less time
        return shift(images).contiguous(memory_format=torch.channels_last)

    return {"batch_size": BATCH, "augment": augment, "seed": seed, "clip": 5.0}


Parts = Mapping[str, tuple[Tensor, Tensor]]


@functools.cache
def _data(budget: float, seed: int) -> Parts:
    """Return the images of each part as numbers, with their labels."""
    count = round(budget * IMAGES)
    data: Any = load_data("cifar10", image_size=SIZE, limit=round(count / 0.9), seed=seed)
    return {
        "train": data.train.batch(torch.arange(len(data.train))),
        "val": data.val.tensors,
        "test": tuple(tensor[:TEST] for tensor in data.test.tensors),
    }


def _half(parts: Parts, number: int) -> Parts:
    """Return the samples of five of the ten classes, with labels from 0."""
    low = 5 * number
    chosen = {n: (y >= low) & (y < low + 5) for n, (_, y) in parts.items()}
    return {n: (x[chosen[n]], y[chosen[n]] - low) for n, (x, y) in parts.items()}


def _figures(family: Family, parts: Parts, samples: int) -> Figures:
    member = calibrate(family.extract({}).eval(), parts["train"][0], batches=10)
    inputs = torch.zeros(1, 3, SIZE, SIZE)
    found = {name: 100 * float(accuracy(parts[name])(member)) for name in ("val", "test")}
    more = {
        "validation": found["val"],
        "nonzeros": float(sum(int(mask.sum()) for mask in masks_of(family, {}).values())),
        "MACs": macs()(member, inputs),
        "MACs of nonzeros": live_macs()(member, inputs),
        "nonzeros with norms and biases": nonzeros()(member, inputs),
    }
    return Figures(found["test"], samples, sum(p.numel() for p in family.parameters()), more)
