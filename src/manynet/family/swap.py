"""`swap`: other modules in the places of some of a tree's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

__all__ = ["swap", "tied_again"]


def swap(root: nn.Module, swaps: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in the place of others, in every place that these have; return the root.

    Args:
        root: the tree; it is changed, unless it is itself replaced.
        swaps: the new module of each old one.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Linear(2, 2))
        >>> swap(net, {net[0]: nn.GELU()})[0]
        GELU(approximate='none')
    """
    for module in list(root.modules()):
        for name, child in module._modules.items():
            if child is not None and child in swaps:
                module._modules[name] = swaps[child]
    return swaps.get(root, root)


def tied_again(root: nn.Module, parts: Iterable[nn.Module]) -> nn.Module:
    """Give freed modules the class that they had, where their sizes fit it; return the root.

    Args:
        root: the tree.
        parts: the modules that were freed; one whose class has a method `tied` says by it what it
            was, or None where its sizes do not fit.
    """
    swaps = {}
    for part in parts:
        tied = getattr(part, "tied", None)
        before = None if tied is None else tied()
        if before is not None:
            swaps[part] = before
    return swap(root, swaps) if swaps else root
