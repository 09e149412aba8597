"""The chain of convolutions: its sizes, and that only its chain is elastic."""

from __future__ import annotations

import torch
from torch import nn

import manynet as mn
from manynet.models import conv_macro


def test_sizes_follow_the_arguments() -> None:
    network = conv_macro(3, 2, widths=(4, 6, 8), kernel=5)
    assert network(torch.zeros(2, 2, 16, 16)).shape == (2, 3)
    convolutions = [m for m in network if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 6, 8, 32]
    assert [m.kernel_size for m in convolutions] == [(5, 5)] * 3 + [(7, 7)]


def test_the_last_kernel_stays() -> None:
    family = mn.elastic(conv_macro(), torch.zeros(1, 1, 16, 16), width=(0.5, 1.0), kernel=True)
    kernels = [c.values for c in family.space.choices if c.name.endswith("kernel")]
    assert kernels == [(3, 5, 7)] * 4
