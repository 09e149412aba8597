"""Losses over tokens, a few positions at a time: a vocabulary times a text is a large tensor.

Letters of shapes: `B` batch, `T` tokens, `V` vocabulary, `N` positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from manynet.data import IGNORED
from manynet.train.objectives import Distill, Loss

__all__ = ["DistillTokens", "rows_to_guess", "token_loss"]

_NUMBERS = 1 << 24
"""Logits that are worked on at once."""


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy of the tokens that are to be guessed.

    It serves next tokens and masked ones alike: the targets stand at the positions whose logits
    guess them, and are -100 where nothing is to be guessed. The probabilities are computed a few
    positions at a time, and anew in the backward pass, so they never stand in memory as a whole.

    Shapes: logits `(B, T, V)`, targets `(B, T)`.

    Example:
        >>> token_loss(torch.zeros(1, 2, 4), torch.tensor([[3, -100]]))
        tensor(1.3863)
    """
    (rows,), wanted = rows_to_guess((logits,), targets)
    if not len(wanted):
        return rows.sum() * 0.0
    total = _in_parts(
        lambda a, b: functional.cross_entropy(a.float(), b, reduction="sum"), rows, wanted
    )
    return total / len(wanted)


def rows_to_guess(logits: tuple[Tensor, ...], targets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the rows of logits and the targets at the positions that are to be guessed."""
    kept = (targets != IGNORED).flatten()
    rows = tuple(part.flatten(0, -2) for part in logits)
    wanted = targets.flatten()
    if bool(kept.all()):
        return rows, wanted
    places = kept.nonzero().flatten()
    return tuple(part.index_select(0, places) for part in rows), wanted[places]


def _in_parts(function: Callable[[Tensor, Tensor], Tensor], rows: Tensor, others: Tensor) -> Tensor:
    """Return the sum of `function` over parts of the rows; what it computes is not kept."""
    size = max(1, _NUMBERS // rows.shape[-1])
    total = rows.new_zeros((), dtype=torch.float32)
    for part, other in zip(rows.split(size), others.split(size), strict=True):
        total = total + checkpoint(function, part, other, use_reentrant=False)
    return total


@dataclass(frozen=True)
class DistillTokens(Distill):
    """Distillation of a language model: at each token that is to be guessed, what the teacher says.

    Like `Distill`, with the classes in the last dimension and few positions at a time.

    Example:
        >>> logits, batch = torch.zeros(1, 2, 4), (torch.zeros(1, 2), torch.tensor([[3, -100]]))
        >>> float(DistillTokens()(logits, batch, logits, False))
        0.0
    """

    loss: Loss = token_loss
    dim: int = -1

    def _divergence(self, logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        (own, wanted), tokens = rows_to_guess((logits, teacher), targets)
        if not len(tokens):
            return own.sum() * 0.0
        return _in_parts(self._parted, own, wanted) * (self.temperature**2 / len(tokens))

    def _parted(self, own: Tensor, wanted: Tensor) -> Tensor:
        said = functional.log_softmax(own.float() / self.temperature, dim=-1)
        heard = functional.log_softmax(wanted.float() / self.temperature, dim=-1)
        return functional.kl_div(said, heard, reduction="sum", log_target=True)
