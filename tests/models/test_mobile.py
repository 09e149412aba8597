"""The small MobileNet: a family from the first trace, and identity blocks at the start."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError
from manynet.models.mobile import InvertedResidual, MobileCNN, mobile_cnn

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def family() -> mn.Family:
    torch.manual_seed(0)
    return mn.elastic(mobile_cnn(), IMAGES, width=(0.5, 0.75, 1.0), kernel=True).eval()


def shortcuts_alone(member: nn.Module) -> torch.Tensor:
    """Return the logits of a member whose blocks are their shortcuts."""
    assert isinstance(member, MobileCNN)
    x = member.stem(IMAGES)
    for stage in member.stages:
        for block in stage:
            assert isinstance(block, InvertedResidual)
            x = block.shortcut(x)
    return member.head(nn.functional.silu(member.norm(x)).mean((2, 3)))


def test_widths_depths_and_kernels_are_elastic(family: mn.Family) -> None:
    names = {name.rpartition(".")[2] for name in family.space.names}
    assert names == {"width", "depth", "kernel"}
    costs = [mn.macs()(family.extract(arch).eval(), IMAGES[:1])
             for arch in (family.space.smallest, family.space.largest)]  # fmt: skip
    assert costs[1] > 10 * costs[0]


def test_a_new_member_is_its_shortcuts_whatever_its_depth_and_kernel(family: mn.Family) -> None:
    space, rng = family.space, np.random.default_rng(0)
    for arch in (space.largest, space.smallest, *(space.sample(rng) for _ in range(5))):
        member = family.at(arch)
        with torch.no_grad():
            assert torch.equal(member(IMAGES), shortcuts_alone(member))


@pytest.mark.parametrize(
    "options",
    [{"widths": (8, 16)}, {"depths": (0, 1, 1)}, {"kernels": (3, 4, 3)}, {"expansion": 0}],
)
def test_what_no_network_can_have_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(InputError, match="mobile_cnn"):
        mobile_cnn(**options)  # type: ignore[arg-type]
