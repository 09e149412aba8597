"""Energies and forces of molecules from a network on points; and networks on points turned.

Letters in shapes: `B` molecules, `N` atoms of the largest, `G` graphs, `D` dimensions of space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.graphs._edges import radius_edges
from manynet.layers import random_rotations

__all__ = ["EnergyForces", "RandomlyTurned"]


class EnergyForces(nn.Module):
    """The energies of molecules and, as their slopes, the forces on the atoms.

    Args:
        network: on points, such as `Ponita`: takes scalars, positions, edges, vectors and batch,
            and returns scalars of each graph first.
        elements: the atomic numbers that occur; each is one scalar of an atom.
        radius: how far apart joined atoms may be, in the unit of the positions; None joins all.
        scale: the unit of the network's energies, such as the root mean square of the forces.

    Raises:
        InputError: there are atoms of other elements; raised by the forward.

    Shapes:
        Positions `(B, N, 3)` and atomic numbers `(B, N)`, 0 where a molecule has no more atoms.
        Outputs: energies `(B,)` and forces `(B, N, 3)`, which have a graph in training mode only.
    """

    elements: Tensor

    def __init__(
        self,
        network: nn.Module,
        elements: Sequence[int],
        *,
        radius: float | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.radius, self.scale = radius, scale
        self.register_buffer("elements", torch.tensor(list(elements)))

    def energies(self, positions: Tensor, numbers: Tensor) -> Tensor:
        """Return the energies alone, `(B,)`."""
        present = numbers > 0
        kinds = (numbers[present][:, None] == self.elements).to(positions.dtype)
        if not bool(kinds.sum(1).all()):
            lacking = set(numbers[present].tolist()) - set(self.elements.tolist())
            raise InputError(
                f"there are atoms of number {min(lacking)}, and the network knows "
                f"{self.elements.tolist()}; name all elements when you make it"
            )
        edges = radius_edges(positions, present, self.radius)
        batch = present.nonzero()[:, 0]
        scalars, _ = self.network(kinds, positions[present], edges, None, batch)
        found: Tensor = scalars[:, 0] * self.scale
        return found

    def forward(self, positions: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return energies and forces."""
        with torch.enable_grad():
            positions = positions.detach().requires_grad_()
            energies = self.energies(positions, numbers)
            (slope,) = torch.autograd.grad(energies.sum(), positions, create_graph=self.training)
        return (energies if self.training else energies.detach()), -slope


class RandomlyTurned(nn.Module):
    """A network on points that sees each graph turned at random, so that no direction is special.

    In training mode every graph is turned anew. In evaluation the outputs are the mean over some
    turns that are drawn once and saved with the weights. Vectors that come out are turned back.

    Args:
        network: takes scalars, positions, edges, vectors and batch; returns scalars and vectors.
        turns: how many to average over; 0 leaves the points as they are.
        dimensions: `D`.
        seed: of those.

    Shapes: as of the network.

    Reference: Bekkers et al. 2024, arXiv 2310.02970: the released code averages over 5.
    """

    turns: Tensor

    def __init__(
        self, network: nn.Module, turns: int = 5, *, dimensions: int = 3, seed: int = 0
    ) -> None:
        super().__init__()
        self.network = network
        generator = torch.Generator().manual_seed(seed)
        drawn = random_rotations(turns, dimensions=dimensions, generator=generator)
        self.register_buffer("turns", drawn)

    def forward(
        self,
        scalars: Tensor,
        positions: Tensor,
        edges: Tensor,
        vectors: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return what the network makes of the turned points, turned back."""
        of = positions.new_zeros(len(positions), dtype=torch.long) if batch is None else batch
        graphs = int(of.max()) + 1

        def seen_through(turns: Tensor) -> tuple[Tensor, Tensor]:
            own = turns[of]
            seen = torch.einsum("nde,ne->nd", own, positions)
            arms = None if vectors is None else torch.einsum("nde,nve->nvd", own, vectors)
            found, out = self.network(scalars, seen, edges, arms, batch)
            back = own if batch is None else turns
            return found, torch.einsum("nde,nvd->nve", back, out)

        if self.training:
            return seen_through(
                random_rotations(graphs, dimensions=positions.shape[1], like=positions)
            )
        if not len(self.turns):
            found, out = self.network(scalars, positions, edges, vectors, batch)
            return found, out
        every = [seen_through(turn.expand(graphs, -1, -1)) for turn in self.turns.to(positions)]
        means = [torch.stack(outputs).mean(0) for outputs in zip(*every, strict=True)]
        return means[0], means[1]


def turn_error(
    model: EnergyForces, positions: Tensor, numbers: Tensor, *, turns: int = 20, seed: int = 0
) -> float:
    """Return by how much energies differ where a molecule is turned as a whole.

    Args:
        model: in evaluation mode; a mean over turns that it takes is left out.
        positions: of the atoms.
        numbers: atomic numbers.
        turns: rotations to try.
        seed: of those.

    Returns:
        the standard deviation over the turns, the mean over the molecules.

    Shapes: see `EnergyForces`.
    """
    inner = model.network.network if isinstance(model.network, RandomlyTurned) else model.network
    plain = EnergyForces(inner, model.elements.tolist(), radius=model.radius, scale=model.scale)
    generator = torch.Generator().manual_seed(seed)
    drawn = random_rotations(turns, generator=generator, like=positions)
    with torch.no_grad():
        every = [
            plain.eval().energies(torch.einsum("de,bne->bnd", turn, positions), numbers)
            for turn in drawn
        ]
    return float(torch.stack(every).std(0).mean())
