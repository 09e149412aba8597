"""What a group of matrices can be stored as, at which cost, and with which error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manynet.fit._allocate import Curve
from manynet.fit._factor import PCA, whitened_spectrum

__all__ = ["Options", "Shape", "Stack", "even_shape"]


@dataclass(frozen=True)
class Shape:
    """What a group is stored as.

    Args:
        atoms: shared by the group; None to leave its matrices as they are.
        ranks: of each matrix's residual.
        error: what is lost of what the matrices make of the calibration data, as a share of it,
            summed over the matrices.
    """

    atoms: int | None
    ranks: tuple[int, ...]
    error: float


class Stack:
    """The matrices of one group, seen through what goes into them.

    Args:
        names: of the weights.
        weights: `(L, O, I)`.
        roots: of the Gram matrices of their inputs, see `root_of`.
    """

    def __init__(self, names: Sequence[str], weights: Tensor, roots: Sequence[Tensor]) -> None:
        self.names, self.weights, self.roots = tuple(names), weights.double(), list(roots)
        self.layers, self.outputs, self.inputs = weights.shape
        self.norms = self._seen(self.weights).clamp_min(1e-30)
        self.pca: PCA | None = None

    def _seen(self, deltas: Tensor) -> Tensor:
        """Return the squared size of what each matrix makes of its inputs, `(L,)`."""
        pairs = zip(deltas, self.roots, strict=True)
        return torch.stack([(delta @ root).square().sum() for delta, root in pairs])

    @property
    def dense(self) -> int:
        """How many numbers the matrices are."""
        return self.layers * self.outputs * self.inputs

    @property
    def price_of_rank(self) -> int:
        """How many numbers one rank of one matrix takes."""
        return self.outputs + self.inputs

    def cost(self, shape: Shape) -> int:
        """Return how many numbers are stored."""
        if shape.atoms is None:
            return self.dense
        atoms = shape.atoms * (self.outputs * self.inputs + self.layers)
        return atoms + sum(shape.ranks) * self.price_of_rank

    def left(self, atoms: int) -> Tensor:
        """Return what `atoms` atoms leave of the matrices."""
        if not atoms:
            return self.weights
        self.pca = self.pca or PCA(self.weights)
        return self.weights - self.pca.atoms(atoms).mixed()

    def spectra(self, atoms: int) -> Tensor:
        """Return what each rank of each matrix's residual takes away of its share, `(L, ...)`."""
        pairs = zip(self.left(atoms), self.roots, strict=True)
        found = torch.stack([whitened_spectrum(delta, root) for delta, root in pairs])
        return found / self.norms[:, None]


class Options:
    """The shapes of a group, as a curve of costs and errors.

    Args:
        stack: the group.
        counts: numbers of atoms to look at; a matrix without atoms has at least one rank.
        dense: whether the group may also be left as it is.
    """

    def __init__(self, stack: Stack, counts: Sequence[int], *, dense: bool = True) -> None:
        self.stack = stack
        self._orders = {atoms: _order(stack.spectra(atoms), first=not atoms) for atoms in counts}
        self._points: list[tuple[int | None, int]] = []
        costs, errors = [], []
        for atoms, (_, gains) in self._orders.items():
            left = np.concatenate((gains[::-1].cumsum()[::-1], [0.0]))
            least = 0 if atoms else stack.layers
            numbers = np.arange(least, len(left))
            start = stack.cost(Shape(atoms, (), 0.0))
            costs.append(start + stack.price_of_rank * numbers.astype(np.float64))
            errors.append(left[least:])
            self._points += [(atoms, number) for number in numbers.tolist()]
        if dense:
            costs, errors = [*costs, np.array([float(stack.dense)])], [*errors, np.zeros(1)]
            self._points.append((None, 0))
        self.curve = Curve(np.concatenate(costs), np.concatenate(errors))

    def shape(self, point: int) -> Shape:
        """Return the shape at a point of the curve."""
        error = float(self.curve.errors[point])
        atoms, total = self._points[point]
        if atoms is None:
            return Shape(None, (0,) * self.stack.layers, error)
        owners = self._orders[atoms][0][:total]
        return Shape(atoms, tuple(np.bincount(owners, minlength=self.stack.layers).tolist()), error)


def _order(gains: Tensor, *, first: bool) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return whose rank to take next, and what it takes away; with `first`, one of each at first.

    Shapes: gains `(L, R)`, in falling order along each row.
    """
    values = gains.cpu().numpy()
    ranked = values.copy()
    if first:
        ranked[:, 0] = np.inf
    order = np.argsort(-ranked, axis=None, kind="stable")
    return order // values.shape[1], values.flatten()[order]


def even_shape(stack: Stack, share: float) -> Shape:
    """Return one rank for all matrices, so that their factors take a share of their numbers."""
    rank = max(1, int(share * stack.outputs * stack.inputs / stack.price_of_rank))
    error = float(stack.spectra(0)[:, rank:].sum())
    return Shape(0, (rank,) * stack.layers, error)
