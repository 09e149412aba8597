"""The closed forms: atoms of a stack of matrices, and low ranks that heed what goes in.

Letters of shapes: `L` layers, `O` outputs, `I` inputs, `S` atoms, `R` rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manynet.errors import InputError

__all__ = ["PCA", "Atoms", "matrix_pca", "root_of", "whitened_low_rank", "whitened_spectrum"]


@dataclass(frozen=True)
class Atoms:
    """A few matrices, and how much of each every layer takes.

    Args:
        atoms: orthonormal, `(S, O, I)`.
        coefficients: `(L, S)`.
        error: squared distance between the layers' matrices and what is mixed, summed.
    """

    atoms: Tensor
    coefficients: Tensor
    error: float

    def mixed(self) -> Tensor:
        """Return the matrix of each layer, `(L, O, I)`."""
        flat = self.coefficients @ self.atoms.flatten(1)
        return flat.view(len(self.coefficients), *self.atoms.shape[1:])


class PCA:
    """Principal components of whole matrices; the mean is not taken off.

    Args:
        weights: one matrix a layer, `(L, O, I)`.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights.double()
        self._flat = self.weights.flatten(1)
        values, vectors = torch.linalg.eigh(self._flat @ self._flat.T)
        self.eigenvalues = values.flip(0).clamp_min(0)
        self._vectors = vectors.flip(1)
        least = self.eigenvalues[0] * 1e-12
        self.rank = int((self.eigenvalues > least).sum())

    def atoms(self, count: int) -> Atoms:
        """Return the best `count` atoms, fewer where the matrices have a lower rank.

        Raises:
            InputError: the count is below 1.
        """
        if count < 1:
            raise InputError(f"{count} atoms were asked for; give at least 1")
        kept = min(count, self.rank)
        sizes = self.eigenvalues[:kept].sqrt()
        atoms = (self._vectors[:, :kept] / sizes).T @ self._flat
        coefficients = self._vectors[:, :kept] * sizes
        error = float(self.eigenvalues[kept:].sum())
        return Atoms(atoms.view(kept, *self.weights.shape[1:]), coefficients, error)


def matrix_pca(weights: Tensor, atoms: int) -> Atoms:
    """Return the orthonormal atoms that leave the least of the matrices, in squared error.

    They are the leading left singular vectors of the matrix whose columns are the layers' matrices
    in one piece, found through its small Gram matrix.

    Args:
        weights: one matrix a layer.
        atoms: how many; fewer come back where the matrices have a lower rank.

    Shapes: weights `(L, O, I)`.

    Raises:
        InputError: fewer than one atom.

    Reference: Zhussip et al. 2026, arXiv 2508.04581.

    Example:
        >>> weights = torch.zeros(3, 2, 2)
        >>> weights[0, 0, 0], weights[1, 0, 0], weights[2, 1, 1] = 2.0, 1.0, 1.0
        >>> found = matrix_pca(weights, 1)
        >>> round(found.error, 6), [round(abs(float(c)), 6) for c in found.coefficients[:, 0]]
        (1.0, [2.0, 1.0, 0.0])
    """
    return PCA(weights).atoms(atoms)


def root_of(gram: Tensor, *, damping: float = 1e-6) -> Tensor:
    """Return the lower triangular `R` with `R @ R.T` equal to the Gram matrix of inputs.

    Args:
        gram: `X.T @ X` of the rows `X` that go in, `(I, I)`.
        damping: what is added to the diagonal, in parts of its mean; ten times more, again and
            again, where the matrix is not positive definite.
    """
    gram = gram.double()
    unit = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    mean = gram.diagonal().mean().clamp_min(1e-30)
    root: Tensor
    while True:
        root, info = torch.linalg.cholesky_ex(gram + damping * mean * unit)
        if not bool(info):
            return root
        damping *= 10


def whitened_spectrum(delta: Tensor, root: Tensor) -> Tensor:
    """Return the squared errors that the ranks of `delta` take away, in falling order.

    Shapes: delta `(..., O, I)`, root `(I, I)` or one for each, to `(..., min(O, I))`.
    """
    inner = delta.double() @ root  # the transpose of R^T times the matrix that rows are put through
    wide = inner.shape[-1] > inner.shape[-2]
    gram = inner @ inner.mT if wide else inner.mT @ inner
    values: Tensor = torch.linalg.eigvalsh(gram)
    return values.flip(-1).clamp_min(0)


def whitened_low_rank(delta: Tensor, rank: int, root: Tensor) -> tuple[Tensor, Tensor]:
    """Return the two factors of a rank that change least what `delta` makes of the inputs.

    With rows `X` and `X.T @ X = R @ R.T`, the error `|X @ (D - D')|` is that of `R.T @ D`, whose
    truncated singular value decomposition is multiplied back.

    Args:
        delta: a matrix as linear layers keep it.
        rank: of the product.
        root: of the Gram matrix of the inputs, see `root_of`.

    Shapes: delta `(O, I)`, root `(I, I)`; factors `(O, R)` and `(R, I)`.

    Raises:
        InputError: the rank is not between 1 and the smaller side.

    Reference: Zhussip et al. 2026, arXiv 2508.04581; Wang et al. 2024, arXiv 2403.07378 (SVD-LLM).
    """
    if not 1 <= rank <= min(delta.shape):
        raise InputError(
            f"rank {rank} for a matrix of {tuple(delta.shape)}; give 1 to {min(delta.shape)}"
        )
    left, sizes, right = torch.linalg.svd(delta.double() @ root, full_matrices=False)
    half = sizes[:rank].sqrt()
    back = torch.linalg.solve_triangular(root.mT, right[:rank].mT, upper=True).mT
    return left[:, :rank] * half, half[:, None] * back
