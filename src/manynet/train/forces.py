"""The loss of energies and forces together.

Letters in shapes: `B` molecules, `N` atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor

from manynet.data import Batch
from manynet.errors import InputError

__all__ = ["ForceMatching"]


@dataclass(frozen=True)
class ForceMatching:
    """Energies and forces both learned: `energy * MSE(E) + mean over atoms of |dF|**2 / 3`.

    Args:
        energy: weight of the energies.
        scale: the unit in which both are compared, as in `manynet.graphs.EnergyForces`.

    Shapes:
        The member returns energies `(B,)` and forces `(B, N, 3)` for positions and atomic numbers;
        targets `(B, 1 + 3 N)`, as `Molecules.samples` gives them.

    Reference: Bekkers et al. 2024, arXiv 2310.02970: a weight of 1/500.
    """

    energy: float = 1 / 500
    scale: float = 1.0

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss."""
        if not isinstance(outputs, tuple) or len(outputs) != 2:
            raise InputError(
                f"ForceMatching takes a network that returns energies and forces; this one returns "
                f"{type(outputs).__name__}: put it into manynet.graphs.EnergyForces"
            )
        energies, forces = cast("tuple[Tensor, Tensor]", outputs)
        _, numbers = cast("tuple[Tensor, Tensor]", batch[0])
        of_energies = (energies - batch[1][:, 0]).square().mean()
        wrong = (forces - batch[1][:, 1:].view_as(forces)).square().mean(-1)
        of_forces = wrong[numbers > 0].mean()
        return (self.energy * of_energies + of_forces) / self.scale**2
