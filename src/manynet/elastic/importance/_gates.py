"""How much blocks matter together: a gate on each, all trained at once on frozen weights.

A score that looks at one block at a time cannot know that two blocks undo each other. Gates can:
each block's contribution is multiplied with its gate, and all gates learn together what the network
can do without.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from manynet._inputs import device_of
from manynet.elastic.importance._calibration import Calibration
from manynet.elastic.importance._stream import stream
from manynet.errors import InputError

__all__ = ["Gates", "gate", "gated"]


def gate(theta: Tensor, softness: float) -> Tensor:
    """Return the gates of `theta`: `theta^2 / (theta^2 + softness)`, between 0 and 1.

    The smaller the softness, the nearer the gates are to 0 or 1. At 0 there is no gradient, so
    `theta` starts elsewhere.

    Shapes: any, and the same is returned.

    Reference: Guo et al., "GDP", ICCV 2021.

    Example:
        >>> gate(torch.tensor([0.0, 1.0]), 1.0)
        tensor([0.0000, 0.5000])
    """
    square = theta.square()
    return square / (square + softness)


@dataclass(frozen=True)
class Gates:
    """An importance of blocks that is trained: the blocks whose gates close are left out first.

    With the weights frozen, the gates `g` of all blocks minimize the loss of the calibration data
    plus `penalty * (cost(g) - keep)^2`, where the cost is the share of the blocks' parameters that
    the gates let through. Their softness falls from step to step, so that they end near 0 or 1.

    Args:
        keep: share of the blocks' parameters to keep; what the order is best for.
        steps: of Adam, one batch each, in turn.
        learning_rate: of Adam.
        penalty: weight of the cost. Too small, and all gates stay open; too large, and they close
            whatever they let through; `of_blocks` returns them.
        softness: in the first and in the last step; it falls by the same factor in each.

    Raises:
        InputError: a number is outside its range.

    Reference: Liu et al. 2024, arXiv 2407.00928 (FoldGPT), after Guo et al., ICCV 2021 (GDP). The
        paper's formulas were not at hand; the penalty, the softness and their sizes are ours.

    Example:
        >>> import manynet as mn
        >>> net = mn.build("manynet:small_cnn")
        >>> batches = [(torch.randn(4, 1, 8, 8), torch.arange(4))]
        >>> family = mn.elastic(net, batches[0][0], width=None, data=batches,
        ...                     depth_importance=Gates(keep=0.5, steps=2))
        >>> len(family.blueprint.depths) > 0
        True
    """

    keep: float = 0.75
    steps: int = 40
    learning_rate: float = 0.05
    penalty: float = 300.0
    softness: tuple[float, float] = (0.1, 0.01)

    def __post_init__(self) -> None:
        if not 0 <= self.keep <= 1:
            raise InputError(f"Gates(keep={self.keep}): it is a share between 0 and 1")
        if self.steps < 1:
            raise InputError(f"Gates(steps={self.steps}): give at least 1")
        if not self.learning_rate > 0 or not self.penalty >= 0:
            raise InputError(
                f"Gates(learning_rate={self.learning_rate}, penalty={self.penalty}): the first "
                "must be above 0, the second at least 0"
            )
        if not self.softness[0] >= self.softness[1] > 0:
            raise InputError(
                f"Gates(softness={self.softness}): it starts above 0 and falls to a number above 0"
            )

    def of_blocks(self, calibration: Calibration, blocks: Sequence[str]) -> Mapping[str, float]:
        """Return the final gate of each block, by its path; the network stays as it was.

        Raises:
            InputError: the loss is not finite.
        """
        model = calibration.model
        device = device_of(model)
        counts = [sum(p.numel() for p in model.get_submodule(b).parameters()) for b in blocks]
        costs = torch.tensor(counts, dtype=torch.float32, device=device).clamp_min(1)
        costs /= costs.sum()
        with torch.inference_mode(False), torch.enable_grad(), calibration.frozen():
            theta = nn.Parameter(torch.ones(len(blocks), device=device))
            optimizer = torch.optim.Adam([theta], lr=self.learning_rate)
            for step in range(self.steps):
                gates = gate(theta, self._softness(step))
                with gated(model, dict(zip(blocks, gates, strict=True))):
                    loss = calibration.objective(step % len(calibration.batches))
                loss = loss + self.penalty * ((gates * costs).sum() - self.keep) ** 2
                (theta.grad,) = torch.autograd.grad(loss, (theta,))
                if not bool(torch.isfinite(theta.grad).all()):
                    raise InputError(
                        f"the loss of the calibration data is not finite in step {step} of the "
                        "gates; look at the data, or give a smaller learning_rate"
                    )
                optimizer.step()
        # in double precision, where open gates still differ from each other
        final = gate(theta.detach().double(), self.softness[1])
        return dict(zip(blocks, final.tolist(), strict=True))

    def _softness(self, step: int) -> float:
        first, last = self.softness
        return float(first * (last / first) ** (step / max(self.steps - 1, 1)))


@contextmanager
def gated(model: nn.Module, gates: Mapping[str, Tensor]) -> Iterator[None]:
    """Let each block pass on its input plus its gate times what it adds, for a while.

    A gate of 1 leaves the block bit for bit as it is, a gate of 0 takes it out.

    Args:
        model: the network.
        gates: numbers by the blocks' paths.
    """
    with ExitStack() as stack:
        for path, value in gates.items():
            block = model.get_submodule(path)
            handle = block.register_forward_hook(_Gate(value), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _Gate:
    """A forward hook."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __call__(
        self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> Any:
        before, after = stream(args, kwargs, outputs)
        if before is None:
            raise InputError(
                f"a block of class {type(block).__name__} returns no tensor of the shape of its "
                "input, so a gate cannot close it"
            )
        # `lerp` returns its ends exactly
        mixed = torch.lerp(before, after, self.value.to(after.dtype))
        leaves, tree = _pytree.tree_flatten(outputs)
        first = next(place for place, leaf in enumerate(leaves) if leaf is after)
        return _pytree.tree_unflatten([*leaves[:first], mixed, *leaves[first + 1 :]], tree)
