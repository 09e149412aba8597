"""The trace through operations on regions of images, on bags of words and on pairs of features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from manynet.elastic._trace import Trace
from networks import Net

Verify = Callable[..., Trace]


def widths(trace: Trace) -> list[int]:
    assert not trace.unknown
    return sorted(axis.size for axis in trace.axes)


@pytest.mark.parametrize(("groups", "expected"), [(1, [8, 16]), (2, [2, 4, 8])])
def test_deformable_convolutions(verify: Verify, groups: int, expected: list[int]) -> None:
    ops = pytest.importorskip("torchvision.ops")

    def forward(self: Any, x: Tensor) -> Tensor:
        return self.last(self.deformed(self.first(x), self.offset(x), self.mask(x).sigmoid()))

    net = Net(
        forward,
        first=nn.Conv2d(3, 16, 1),
        offset=nn.Conv2d(3, 18, 1),
        mask=nn.Conv2d(3, 9, 1),
        deformed=ops.DeformConv2d(16, 8, 3, padding=1, groups=groups),
        last=nn.Conv2d(8, 2, 1),
    )
    assert widths(verify(net, (torch.randn(2, 3, 6, 6),))) == expected


def test_offsets_of_several_groups_fix_how_many_there_are(verify: Verify) -> None:
    ops = pytest.importorskip("torchvision.ops")
    net = Net(
        lambda self, x: self.deformed(self.first(x), self.offset(x)),
        first=nn.Conv2d(3, 16, 1),
        offset=nn.Conv2d(3, 36, 1),
        deformed=ops.DeformConv2d(16, 8, 3, padding=1),
    )
    assert widths(verify(net, (torch.randn(2, 3, 6, 6),))) == [8]


@pytest.mark.parametrize("pool", ["roi_align", "roi_pool"])
def test_channels_of_pooled_regions_are_those_of_the_image(verify: Verify, pool: str) -> None:
    ops = pytest.importorskip("torchvision.ops")

    def forward(self: Any, x: Tensor, boxes: Tensor) -> Tensor:
        regions = getattr(ops, pool)(self.first(x), [boxes], 2)
        return self.last(regions)

    net = Net(forward, first=nn.Conv2d(3, 8, 1), last=nn.Conv2d(8, 2, 1))
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [1.0, 1.0, 5.0, 6.0]])
    assert widths(verify(net, (torch.randn(1, 3, 8, 8), boxes))) == [8]


def test_bags_of_embeddings_have_the_width_of_each(verify: Verify) -> None:
    net = nn.Sequential(nn.EmbeddingBag(20, 8), nn.Linear(8, 3))
    assert widths(verify(net, (torch.randint(0, 20, (4, 6)),))) == [8]


def test_distances_read_one_width(verify: Verify) -> None:
    net = Net(
        lambda self, x: torch.cdist(self.a(x), self.b(x)), a=nn.Linear(6, 8), b=nn.Linear(6, 8)
    )
    assert widths(verify(net, (torch.randn(2, 5, 6),))) == [8]


def test_a_bilinear_layer_has_three_widths(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.last(self.both(self.a(x), self.b(x))),
        a=nn.Linear(6, 8),
        b=nn.Linear(6, 4),
        both=nn.Bilinear(8, 4, 7),
        last=nn.Linear(7, 3),
    )
    assert widths(verify(net, (torch.randn(2, 5, 6),))) == [4, 7, 8]


def test_spectral_norm_leaves_widths_elastic(verify: Verify) -> None:
    net = nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    assert widths(verify(net, (torch.randn(2, 3, 6, 6),))) == [8]
