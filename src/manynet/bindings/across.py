"""Tensors that play the same role in several blocks, as groups to bind together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import Tensor, nn

from manynet.errors import InputError

__all__ = ["across", "neighbors"]

Block = TypeVar("Block", str, int)


def _is_vector(name: str, tensor: Tensor) -> bool:
    return tensor.dim() < 2


def across(
    model: nn.Module,
    blocks: Sequence[str],
    *,
    private: Callable[[str, Tensor], bool] = _is_vector,
) -> list[list[str]]:
    """Return the names of the parameters that play the same role in each of the blocks.

    Each list is one group for `manynet.bind`: with `tied()` the blocks use the matrices of the
    first; with `mixed(3)` they have a dictionary for each role.

    Args:
        model: what holds the blocks.
        blocks: paths of blocks of one class and one shape.
        private: of the name of a parameter inside its block and the parameter, whether each block
            keeps its own; by default norms and biases, all that have one dimension.

    Raises:
        InputError: the blocks hold different parameters, or none that is shared.

    Example:
        >>> net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
        >>> across(net, ["0", "2"])
        [['0.weight', '2.weight']]
    """
    if not blocks:
        raise InputError("across needs the path of at least one block")
    found = [dict(model.get_submodule(path).named_parameters()) for path in blocks]
    shapes = [{name: tuple(p.shape) for name, p in one.items()} for one in found]
    for path, other in zip(blocks, shapes, strict=True):
        if other != shapes[0]:
            name = next(n for n in [*other, *shapes[0]] if other.get(n) != shapes[0].get(n))
            raise InputError(
                f"{path} and {blocks[0]} are not alike: {name} has shape {other.get(name)} in the "
                f"one and {shapes[0].get(name)} in the other; name blocks of one class and size"
            )
    roles = [name for name, parameter in found[0].items() if not private(name, parameter)]
    if not roles:
        raise InputError(f"{blocks[0]} has no parameter that is not private; nothing can be shared")
    return [[f"{path}.{role}" for path in blocks] for role in roles]


def neighbors(blocks: Sequence[Block], size: int = 2) -> list[list[Block]]:
    """Return consecutive groups of `size` blocks; the last may be smaller.

    Example:
        >>> neighbors(["layers.1", "layers.2", "layers.3"])
        [['layers.1', 'layers.2'], ['layers.3']]
    """
    if size < 1:
        raise InputError(f"neighbors(size={size}): a group has at least 1 block")
    return [list(blocks[start : start + size]) for start in range(0, len(blocks), size)]
