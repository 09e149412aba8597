"""A network on points in space that shares one kernel among all pairs that a motion makes equal.

Letters in shapes: `N` nodes, `G` graphs, `E` edges, `P` points, `O` orientations, `D` dimensions of
space (2 or 3), `S` scalars and `V` vectors a node, `C` channels, `B` basis functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.graphs._edges import join_points
from manynet.layers import (
    GroupConv,
    KernelBasis,
    SeparableGroupConv,
    envelope,
    lift_vectors,
    orientation_grid,
    pair_invariants,
    read_vectors,
    safe_norm,
)

__all__ = ["Ponita", "PonitaLayer"]

EDGES = -1
"""The number of orientations that stands for one a directed edge."""


@dataclass(frozen=True)
class Frame:
    """Where signals live and what the kernels are made of; the same for all layers.

    Attributes:
        edges: between points, `(2, E)`.
        grid: orientations, `(O, D)` or `(P, 1, D)`; None without.
        spatial: basis of the kernels over positions.
        fiber: basis of the kernels over orientations, `(O, O, B)`; None where there is none.
        nodes_of: the node of each point, `(P,)`; None where points are nodes.
    """

    edges: Tensor
    grid: Tensor | None
    spatial: Tensor
    fiber: Tensor | None = None
    nodes_of: Tensor | None = None


class PonitaLayer(nn.Module):
    """A convolution, a norm and two linear layers, around which the signal goes.

    Its readout is called by the network, so that the layer hands on one tensor alone and can be
    left out of a member.

    Args:
        conv: the convolution.
        channels: `C`.
        hidden: width between the linear layers.
        outputs: of the readout; 0 for none.
        scale: what the branch is multiplied by at the start, learned for each channel; None for 1.

    Shapes: signal `(P, O, C)` to signal `(P, O, C)`.
    """

    def __init__(
        self, conv: nn.Module, channels: int, hidden: int, outputs: int, scale: float | None
    ) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden)
        self.reduce = nn.Linear(hidden, channels)
        self.scale = None if scale is None else nn.Parameter(torch.full((channels,), scale))
        self.readout = nn.Linear(channels, outputs) if outputs else None

    def forward(self, x: Tensor, edges: Tensor, spatial: Tensor, fiber: Tensor | None) -> Tensor:
        """Return the signal after the layer."""
        inner = self.norm(self.conv(x, edges, spatial, fiber))
        inner = self.reduce(nn.functional.gelu(self.expand(inner)))
        found: Tensor = x + (inner if self.scale is None else inner * self.scale)
        return found


class Ponita(nn.Module):
    """A network on points whose kernels depend on what motions leave alone, and on nothing else.

    Each node carries a signal on a grid of directions, so scalars and vectors go in and come out
    without tensor products. Motions of all points turn the vectors and leave the scalars: exactly
    without a grid or with an orientation for each edge, else as far as the grid is the same after
    the turn (see `RandomlyTurned`). The weights do not depend on the number of orientations: a
    family may offer several (`orientations_choice`).

    Args:
        scalars: `S` that go in.
        vectors: `V` that go in.
        outputs: scalars that come out.
        vector_outputs: vectors that come out.
        channels: `C`.
        basis: `B`.
        depth: layers.
        orientations: `O` of the grid; 0: none, distances alone (PNITA); -1: one for each directed
            edge between different nodes.
        grid: the orientations themselves, in place of their number.
        dimensions: `D`.
        radius: where kernels have fallen to zero; None: they do not fall.
        share: `"motions"`, or `"translations"` for a kernel of the offset itself, the network that
            has to learn what the others are built with.
        separable: whether the kernel is a product of one over positions and one over orientations.
        complete: four attributes in place of three, which tell all pairs apart; for kernels that
            are not separable.
        read_all: whether the readout is the mean over all layers, or of the last alone.
        scale: see `PonitaLayer`.
        seed: of the grid.

    Raises:
        InputError: the arguments contradict each other.

    Shapes:
        Scalars `(N, S)`, positions `(N, D)`, edges `(2, E)` of senders and receivers with loops,
        vectors `(N, V, D)`. Outputs `(N, outputs)` and `(N, vector_outputs, D)`; sums over the
        nodes of each graph, `(G, …)`, where `batch` says which graph a node is of.

    Reference: Bekkers et al. 2024, arXiv 2310.02970; code of github.com/ebekkers/ponita, a584aa2.

    Example:
        >>> network = Ponita(2, channels=8, basis=8, depth=2, orientations=6)
        >>> edges = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 1, 0]])
        >>> energy, _ = network(torch.ones(3, 2), torch.randn(3, 3), edges)
        >>> energy.shape
        torch.Size([3, 1])
    """

    grid: Tensor | None

    def __init__(
        self,
        scalars: int,
        *,
        vectors: int = 0,
        outputs: int = 1,
        vector_outputs: int = 0,
        channels: int = 128,
        basis: int = 256,
        depth: int = 5,
        orientations: int = 20,
        grid: Tensor | None = None,
        dimensions: int = 3,
        radius: float | None = None,
        share: Literal["motions", "translations"] = "motions",
        separable: bool = True,
        complete: bool = False,
        read_all: bool = True,
        scale: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if grid is None and orientations > 0:
            grid = orientation_grid(orientations, dimensions=dimensions, seed=seed)
        self.by_edge = grid is None and orientations == EDGES
        separable = separable and not self.by_edge
        oriented = grid is not None or self.by_edge
        _check_share(share, oriented)
        _check_complete(complete, separable)
        if not oriented and (vectors or vector_outputs or not separable):
            raise InputError(
                "without orientations there are only scalars and one kernel; give orientations, "
                "or leave out vectors, vector_outputs and separable"
            )
        self.register_buffer("grid", grid)
        self.outputs, self.radius, self.complete = outputs, radius, complete
        self.separable, self.share = separable, share
        attributes = 2 if separable else 3 + complete
        if grid is None and not self.by_edge:
            attributes = 1 if share == "motions" else dimensions
        self.spatial = KernelBasis(attributes, channels, basis)
        fibers = separable and grid is not None
        self.fiber = KernelBasis(1, channels, basis) if fibers else None
        self.embed = nn.Linear(scalars + vectors, channels, bias=False)
        read = outputs + vector_outputs
        self.layers = nn.ModuleList(
            PonitaLayer(
                SeparableGroupConv(channels, basis, orientations=fibers)
                if separable
                else GroupConv(channels, basis),
                channels,
                4 * channels,
                read if read_all or number == depth - 1 else 0,
                scale,
            )
            for number in range(depth)
        )
        self.read_all, self.read = read_all, read

    def forward(
        self,
        scalars: Tensor,
        positions: Tensor,
        edges: Tensor,
        vectors: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return scalars and vectors, of each node or of each graph."""
        frame = self._frame(positions, edges)
        x = self.embed(_lifted(scalars, vectors, frame))
        read = x.new_zeros(*x.shape[:2], self.read)
        for layer in self.layers:
            x = layer(x, frame.edges, frame.spatial, frame.fiber)
            readout = getattr(layer, "readout", None)
            read = read if readout is None else read + readout(x)
        if self.read_all:
            read = read / len(self.layers)
        found = read[..., : self.outputs].mean(1)
        turned = found.new_zeros(len(found), 0, positions.shape[1])
        if frame.grid is not None:
            turned = read_vectors(read[..., self.outputs :], frame.grid)
        if frame.nodes_of is not None:
            found = _mean(found, frame.nodes_of, len(scalars))
            turned = _mean(turned, frame.nodes_of, len(scalars))
        if batch is None:
            return found, turned
        graphs = int(batch.max()) + 1
        return _sum(found, batch, graphs), _sum(turned, batch, graphs)

    def _frame(self, positions: Tensor, edges: Tensor) -> Frame:
        if self.by_edge:
            return self._frame_of_edges(positions, edges)
        offsets, grid = positions[edges[0]] - positions[edges[1]], self.grid
        if grid is None:
            seen = offsets if self.share == "translations" else pair_invariants(offsets)
            return Frame(edges, None, self._basis(seen[:, None], offsets))
        if self.fiber is None:
            seen = pair_invariants(
                offsets[:, None, None], grid[:, None], grid, complete=self.complete
            )
            return Frame(edges, grid, self._basis(seen, offsets))
        spatial = self._basis(pair_invariants(offsets[:, None], grid), offsets)
        return Frame(edges, grid, spatial, self.fiber((grid @ grid.T)[..., None]))

    def _frame_of_edges(self, positions: Tensor, edges: Tensor) -> Frame:
        """Make a point of each edge between two nodes, at its receiver, turned to its sender."""
        nodes = torch.arange(len(positions), device=edges.device)
        between = edges[:, edges[0] != edges[1]]
        looped = torch.cat([between, nodes.expand(2, -1)], dim=1)
        arms = positions[between[0]] - positions[between[1]]
        grid = arms / safe_norm(arms)[:, None]
        at = between[1]
        pairs = join_points(at, looped, len(positions))
        offsets = positions[at[pairs[0]]] - positions[at[pairs[1]]]
        seen = pair_invariants(offsets, grid[pairs[1]], grid[pairs[0]], complete=self.complete)
        spatial = self._basis(seen[:, None, None], offsets)
        return Frame(pairs, grid[:, None], spatial, None, at)

    def _basis(self, attributes: Tensor, offsets: Tensor) -> Tensor:
        found: Tensor = self.spatial(attributes)
        if self.radius is None:
            return found
        near = envelope(safe_norm(offsets) / self.radius)
        return found * near.view(-1, *[1] * (found.dim() - 1))


