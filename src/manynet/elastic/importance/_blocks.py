"""How much each block matters, so that members leave out those that matter least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.elastic.importance._calibration import Calibration
from manynet.elastic.importance._stream import stream
from manynet.errors import InputError
from manynet.family import Depth

__all__ = [
    "NAMED",
    "BlockImportance",
    "JointImportance",
    "block_scores",
    "influence",
    "order_blocks",
]


class BlockImportance(Protocol):
    """Scores a block by what it does to its input."""

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """Return one number; the blocks with the highest mean over all calls are kept longest.

        Shapes:
            before: `(..., D)`, what the block was given, its channels last.
            after: `(..., D)`, what it returned.
        """
        ...


@runtime_checkable
class JointImportance(Protocol):
    """Scores all blocks of a network together, such as `Gates`."""

    def of_blocks(self, calibration: Calibration, blocks: Sequence[str]) -> Mapping[str, float]:
        """Return a number for each block, by its path; the highest are kept longest."""
        ...


@dataclass(frozen=True)
class KnownImportance:
    """An importance of blocks that is known already.

    Args:
        scores: one of each block, by its path.
    """

    scores: Mapping[str, float]

    def of_blocks(self, calibration: Calibration, blocks: Sequence[str]) -> Mapping[str, float]:
        """Return the scores."""
        return self.scores


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
    runs: Sequence[Depth],
    calibration: Calibration,
    importance: str | BlockImportance | JointImportance,
) -> list[Depth]:
    """Return the runs with their blocks in order of importance, most important first.

    Raises:
        InputError: the importance returned something else than one finite number.
    """
    scores = block_scores(calibration, [path for run in runs for path in run.blocks], importance)
    return [
        replace(run, blocks=tuple(sorted(run.blocks, key=lambda path: -scores[path])))
        for run in runs
    ]


def block_scores(
    calibration: Calibration,
    blocks: Sequence[str],
    importance: str | BlockImportance | JointImportance,
) -> Mapping[str, float]:
    """Return how much each block matters, by its path.

    Raises:
        InputError: the importance returned something else than one finite number.
    """
    function = NAMED[importance] if isinstance(importance, str) else importance
    if isinstance(function, JointImportance):
        return function.of_blocks(calibration, blocks)
    return _means(calibration, blocks, function)


def _means(
    calibration: Calibration, blocks: Sequence[str], function: BlockImportance
) -> dict[str, float]:
    """Return the mean score of each block over all its calls."""
    model = calibration.model
    sums = {path: [0.0, 0] for path in blocks}
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
    return {path: total / max(count, 1) for path, (total, count) in sums.items()}


class _Listen:
    """A forward hook that adds up the scores of one block."""

    def __init__(self, path: str, importance: BlockImportance, total: list[float]) -> None:
        self.path, self.importance, self.total = path, importance, total

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> None:
        before, after = stream(args, kwargs, outputs)
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
