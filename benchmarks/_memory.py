"""Peak memory and time of one conversion, in a process of its own: `_memory.py MODEL copy|inplace`.

Prints what the conversion added, at its peak, to what the process held when the model was loaded.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import manynet
from _measure import forget_peak, held_mib, peak_mib
from manynet.errors import InputError

Loaded = tuple[nn.Module, tuple[Any, ...]]


def _torchvision(name: str) -> Loaded:
    import torchvision

    return torchvision.models.get_model(name), (torch.zeros(1, 3, 224, 224),)


def _smollm2() -> Loaded:
    try:
        from manynet.systems._smollm2 import smollm2

        return smollm2(), (torch.arange(16)[None],)
    except (ImportError, InputError) as error:
        _skip(str(error))


MODELS: dict[str, Callable[[], Loaded]] = {
    "resnet50": lambda: _torchvision("resnet50"),
    "vit_b_16": lambda: _torchvision("vit_b_16"),
    "SmolLM2-135M": _smollm2,
}


def _skip(why: str) -> None:
    print(json.dumps({"skipped": why}))
    sys.exit()


def main() -> None:
    torch.set_num_threads(1)
    name, mode = sys.argv[1:]
    model, inputs = MODELS[name]()
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}
    own = sum(tensor.nbytes for tensor in tensors.values()) / 2**20
    del tensors
    manynet.elastic(nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 2)), torch.zeros(1, 8))  # imports
    before = held_mib()
    forget_peak()
    start = time.perf_counter()
    family = manynet.elastic(model.eval(), inputs, inplace=mode == "inplace")
    seconds = time.perf_counter() - start
    converted = peak_mib() - before
    held = held_mib() - before
    family.extract(family.space.smallest)
    result = {
        "model_mib": own,
        "peak_mib": converted,
        "peak_ratio": converted / own,
        "held_ratio": held / own,
        "seconds": seconds,
        "choices": len(family.space.choices),
    }
    print(json.dumps({key: round(value, 3) for key, value in result.items()}))


if __name__ == "__main__":
    main()
