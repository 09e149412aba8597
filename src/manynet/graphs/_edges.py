"""Which points hear from which: pairs within a radius, and pairs of directed edges.

Edges are `(2, E)`, senders first, as in PyTorch Geometric. Letters in shapes: `B` graphs, `N` nodes
of the largest graph, `E` edges, `P` points, `D` dimensions of space.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["join_points", "radius_edges"]


def radius_edges(positions: Tensor, present: Tensor, radius: float | None = None) -> Tensor:
    """Return the edges of padded graphs, loops included, between their nodes in a row.

    Args:
        positions: of the nodes.
        present: which of them exist.
        radius: how far apart joined nodes may be; None joins all nodes of a graph.

    Shapes: positions `(B, N, D)` and present `(B, N)`, giving `(2, E)`; nodes are counted over all
        graphs, those that do not exist left out.

    Example:
        >>> positions = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [3, 0, 0]]])
        >>> radius_edges(positions, torch.ones(1, 3, dtype=torch.bool), 1.5).tolist()
        [[0, 1, 0, 1, 2], [0, 0, 1, 1, 2]]
    """
    joined = present[:, :, None] & present[:, None, :]
    if radius is not None:
        gaps = positions.detach()[:, :, None] - positions.detach()[:, None, :]
        joined = joined & (gaps.square().sum(-1) <= radius**2)
    graph, receiver, sender = joined.nonzero(as_tuple=True)
    number = present.flatten().cumsum(0).view_as(present) - 1
    return torch.stack([number[graph, sender], number[graph, receiver]])


def join_points(nodes_of: Tensor, edges: Tensor, nodes: int) -> Tensor:
    """Return all pairs of points whose nodes an edge joins: every sender's with every receiver's.

    Args:
        nodes_of: the node of each point.
        edges: between nodes.
        nodes: how many there are.

    Shapes: `(P,)` and `(2, E)`, giving `(2, pairs)`.

    Example:
        >>> join_points(torch.tensor([0, 1, 1]), torch.tensor([[0, 1], [1, 1]]), 2).tolist()
        [[0, 0, 1, 1, 2, 2], [1, 2, 1, 2, 1, 2]]
    """
    order = nodes_of.argsort(stable=True)
    count = torch.bincount(nodes_of, minlength=nodes)
    first = count.cumsum(0) - count
    sender, receiver = edges
    pairs = count[sender] * count[receiver]
    edge = torch.arange(len(pairs), device=edges.device).repeat_interleave(pairs)
    place = torch.arange(len(edge), device=edges.device) - (pairs.cumsum(0) - pairs)[edge]
    wide = count[receiver][edge]
    return torch.stack(
        [order[first[sender][edge] + place // wide], order[first[receiver][edge] + place % wide]]
    )
