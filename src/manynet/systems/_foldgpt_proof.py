"""The arms of the proof of FoldGPT: SmolLM2 without some blocks and with others folded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import torch

from manynet.bindings import neighbors
from manynet.data import batches
from manynet.elastic import Gates, KnownImportance, remove_blocks
from manynet.elastic.importance import block_scores, calibration
from manynet.family import Family
from manynet.search import perplexity
from manynet.systems._proof import Figures, Proof
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.train import (
    Objective,
    Task,
    token_loss,
)

__all__ = ["prove_with"]

REMOVED, FOLDED, LENGTH = 4, range(8, 20), 256
GATE_STEPS, CURE_STEPS, JUDGED, LAYERS = 40, 40, 16, "model.layers"
Fold = Callable[..., Family]
Cure = Callable[..., object]


def prove_with(proof: Proof, fold: Fold, cure: Cure) -> None:
    """Compare gates with influence, each other step with doing without it, and all at equal bytes.

    Args:
        proof: runs the arms.
        fold: the method's sharing.
        cure: the method's training.
    """
    bench = _Bench(proof, fold, cure)
    pairs = neighbors(FOLDED)
    proof.run("foldgpt", lambda seed: bench.arm(seed, "gates", REMOVED, pairs))
    proof.run("influence", lambda seed: bench.arm(seed, "influence", REMOVED + len(pairs)))
    proof.run(
        "labels only", lambda seed: bench.arm(seed, "gates", REMOVED, pairs, Task(token_loss))
    )
    proof.run(
        "strangers folded",
        lambda seed: bench.arm(seed, "gates", REMOVED, strangers(FOLDED, seed), cured=False),
    )
    for by in ("gates", "influence", "random"):
        arm = partial(bench.arm, by=by, count=REMOVED, cured=False)
        proof.run(f"{REMOVED} removed by {by}", arm)


def strangers(blocks: Sequence[int], seed: int) -> list[list[int]]:
    """Return pairs of blocks drawn at random, none of two that follow each other, in order."""
    draw = torch.Generator().manual_seed(seed)
    while True:
        mixed = [blocks[n] for n in torch.randperm(len(blocks), generator=draw).tolist()]
        pairs = [sorted(pair) for pair in neighbors(mixed)]
        if all(last - first > 1 for first, last in pairs):
            return sorted(pairs)


class _Bench:
    """What several arms need is made once: the scores of the blocks for a seed."""

    def __init__(self, proof: Proof, fold: Fold, cure: Cure) -> None:
        self.fold, self.cure = fold, cure
        self.steps = proof.share(CURE_STEPS)
        test: Any = wikitext("test", LENGTH)
        self.judge = perplexity(test, batch_size=1, limit=max(JUDGED // 2, proof.share(JUDGED)))
        self.text, self.seen = wikitext("valid", LENGTH), max(LENGTH // 2, proof.share(LENGTH))
        self.scores = cache(self._scores)

    def _scores(self, seed: int, by: str) -> Mapping[str, float]:
        """Score the blocks, the first is the least; gates and influence see the same batches."""
        model, draw = smollm2(), torch.Generator().manual_seed(seed)
        blocks = [f"{LAYERS}.{n}" for n, _ in model.get_submodule(LAYERS).named_children()]
        if by == "random":
            values = torch.rand(len(blocks), generator=draw).tolist()
            return dict(zip(blocks, values, strict=True))
        text: Any = wikitext("valid", self.seen)
        order = torch.randperm(len(text), generator=draw)[:GATE_STEPS]
        data = calibration(model, list(batches(text, 1, order=order)), None)
        if by == "influence":
            return block_scores(data, blocks, by)
        keep = 1 - REMOVED / len(blocks)
        return block_scores(data, blocks, Gates(keep=keep, steps=GATE_STEPS))

    def arm(
        self,
        seed: int,
        by: str,
        count: int,
        groups: Sequence[Sequence[int]] = ((0,),),
        objective: Objective | None = None,
        *,
        cured: bool = True,
    ) -> Figures:
        """Remove, fold and cure; judge at once and in the end."""
        scores, original = self.scores(seed, by), smollm2()
        ids = torch.zeros(1, 8, dtype=torch.long)
        rest = remove_blocks(original, ids, count, importance=KnownImportance(scores))
        family = self.fold(rest, [[f"{LAYERS}.{n}" for n in group] for group in groups])
        more = {"at once": self.judge(family.eval().at({}))}
        more["stored parameters"] = sum(p.numel() for p in family.parameters())
        value, seen = more["at once"], GATE_STEPS * (by == "gates")
        if cured:
            self.cure(family, original, self.text, steps=self.steps, objective=objective, seed=seed)
            value, seen = self.judge(family.at({})), seen + self.steps
        trained = sum(p.numel() for p in family.parameters() if p.dim() < 2) * cured
        return Figures(value, seen, trained, more)
