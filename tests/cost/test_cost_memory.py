from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manynet.cost import peak_memory


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 10))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (nn.Identity(), 10),  # the inputs
        (nn.Linear(10, 10), 20),
        (nn.Sequential(nn.Linear(10, 30), nn.Linear(30, 10)), 50),
        (nn.Sequential(nn.Linear(10, 30), nn.ReLU(), nn.Linear(30, 10)), 70),
        (nn.Sequential(nn.Linear(10, 30), nn.ReLU(inplace=True), nn.Linear(30, 10)), 50),
        (nn.Sequential(*[nn.Linear(10, 10)] * 9), 30),  # what is no longer needed is released
        (Residual(), 30),
        (nn.Flatten(), 10),  # a view takes nothing
    ],
)
def test_peak_is_what_is_alive_at_once(net: nn.Module, expected: int) -> None:
    x = torch.randn(5, 10)
    assert peak_memory()(net, x) == 4 * expected
    assert peak_memory()(net, x) == 4 * expected  # the same in every run
    assert peak_memory(batch=7)(net, x) == 7 * 4 * expected


def test_a_large_input_that_is_only_a_view_counts_its_own_rows() -> None:
    x = torch.randn(1000, 10)
    assert peak_memory()(nn.Linear(10, 10), x) == 80


def test_weights_are_not_activations_and_mode_stays() -> None:
    net = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10)).train()
    before = net[1].running_mean.clone()
    assert peak_memory()(net, torch.randn(1, 10)) == 4 * 30
    assert net.training
    assert torch.equal(net[1].running_mean, before)


@pytest.mark.gpu
def test_on_cuda_the_allocator_is_asked() -> None:
    net = nn.Linear(1024, 1024).cuda()
    found = peak_memory()(net, torch.randn(1, 1024))
    assert 2 * 4096 <= found < 2**25
