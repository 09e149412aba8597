"""How well a language model guesses tokens.

Letters in shapes: `B` batch, `T` tokens, `V` vocabulary, `N` positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from manynet._inputs import call, device_of
from manynet.data import IGNORED
from manynet.errors import InputError
from manynet.search.metrics import BatchesOnce, Data, Metric, logits_in

__all__ = ["perplexity"]

_NUMBERS = 1 << 24
"""Logits whose probabilities are computed at once."""


def perplexity(
    data: Data,
    *,
    batch_size: int = 8,
    device: torch.device | str | None = None,
    limit: int | None = None,
) -> Metric:
    """Return the metric `perplexity`: the exponential of the mean loss of a token; less is better.

    Every token that is to be guessed counts the same; -100 among the targets means nothing is. Of
    a model of next tokens it is the perplexity at this length of sequence: the first tokens of a
    sequence are guessed from little, so longer sequences give lower figures. Of a masked model it
    is a pseudo-perplexity, over the masked tokens alone, and compares with its like only. Figures
    of different tokenizers do not compare.

    Args:
        data: `(tokens, targets)` tensors, a data set of such pairs, or a loader of such batches.
        batch_size: sequences a forward pass, where `data` is not batched yet.
        device: where to keep the data; None means where the member is.
        limit: use only the first so many sequences.

    Shapes:
        The member returns logits `(B, T, V)` for targets `(B, T)`.

    Raises:
        InputError: there is no token to guess, or the member returns no logits that fit.

    Example:
        >>> judge = perplexity((torch.zeros(2, 3, 5), torch.ones(2, 3, dtype=torch.long)))
        >>> round(judge(nn.Identity()), 4)
        5.0
    """
    judge = _Guessing(BatchesOnce(data, batch_size, device, limit))
    return Metric("perplexity", judge, higher_is_better=False)


class _Guessing:
    def __init__(self, batches: BatchesOnce) -> None:
        self.batches = batches

    @property
    def fingerprint(self) -> str:
        return self.batches.fingerprint

    @torch.no_grad()
    def __call__(self, member: nn.Module) -> float:
        total, count = 0.0, 0
        for inputs, targets in self.batches.on(device_of(member)):
            part, tokens = _loss(logits_in(call(member, inputs)), targets)
            total, count = total + part, count + tokens
        if not count:
            raise InputError(
                "there is no token to guess in the validation data; give (tokens, targets), as "
                "load_data('text:FILE') does"
            )
        mean = total / count
        return math.exp(mean) if mean < 700 else math.inf


def _loss(logits: Tensor, targets: Tensor) -> tuple[float, int]:
    """Return the summed loss of a batch and how many tokens it is of."""
    if logits.dim() != 3 or logits.shape[:2] != targets.shape:
        raise InputError(
            f"perplexity needs logits (B, T, V) and targets (B, T), and found logits "
            f"{tuple(logits.shape)} and targets {tuple(targets.shape)}"
        )
    rows, wanted = logits.flatten(0, 1), targets.flatten()
    size = max(1, _NUMBERS // rows.shape[-1])
    total = 0.0
    for part, tokens in zip(rows.split(size), wanted.split(size), strict=True):
        total += float(
            nn.functional.cross_entropy(part.float(), tokens, reduction="sum", ignore_index=IGNORED)
        )
    return total, int((wanted != IGNORED).sum())
