"""Parts that lie at regular steps are views, with the part's elements in its order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manynet.bindings.lattice import lattice_of

WHOLE = slice(None)
REGULAR = {
    "block": (slice(2, 9), slice(0, 3)),
    "every third": (np.array([1, 4, 7]), WHOLE),
    "one row": (np.array([5]), WHOLE),
    "three runs": (np.array([0, 1, 8, 9, 16, 17]), slice(0, 2)),
    "runs of runs": (np.array([0, 1, 4, 5, 12, 13, 16, 17]), np.array([0, 2, 4])),
}
IRREGULAR = {
    "scattered": (np.array([0, 1, 5]), WHOLE),
    "backwards": (np.array([3, 2, 1]), WHOLE),
    "unequal runs": (np.array([0, 1, 8, 9, 10, 11]), WHOLE),
    "a position twice": (np.array([0, 1, 1, 2]), WHOLE),
    "the same position": (np.array([4, 4]), WHOLE),
    "nothing": (np.array([], dtype=np.int64), WHOLE),
}


def tensors() -> dict[str, torch.Tensor]:
    plain = torch.arange(24.0 * 6).reshape(24, 6)
    return {"plain": plain, "transposed": plain.t().contiguous().t(), "a view": plain[4:, 1:]}


@pytest.mark.parametrize("index", REGULAR.values(), ids=REGULAR.keys())
@pytest.mark.parametrize("tensor", tensors().values(), ids=tensors().keys())
def test_a_regular_part_is_a_view(tensor: torch.Tensor, index: tuple) -> None:
    lattice = lattice_of(index, tensor.shape)
    assert lattice is not None
    rows, columns = (np.arange(n)[i] for i, n in zip(index, tensor.shape, strict=True))
    expected = tensor[torch.from_numpy(rows)][:, torch.from_numpy(columns)]
    view = lattice.view(tensor)
    assert view.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    assert torch.equal(view.reshape(expected.shape), expected)
    assert lattice.split == (view.dim() > tensor.dim())


@pytest.mark.parametrize("index", IRREGULAR.values(), ids=IRREGULAR.keys())
def test_an_irregular_part_has_no_lattice(index: tuple) -> None:
    assert lattice_of(index, (24, 6)) is None
