"""How much each block matters, so that members leave out those that matter least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet._inputs import tensors_in
from manynet.elastic.importance._calibration import Calibration
from manynet.errors import InputError
from manynet.family import Depth

__all__ = ["NAMED", "BlockImportance", "influence", "order_blocks"]


class BlockImportance(Protocol):
    """Scores a block by what it does to its input."""

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """Return one number; the blocks with the highest mean over all calls are kept longest.

        Shapes:
            before: `(..., D)`, what the block was given, its channels last.
            after: `(..., D)`, what it returned.
        """
        ...


def influence(before: Tensor, after: Tensor) -> Tensor:
    """Return 1 less the mean cosine between the input and the output at each position.

    Reference: Men et al. 2024, arXiv 2403.03853 (ShortGPT).

    Example:
        >>> x = torch.eye(2)
        >>> float(influence(x, 2 * x)), float(influence(x, x.flip(0)))
        (0.0, 1.0)
    """
    return 1 - functional.cosine_similarity(before, after, dim=-1).mean()


NAMED: Mapping[str, BlockImportance] = {"influence": influence}
"""The importances of blocks that have a name."""


def order_blocks(
    runs: Sequence[Depth], calibration: Calibration, importance: str | BlockImportance
) -> list[Depth]:
    """Return the runs with their blocks in order of importance, most important first.

    Raises:
        InputError: the importance returned something else than one finite number.
    """
    function = NAMED[importance] if isinstance(importance, str) else importance
    model = calibration.model
    sums = {path: [0.0, 0] for run in runs for path in run.blocks}
    handles = [
        model.get_submodule(path).register_forward_hook(
            _Listen(path, function, total), with_kwargs=True
        )
        for path, total in sums.items()
    ]
    try:
        calibration.run()
    finally:
        for handle in handles:
            handle.remove()
    means = {path: total / max(count, 1) for path, (total, count) in sums.items()}
    return [
        replace(run, blocks=tuple(sorted(run.blocks, key=lambda path: -means[path])))
        for run in runs
    ]


class _Listen:
    """A forward hook that adds up the scores of one block."""

    def __init__(self, path: str, importance: BlockImportance, total: list[float]) -> None:
        self.path, self.importance, self.total = path, importance, total

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> None:
        given, results = tensors_in((args, kwargs)), tensors_in(outputs)
        after = results[0]
        before = next((x for x in given if x.shape == after.shape and x.dtype == after.dtype), None)
        if before is None:
            return
        if _channels_first(block, after):
            before, after = before.movedim(1, -1), after.movedim(1, -1)
        score = torch.as_tensor(self.importance(before.float(), after.float()))
        if score.numel() != 1 or not bool(torch.isfinite(score).all()):
            raise InputError(
                f"the importance of the block {self.path} must be one finite number; it has shape "
                f"{tuple(score.shape)} and is {score.flatten()[:3].tolist()}"
            )
        self.total[0] += float(score)
        self.total[1] += 1


def _channels_first(block: nn.Module, x: Tensor) -> bool:
    """Whether dimension 1 of an image holds the channels, as convolutions have it."""
    return x.dim() > 3 and any(
        isinstance(part, nn.modules.conv._ConvNd) and part.in_channels == x.shape[1]
        for part in block.modules()
    )
