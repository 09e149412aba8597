"""Distillation at the end of a network only: what it says, and what it says it from.

Letters of shapes: `B` batch, `T` tokens, `D` model width, `N` positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from manynet.data import Batch
from manynet.errors import InputError
from manynet.train.tokens import DistillTokens, rows_to_guess

__all__ = ["DistillTail", "last_hidden", "showing_hidden_states"]


def last_hidden(outputs: object) -> Tensor:
    """Return the last of the `hidden_states` that a model of `transformers` returns.

    Shapes: `(B, T, D)`.

    Raises:
        InputError: it returned none.
    """
    states = getattr(outputs, "hidden_states", None)
    if not states:
        raise InputError(
            f"the network returned {type(outputs).__name__} without hidden states, and the loss at "
            "its tail needs the last; set model.config.output_hidden_states = True, or say where "
            "they are: DistillTail(hidden=lambda outputs: …)"
        )
    last: Tensor = states[-1]
    return last


@dataclass(frozen=True)
class DistillTail(DistillTokens):
    """Distillation of a language model whose inner layers do not correspond to the teacher's.

    To what `DistillTokens` says it adds the squared error of the last hidden states, as a share of
    the teacher's mean square, so that `tail` means the same for any model. Student and teacher need
    one width.

    Args:
        tail: weight of that error.
        hidden: finds the last hidden states in what a network returns.

    Reference: Liu et al. 2024, arXiv 2407.00928 (FoldGPT), whose weights were not at hand.

    Example:
        >>> import torch
        >>> say = lambda outputs: outputs
        >>> logits, batch = torch.ones(1, 2, 4), (torch.zeros(1, 2), torch.tensor([[3, -100]]))
        >>> float(DistillTail(hidden=say)(logits, batch, logits, False))
        0.0
    """

    tail: float = 1.0
    hidden: Callable[[object], Tensor] = last_hidden

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss of `outputs` against the targets and what the teacher returned."""
        loss = super().__call__(outputs, batch, teacher, is_teacher)
        if is_teacher or teacher is None or not self.tail:
            return loss
        return loss + self.tail * self._error(self.hidden(outputs), self.hidden(teacher), batch[1])

    def _error(self, own: Tensor, wanted: Tensor, targets: Tensor) -> Tensor:
        if own.shape != wanted.shape:
            raise InputError(
                f"the last hidden states have shape {tuple(own.shape)} and the teacher's "
                f"{tuple(wanted.shape)}; a network of another width has no tail to match, use "
                "DistillTokens"
            )
        (mine, theirs), tokens = rows_to_guess((own, wanted.detach()), targets)
        if not len(tokens):
            return mine.sum() * 0.0
        mine, theirs = mine.float(), theirs.float()
        return (mine - theirs).square().mean() / theirs.square().mean()


@contextmanager
def showing_hidden_states(*models: nn.Module) -> Iterator[None]:
    """Let models of `transformers` return their hidden states for a while."""
    configs = [config for m in models if (config := getattr(m, "config", None)) is not None]
    before = [config.output_hidden_states for config in configs]
    try:
        for config in configs:
            config.output_hidden_states = True
        yield
    finally:
        for config, value in zip(configs, before, strict=True):
            config.output_hidden_states = value
