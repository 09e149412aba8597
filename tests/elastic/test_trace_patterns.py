"""Patterns of vision and sequence networks: their axes, and that permuting them is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from manynet.elastic._trace import Trace
from networks import Net

Verify = Callable[..., Trace]
IMAGE, SEQUENCE = (2, 3, 8, 8), (2, 5, 6)


def conv(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def even_and_odd(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.last(x[:, ::2] + x[:, 1::2])


def joined_and_halved(self: Any, x: Tensor) -> Tensor:
    left, right = torch.cat([self.a(x), self.b(x)], 1).chunk(2, 1)
    return self.c(left) + self.d(right)


def scaled_and_shifted(self: Any, x: Tensor) -> Tensor:
    scale, shift = self.condition(x.mean((2, 3)))[..., None, None].chunk(2, 1)
    return self.last(self.first(x) * scale + shift)


def channel_attention(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    flat = x.flatten(2)
    return self.last((torch.softmax(flat @ flat.transpose(1, 2), -1) @ flat).view_as(x))


def einsum_attention(self: Any, x: Tensor) -> Tensor:
    scores = torch.einsum("bqd,bkd->bqk", self.query(x), self.key(x))
    return self.last(torch.einsum("bqk,bkd->bqd", scores, self.value(x)))


def under_a_mask(self: Any, x: Tensor) -> Tensor:
    y, inside = self.first(x), x.sum(-1) > 0
    result = torch.zeros(*y.shape[:2], 3)
    result[inside] = self.last(torch.relu(y[inside]))
    return result


def made_equally_large(self: Any, x: Tensor) -> Tensor:
    rows, columns = torch.broadcast_tensors(self.rows(x)[:, :, None], self.columns(x)[:, None])
    return self.last(torch.cat([rows, columns], -1)).sum((1, 2))


def mixed_by_frequencies(self: Any, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(self.first(x), dim=1)
    shifted = torch.fft.irfft(spectrum * spectrum.conj(), n=x.shape[1], dim=1)
    return self.last(shifted)


def cut_at_a_constant(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    return self.left(y[..., :3]) + self.right(y[..., 3:])


def cut_at_a_constant_in_a_tensor(self: Any, x: Tensor) -> Tensor:
    y, bound = self.first(x), torch.IntTensor([3])[0]
    return self.left(y[..., :bound]) + self.right(y[..., bound:])


def cut_behind_a_constant(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    return self.left(y[..., :-3]) + self.right(y[..., -3:])


def skip_over_scales(self: Any, x: Tensor) -> Tensor:
    wide = self.down1(x)
    deep = self.up(functional.interpolate(self.down2(functional.max_pool2d(wide, 2)), (8, 8)))
    return self.last(torch.cat([deep, wide], 1))


def unfolded_and_folded(self: Any, x: Tensor) -> Tensor:
    windows = functional.unfold(self.first(x), 2, stride=2)
    return self.last(functional.fold(windows, (8, 8), 2, stride=2))


def last_state(self: Any, x: Tensor) -> Tensor:
    _, state = self.layers(self.first(x))
    return self.last(state[0][-1])


PATTERNS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[int]]] = {
    "weight norm": (
        lambda: nn.Sequential(parametrizations.weight_norm(conv(3, 8, 3)), nn.ReLU(), conv(8, 2)),
        IMAGE,
        [8],
    ),
    "weight norm of the other dimension": (
        lambda: nn.Sequential(
            conv(3, 8), parametrizations.weight_norm(nn.ConvTranspose2d(8, 6, 1), dim=1), conv(6, 2)
        ),
        IMAGE,
        [6, 8],
    ),
    "positions read with a stride": (
        lambda: Net(even_and_odd, first=conv(3, 16), last=conv(8, 2)), IMAGE, [8],
    ),
    "a concatenation cut at another bound": (
        lambda: Net(joined_and_halved, a=conv(3, 8), b=conv(3, 4), c=conv(6, 2), d=conv(6, 2)),
        IMAGE,
        [2, 4],
    ),
    "scales and shifts from one layer": (
        lambda: Net(scaled_and_shifted, first=conv(3, 8), condition=nn.Linear(3, 16),
                    last=conv(8, 2)),
        IMAGE,
        [8],
    ),
    "attention between channels": (
        lambda: Net(channel_attention, first=conv(3, 8), last=conv(8, 2)), IMAGE, [8],
    ),
    "attention by einsum": (
        lambda: Net(einsum_attention, query=nn.Linear(6, 8), key=nn.Linear(6, 8),
                    value=nn.Linear(6, 12), last=nn.Linear(12, 3)),
        SEQUENCE,
        [8, 12],
    ),
    "positions under a mask of several dimensions": (
        lambda: Net(under_a_mask, first=nn.Linear(6, 8), last=nn.Linear(8, 3)), SEQUENCE, [8],
    ),
    "tensors made equally large": (
        lambda: Net(made_equally_large, rows=nn.Linear(6, 8), columns=nn.Linear(6, 8),
                    last=nn.Linear(16, 3)),
        SEQUENCE,
        [8],
    ),
    "sequences as frequencies": (
        lambda: Net(mixed_by_frequencies, first=nn.Linear(6, 8), last=nn.Linear(8, 3)),
        SEQUENCE,
        [8],
    ),
    "cut at a constant": (
        lambda: Net(cut_at_a_constant, first=nn.Linear(6, 8), left=nn.Linear(3, 4),
                    right=nn.Linear(5, 4)),
        SEQUENCE,
        [5],
    ),
    "cut at a constant in a tensor": (
        lambda: Net(cut_at_a_constant_in_a_tensor, first=nn.Linear(6, 8), left=nn.Linear(3, 4),
                    right=nn.Linear(5, 4)),
        SEQUENCE,
        [5],
    ),
    "cut at a constant from the end": (
        lambda: Net(cut_behind_a_constant, first=nn.Linear(6, 8), left=nn.Linear(5, 4),
                    right=nn.Linear(3, 4)),
        SEQUENCE,
        [5],
    ),
    "a U-Net": (
        lambda: Net(skip_over_scales, down1=conv(3, 8, 3), down2=conv(8, 16, 3), up=conv(16, 12),
                    last=conv(20, 2)),
        IMAGE,
        [8, 12, 16],
    ),
    "windows unfolded and folded": (
        lambda: Net(unfolded_and_folded, first=conv(3, 8), last=conv(8, 2)), IMAGE, [8],
    ),
    "pixels into channels": (
        lambda: nn.Sequential(conv(3, 8), nn.PixelUnshuffle(2), conv(32, 2)), IMAGE, [8],
    ),
    "a norm of groups": (
        lambda: nn.Sequential(conv(3, 32), nn.GroupNorm(8, 32), conv(32, 2)), IMAGE, [4],
    ),
    "a norm of instances": (
        lambda: nn.Sequential(conv(3, 8), nn.InstanceNorm2d(8, affine=True), conv(8, 2)),
        IMAGE,
        [8],
    ),
    "a norm over neighboring channels": (
        lambda: nn.Sequential(conv(3, 8), nn.LocalResponseNorm(3), conv(8, 4), conv(4, 2)),
        IMAGE,
        [4],
    ),
    "PyTorch's transformer": (
        lambda: nn.Sequential(
            nn.Linear(6, 16),
            nn.TransformerEncoder(
                nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 1,
                enable_nested_tensor=False,
            ),
            nn.Linear(16, 3),
        ),
        SEQUENCE,
        [2, 8, 24],
    ),
    "the last state of an LSTM": (
        lambda: Net(last_state, first=nn.Linear(6, 8), layers=nn.LSTM(8, 12, 2, batch_first=True),
                    last=nn.Linear(12, 3)),
        SEQUENCE,
        [8, 12],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PATTERNS)
def test_patterns(verify: Verify, name: str) -> None:
    make, shape, expected = PATTERNS[name]
    torch.manual_seed(0)
    trace = verify(make(), (torch.randn(shape),))
    assert sorted(axis.size for axis in trace.axes) == expected
    assert not trace.unknown
