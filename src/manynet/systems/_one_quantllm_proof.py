"""The arms of the proof of One QuantLLM: SmolLM2 with layers of 2 to 4 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from manynet.family import Family
from manynet.fit import bit_sizes, fit_low_bit, reset_adapters
from manynet.search import draw_at, perplexity
from manynet.space import Arch
from manynet.systems._proof import Figures, Proof
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.train import Fixed, Sampler, Uniform

__all__ = ["prove_with"]

STEPS, BATCH, LENGTH, JUDGED = 60, 2, 96, 16
MEANS = (2.0, 2.25, 2.5, 3.0, 3.5, 4.0)
EVALUATIONS, DRAWN, SEARCHED = 60, 20, 2.5
ENDS = (2.0, 2.25, 2.5)


@dataclass(frozen=True)
class _Method:
    """The proof, and the method's two functions."""

    proof: Proof
    train_bits: Callable[..., object]
    search_bits: Callable[..., Arch]


def prove_with(
    proof: Proof, train_bits: Callable[..., object], search_bits: Callable[..., Arch]
) -> None:
    """Compare with shared adapters, with uniform draws, and with adapters trained apart.

    Args:
        proof: runs the arms.
        train_bits: the method's training.
        search_bits: its search.
    """
    method = _Method(proof, train_bits, search_bits)
    proof.run("scheduled", lambda seed: _arm(method, seed, searched=True))
    proof.run("shared uniform", lambda seed: _arm(method, seed, "shared", Uniform()))
    proof.run("own uniform", lambda seed: _arm(method, seed, "own", Uniform()))
    proof.run("apart", lambda seed: _arm(method, seed, "own", apart=True))


@cache
def _family(adapters: Any) -> Family:
    ids = torch.zeros(1, 8, dtype=torch.long)
    family = fit_low_bit(smollm2(), adapters=adapters, example_inputs=(ids,))
    family.cache_bytes = 0  # a member takes half a gigabyte, and none comes twice
    return family


def _arm(
    method: _Method,
    seed: int,
    adapters: str = "own",
    sampler: Sampler | None = None,
    *,
    apart: bool = False,
    searched: bool = False,
) -> Figures:
    """Train one family and judge it at six mean widths."""
    proof = method.proof
    family, text = _family(adapters), wikitext("valid", LENGTH)
    reset_adapters(family, seed)
    family.eval().clear()
    count = proof.share(STEPS)
    if apart:
        for number, width in enumerate((2, 3, 4)):
            only = Fixed(_uniform(family, width))
            method.train_bits(family, text, steps=count // 3, sampler=only, seed=3 * seed + number)
    else:
        method.train_bits(family, text, steps=count, sampler=sampler, seed=seed)
    found = {mean: _judged(proof, family, _member(family, mean)) for mean in MEANS}
    more = {f"loss at {mean:g} bits": value for mean, value in found.items()}
    more["mean loss up to 2.5 bits"] = float(np.mean([found[mean] for mean in ENDS]))
    if searched:
        more |= _searched(method, family, seed)
    trained = sum(p.numel() for p in family.parameters() if p.requires_grad)
    return Figures(float(np.mean(list(found.values()))), count * BATCH, trained, more)


def _uniform(family: Family, width: int) -> Arch:
    return family.space.arch(dict.fromkeys(family.space.names, width))


def _member(family: Family, mean: float, number: int = 0) -> Arch:
    """Return a fixed member of a mean width."""
    rng = np.random.default_rng((int(100 * mean), number))
    return draw_at(family.space, bit_sizes(family), mean, rng)


def _judged(proof: Proof, family: Family, arch: Mapping[str, Any]) -> float:
    text: Any = wikitext("test", 256)
    limit = max(JUDGED // 4, proof.share(JUDGED))
    return math.log(perplexity(text, batch_size=1, limit=limit)(family.at(arch)))


def _searched(method: _Method, family: Family, seed: int) -> dict[str, float]:
    """Search at 2.5 bits on validation text; judge the best and random members on the same."""
    text: Any = wikitext("valid", 256)
    rows: Sequence[int] = range(len(text) - 2, len(text))
    judge = perplexity(torch.utils.data.Subset(text, rows), batch_size=1)
    proof = method.proof
    evaluations, drawn = proof.share(EVALUATIONS), proof.share(DRAWN)
    best = method.search_bits(
        family, judge, bits=SEARCHED, original=smollm2(), evaluations=evaluations, seed=seed
    )
    others = [_member(family, SEARCHED, 1 + n) for n in range(drawn)]
    losses = [math.log(judge(family.at(arch))) for arch in others]
    return {
        "searched at 2.5 bits, validation": math.log(judge(family.at(best))),
        "random at 2.5 bits, validation": float(np.mean(losses)),
        "searched at 2.5 bits, test": _judged(proof, family, best),
        "random at 2.5 bits, test": _judged(proof, family, others[0]),
    }
