"""The network of atomic units: branches can vanish, and constants can be folded."""

from __future__ import annotations

import pytest
import torch

import manynet as mn
from manynet.errors import InputError
from manynet.models import atomic_cnn, fold_constants
from manynet.models.atomic import AtomicBlock, KernelBranch, TokenBranch

X = torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def family_of(**options: object) -> mn.Family:
    torch.manual_seed(0)
    network = atomic_cnn(5, widths=(6, 9), depths=(1, 2), **options)  # type: ignore[arg-type]
    return mn.elastic(
        network, X, width={"*.branches.*": (0.5, 1.0)}, depth=False, importance=None
    ).eval()


def test_every_branch_has_an_axis_of_its_own() -> None:
    family = family_of(kernels=(3, 5, 7))
    names = {f"blocks.{n}.branches.kernel{k}.expand.width" for n in range(3) for k in (3, 5, 7)}
    assert set(family.space.names) == names
    for arch in (family.space.largest, family.space.smallest):
        assert torch.allclose(family.extract(arch)(X), family.at(arch)(X), atol=1e-6)


def test_a_block_without_units_is_its_shortcut() -> None:
    family = family_of()
    mn.cut(family, {f"blocks.2.branches.kernel{k}.expand.width": () for k in (3, 5)})
    member = family.extract({})
    block = member.blocks[2]  # type: ignore[index]
    assert isinstance(block, AtomicBlock)
    images = torch.randn(2, 9, 3, 3)
    assert torch.equal(block(images), images)
    assert member(X).shape == (3, 5)
    family.train().at({})(X).sum().backward()
    assert member.state_dict()["blocks.2.branches.kernel3.expand.weight"].numel() == 0


def test_constants_of_silent_units_are_folded_into_the_next_mean() -> None:
    torch.manual_seed(0)
    network = atomic_cnn(5, widths=(6, 9), depths=(1, 1)).eval()
    branch = network.blocks[1].branches["kernel5"]  # type: ignore[union-attr, index]
    with torch.no_grad():
        branch.norm2.weight[[0, 4]] = 0.0
        branch.norm2.bias[[0, 4]] = torch.tensor([0.8, -0.5])  # the second is cut at zero
    before = network(X).detach()
    fold_constants(network, {"blocks.1.branches.kernel5": [0, 4]})
    with torch.no_grad():
        branch.project.weight[:, [0, 4]] = 0.0
    assert torch.allclose(network(X), before, atol=1e-6)


def test_tokens_may_stand_in_any_order_and_go_one_by_one() -> None:
    family = family_of(tokens=6, side=3)
    axis = "blocks.1.branches.tokens.expand.width"
    assert axis in family.space.names
    for arch in (family.space.largest, family.space.smallest):
        assert torch.allclose(family.extract(arch)(X), family.at(arch)(X), atol=1e-6)
    whole = family.extract({})
    member = family.extract({})
    branch = member.blocks[1].branches["tokens"]  # type: ignore[union-attr, index]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name in ("expand.weight", "norm2.weight", "norm2.bias"):
            tensor = branch.get_parameter(name)
            tensor.copy_(tensor[order].clone())
        branch.project.weight.copy_(branch.project.weight[:, order].clone())
    assert torch.allclose(member(X), whole(X), atol=1e-5)
    mn.cut(family, {axis: (0, 2, 3)})
    assert family.extract({}).blocks[1].branches["tokens"].project.weight.shape[1] == 3  # type: ignore[union-attr, index]
    mn.cut(family, {axis: ()})
    assert family.extract({})(X).shape == (3, 5)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_tokens_see_the_whole_image_and_come_back_in_its_size(stride: int, size: int) -> None:
    torch.manual_seed(0)
    branch = TokenBranch(3, 5, 4, side=2, heads=2, stride=stride).eval()
    images = torch.randn(2, 3, size, size, requires_grad=True)
    out = branch(images)
    assert out.shape == KernelBranch(3, 6, 4, kernel=3, stride=stride)(images).shape
    out[0, 0, 0, 0].backward()
    assert images.grad is not None
    assert images.grad[0, :, -3:, -3:].any() and not images.grad[1].any()


@pytest.mark.parametrize(
    "options",
    [
        {"widths": (8,)},
        {"depths": (0, 1, 1)},
        {"kernels": (3, 4)},
        {"kernels": (3, 3)},
        {"kernels": ()},
        {"stride": 0},
        {"tokens": -1},
        {"tokens": 2, "side": 0},
    ],
)
def test_what_no_network_can_have_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="atomic_cnn"):
        atomic_cnn(**options)  # type: ignore[arg-type]
