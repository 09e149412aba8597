"""The closed forms, against what could do better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manynet.errors import InputError
from manynet.fit import matrix_pca, root_of, whitened_low_rank
from manynet.fit._factor import whitened_spectrum


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_atoms_are_orthonormal_and_leave_the_tail_of_the_eigenvalues() -> None:
    weights = drawn(6, 8, 10) + drawn(1, 8, 10, seed=1)
    values = torch.linalg.svdvals(weights.flatten(1)).square()
    for count in range(1, 6):
        found = matrix_pca(weights, count)
        flat = found.atoms.flatten(1)
        assert torch.allclose(flat @ flat.T, torch.eye(count).double(), atol=1e-5)
        assert torch.allclose(found.coefficients, weights.flatten(1) @ flat.T)
        error = float((weights - found.mixed()).square().sum())
        assert error == pytest.approx(float(values[count:].sum()), rel=1e-4)
        assert found.error == pytest.approx(error, rel=1e-4)


def test_atoms_of_single_precision_are_orthonormal_too() -> None:
    found = matrix_pca(drawn(5, 20, 20).float() * 1e-2, 4)
    flat = found.atoms.flatten(1)
    assert torch.allclose(flat @ flat.T, torch.eye(4).double(), atol=1e-5)


def test_as_many_atoms_as_the_rank_leave_nothing() -> None:
    basis = drawn(2, 5, 7)
    weights = (drawn(6, 2, seed=2) @ basis.flatten(1)).view(6, 5, 7)
    found = matrix_pca(weights, 4)
    assert len(found.atoms) == 2
    assert torch.allclose(found.mixed(), weights)
    assert found.error < 1e-9


def test_no_random_orthonormal_atoms_do_better() -> None:
    weights = drawn(5, 6, 6)
    best = matrix_pca(weights, 2).error
    flat = weights.flatten(1)
    for seed in range(20):
        basis, _ = torch.linalg.qr(drawn(36, 2, seed=seed))
        assert float((flat - flat @ basis @ basis.T).square().sum()) > best


def test_three_tiny_matrices_by_hand() -> None:
    weights = torch.zeros(3, 2, 2)
    weights[0, 0, 0], weights[1, 0, 0], weights[2, 1, 1] = 2.0, 1.0, 1.0
    found = matrix_pca(weights, 1)
    sign = found.atoms[0, 0, 0].sign()
    expected = torch.zeros(2, 2).double()
    expected[0, 0] = 1.0
    assert torch.allclose(found.atoms[0] * sign, expected)
    assert torch.allclose(found.coefficients[:, 0] * sign, torch.tensor([2.0, 1.0, 0.0]).double())
    assert found.error == pytest.approx(1.0)


def test_the_root_is_that_of_the_gram_matrix_even_where_inputs_are_few() -> None:
    x = drawn(30, 8)
    root = root_of(x.T @ x)
    assert torch.allclose(root @ root.T, x.T @ x, rtol=1e-4, atol=1e-4)
    assert torch.equal(root, root.tril())
    few = root_of(x[:2].T @ x[:2])
    assert bool(few.isfinite().all())
    assert bool(root_of(torch.zeros(3, 3)).isfinite().all())


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (7, 7)])
def test_whitened_truncation_is_never_worse_on_its_data(shape: tuple[int, int]) -> None:
    delta, x = drawn(*shape), drawn(50, shape[1], seed=3) @ drawn(shape[1], shape[1], seed=4)
    root = root_of(x.T @ x, damping=1e-12)
    spectrum = whitened_spectrum(delta, root)
    for rank in range(1, min(shape) + 1):
        left, right = whitened_low_rank(delta, rank, root)
        u, sizes, v = torch.linalg.svd(delta, full_matrices=False)
        plain = (u[:, :rank] * sizes[:rank]) @ v[:rank]
        ours = float((x @ (delta - left @ right).T).square().sum())
        assert ours <= float((x @ (delta - plain).T).square().sum()) * (1 + 1e-9) + 1e-9
        assert ours == pytest.approx(float(spectrum[rank:].sum()), rel=1e-6, abs=1e-6)


def test_without_whitening_it_is_the_plain_truncation() -> None:
    delta = drawn(5, 8)
    left, right = whitened_low_rank(delta, 2, torch.eye(8).double())
    u, sizes, v = torch.linalg.svd(delta, full_matrices=False)
    assert torch.allclose(left @ right, (u[:, :2] * sizes[:2]) @ v[:2])


def test_counts_that_cannot_be_are_named() -> None:
    with pytest.raises(InputError, match="0 atoms"):
        matrix_pca(drawn(2, 3, 3), 0)
    with pytest.raises(InputError, match="rank 4 for a matrix of"):
        whitened_low_rank(drawn(3, 5), 4, torch.eye(5).double())