def _lifted(scalars: Tensor, vectors: Tensor | None, frame: Frame) -> Tensor:
    """Return what goes in as signals on the orientations."""
    if frame.nodes_of is not None:
        scalars = scalars[frame.nodes_of]
        vectors = None if vectors is None else vectors[frame.nodes_of]
    count = 1 if frame.grid is None else frame.grid.shape[-2]
    signal = scalars[:, None].expand(-1, count, -1)
    if vectors is None or frame.grid is None:
        return signal
    return torch.cat([signal, lift_vectors(vectors, frame.grid)], dim=-1)


def _sum(values: Tensor, group: Tensor, groups: int) -> Tensor:
    return values.new_zeros(groups, *values.shape[1:]).index_add(0, group, values)


def _mean(values: Tensor, group: Tensor, groups: int) -> Tensor:
    count = torch.bincount(group, minlength=groups).clamp(min=1)
    return _sum(values, group, groups) / count.view(-1, *[1] * (values.dim() - 1))


def _check_share(share: str, oriented: bool) -> None:
    if share not in ("motions", "translations"):
        raise InputError(f'share={share!r} is unknown; use "motions" or "translations"')
    if share == "translations" and oriented:
        raise InputError('share="translations" has no orientations; give orientations=0')


def _check_complete(complete: bool, separable: bool) -> None:
    if complete and separable:
        raise InputError(
            "complete=True reads both orientations of a pair at once; give separable=False, "
            "or orientations=-1"
        )
