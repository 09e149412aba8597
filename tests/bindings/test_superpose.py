"""Superposed slices: one mask is the same as the sum over all padded slices."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import manynet as mn
from manynet.bindings import Axis, Concat, Dim, Slice, Superpose, superposed
from manynet.bindings.axes import axes_of, length
from manynet.bindings.protocol import Part
from manynet.errors import InputError
from manynet.space import Arch
from manynet.train import relax

OUT, IN, HEADS = Axis("out", 6), Axis("in", 4), Axis("heads", 3)
KERNEL = Axis("kernel", 7, anchor="center")
SIZE = Axis("", 2, "whole")
VALUES: Mapping[str, tuple[int, ...]] = {
    "out": (2, 3, 6),
    "in": (1, 2, 4),
    "kernel": (3, 5, 7),
    "heads": (1, 3),
}
QKV: Dim = (Concat(((HEADS, SIZE), (HEADS, SIZE), (HEADS, SIZE))),)
SHAPES: Mapping[str, tuple[Dim, ...]] = {
    "linear": ((OUT,), (IN,)),
    "bias": ((OUT,),),
    "conv": ((OUT,), (IN,), (KERNEL,), (KERNEL,)),
    "depthwise": ((OUT,), (SIZE,), (KERNEL,), (KERNEL,)),
    "one width on both sides": ((OUT,), (OUT,)),
    "fused q, k, v": (QKV, (IN,)),
    "fused q, k, v of their own width": (QKV, (HEADS, SIZE)),
    "two factors": ((HEADS, OUT), (IN,)),
}


def shares_of(dims: Sequence[Dim], dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    names = {axis.name for dim in dims for axis in axes_of(dim) if axis.name}
    return {
        name: torch.rand(len(VALUES[name]), generator=generator, dtype=dtype)
        for name in sorted(names)
    }


def padded_slices(
    weight: Tensor, dims: tuple[Dim, ...], shares: Mapping[str, Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Return each slice with zeros around it, and its share: what the paper's loop adds up."""
    axes = {axis for dim in dims for axis in axes_of(dim) if axis.name}
    found = []
    for places in itertools.product(*(range(len(VALUES[name])) for name in shares)):
        at = dict(zip(shares, places, strict=True))
        part = Slice("w", dims).at(Arch({}), {a: VALUES[a.name][at[a.name]] for a in axes})
        assert isinstance(part, Part)
        padded = torch.zeros_like(weight)
        kept = [
            torch.arange(n)[i if isinstance(i, slice) else torch.from_numpy(i)]
            for i, n in zip(part.index, weight.shape, strict=True)
        ]
        grid = torch.meshgrid(*kept, indexing="ij")
        padded[grid] = weight[grid]
        found.append((padded, torch.stack([shares[n][p] for n, p in at.items()]).prod()))
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_one_mask_is_the_sum_over_all_padded_slices(name: str) -> None:
    dims = SHAPES[name]
    # a share of the other choices counts once, so these need not sum to one where all cut
    weight = torch.randn([length(dim) for dim in dims], generator=torch.Generator().manual_seed(0))
    shares = shares_of(dims)
    looped = torch.stack([share * part for part, share in padded_slices(weight, dims, shares)])
    found = superposed(weight, dims, values=VALUES, shares=shares)
    torch.testing.assert_close(found, looped.sum(0), rtol=1e-6, atol=1e-6)


def test_a_bias_counts_as_its_width_alone_when_other_shares_sum_to_one() -> None:
    bias, width = torch.randn(6), torch.tensor([0.2, 0.5, 0.3])
    found = superposed(bias, ((OUT,),), values=VALUES, shares={"out": width})
    mask = torch.tensor([1.0, 1.0, 0.8, 0.3, 0.3, 0.3])
    torch.testing.assert_close(found, bias * mask)


def test_closed_forms() -> None:
    kernel = Axis("k", 3, anchor="center")
    found = superposed(
        torch.tensor([1.0, 2.0, 3.0]),
        ((kernel,),),
        values={"k": (1, 3)},
        shares={"k": torch.tensor([0.25, 0.75])},
    )
    assert found.tolist() == [0.75, 2.0, 2.25]
    width = Axis("w", 4)
    found = superposed(
        torch.ones(4), ((width,),), values={"w": (2, 4)}, shares={"w": torch.tensor([0.3, 0.7])}
    )
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.7, 0.7]))


def test_one_width_on_both_sides_counts_as_the_larger_position() -> None:
    share = torch.tensor([0.2, 0.5, 0.3])
    mask = superposed(torch.ones(6, 6), ((OUT,), (OUT,)), values=VALUES, shares={"out": share})
    line = superposed(torch.ones(6), ((OUT,),), values=VALUES, shares={"out": share})
    for row, column in itertools.product(range(6), range(6)):
        assert mask[row, column] == pytest.approx(float(line[max(row, column)]))


@pytest.mark.parametrize("name", ["linear", "conv"])
def test_the_layer_is_linear_in_the_slices(name: str) -> None:
    dims = SHAPES[name]
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn([length(dim) for dim in dims], generator=generator, dtype=torch.float64)
    shares = shares_of(dims, torch.float64)
    x = torch.randn((2, 4, 9, 9) if name == "conv" else (2, 4), generator=generator).double()

    def layer(weight: Tensor) -> Tensor:
        if name == "conv":
            return functional.conv2d(x, weight, padding=3)
        return functional.linear(x, weight)

    mixed = layer(superposed(weight, dims, values=VALUES, shares=shares))
    summed = sum(share * layer(part) for part, share in padded_slices(weight, dims, shares))
    assert isinstance(summed, Tensor)
    assert float((mixed - summed).norm() / summed.norm()) < 1e-5


def test_the_gradient_of_a_share_is_the_inner_product_with_its_slice() -> None:
    dims = SHAPES["conv"]
    shares = {n: s.requires_grad_() for n, s in shares_of(dims, torch.float64).items()}
    weight = torch.randn([length(dim) for dim in dims], dtype=torch.float64, requires_grad=True)
    names = tuple(shares)

    def value(weight: Tensor, *given: Tensor) -> Tensor:
        own = dict(zip(names, given, strict=True))
        return superposed(weight, dims, values=VALUES, shares=own)

    assert torch.autograd.gradcheck(value, (weight, *shares.values()), fast_mode=True)
    mixed = value(weight, *shares.values())
    toward = torch.randn_like(mixed)
    found = torch.autograd.grad(mixed, shares["kernel"], toward)[0]
    for place in range(3):
        hot = torch.zeros(3, dtype=torch.float64)
        hot[place] = 1
        alone = {**shares, "kernel": hot}
        part = superposed(weight, dims, values=VALUES, shares=alone)
        assert float((toward * part).sum().detach()) == pytest.approx(float(found[place]))


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(InputError, match="'out' has 3 values and shares of shape"):
        superposed(torch.ones(6), ((OUT,),), values=VALUES, shares={"out": torch.ones(2)})


def test_a_superposed_family_survives_its_file(tmp_path: object) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    relaxed = relax(mn.elastic(model, torch.zeros(1, 4), width=(0.25, 0.5, 1.0)))
    relaxed.set({"0.width": torch.tensor([0.5, 0.2, 0.3])})
    assert isinstance(relaxed.family.blueprint.bindings["0.weight"], Superpose)
    relaxed.family.save(str(tmp_path))
    again = mn.load(str(tmp_path), model)
    x = torch.randn(3, 4)
    assert torch.equal(again.at({})(x), relaxed.family.at({})(x))
