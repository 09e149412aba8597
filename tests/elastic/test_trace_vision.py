"""Ways in which the axes of vision networks hang together, each in a small network of its shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet
from manynet.bindings.axes import length
from manynet.elastic._trace import Attribute, Trace, trace_model

Verify = Callable[..., Trace]


class Modulation(nn.Module):
    """Splits off single channels, each of which scales all the others (FocalNet)."""

    def __init__(self, width: int = 8, levels: int = 2) -> None:
        super().__init__()
        self.levels, self.sizes = levels, [width, levels + 1]
        self.first = nn.Conv2d(3, width + levels + 1, 1)
        self.last = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = torch.split(self.first(x), self.sizes, 1)
        for level in range(self.levels):
            values = values + values * gates[:, level : level + 1]
        return self.last(values * gates[:, self.levels :])


def test_channels_that_are_picked_one_by_one_stay_whole(verify: Verify) -> None:
    trace = verify(Modulation(), (torch.randn(1, 3, 4, 4),))
    assert [axis.size for axis in trace.axes] == [8]
    assert length(trace.tensors["first.weight"][0]) == 11


def test_a_convolution_of_one_position_passes_any_axis(verify: Verify) -> None:
    class Mixed(nn.Module):
        """Sums three tensors with learned weights: a convolution over their stack (CoaT)."""

        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(nn.Linear(4, 6) for _ in range(3))
            self.mix, self.last = nn.Conv1d(3, 1, 1), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            stacked = torch.stack([branch(x) for branch in self.branches], 1)
            return self.last(self.mix(stacked).squeeze(1))

    trace = verify(Mixed(), (torch.randn(5, 4),))
    assert [axis.size for axis in trace.axes] == [6]


def test_a_convolution_of_several_positions_freezes_the_space() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.Conv1d(3, 2, 3, padding=1), nn.Linear(6, 2))
    assert trace_model(net, (torch.randn(5, 3, 4),)).axes == ()
    strided = nn.Sequential(nn.Linear(4, 6), nn.Conv1d(3, 2, 1, stride=2), nn.Linear(3, 2))
    assert trace_model(strided, (torch.randn(5, 3, 4),)).axes == ()


class Blur(nn.Module):
    """Blurs every channel with one kernel, as many times as an attribute says (BlurPool)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", torch.rand(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=1, groups=self.channels)


def test_the_groups_of_a_functional_convolution_follow_its_channels(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), Blur(8), nn.Conv2d(8, 2, 1))
    trace = verify(net, (torch.randn(1, 3, 4, 4),))
    assert trace.attributes[Attribute("1", "channels")] == (trace.axes[0],)


def test_groups_of_the_shape_of_the_input_follow_it(verify: Verify) -> None:
    class Unlearned(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kernel = x.new_ones(x.shape[1], 1, 3, 3)
            return functional.conv2d(x, kernel, None, 1, 1, 1, x.shape[1])

    net = nn.Sequential(nn.Conv2d(3, 8, 1), Unlearned(), nn.Conv2d(8, 2, 1))
    assert [axis.size for axis in verify(net, (torch.randn(1, 3, 4, 4),)).axes] == [8]


def test_an_auxiliary_head_that_cannot_run_at_the_traced_size_is_reported() -> None:
    class Helped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.helper = nn.Conv2d(8, 2, 5)

        def forward(self, x: Tensor) -> Any:
            x = self.trunk(x)
            return (self.head(x), self.helper(x)) if self.training else self.head(x)

    small, large = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 8, 8)
    (note,) = manynet.elastic(Helped(), small).report().warnings
    assert note.name == "training mode"
    assert "helper" in note.detail
    assert not manynet.elastic(Helped(), large).report().warnings
