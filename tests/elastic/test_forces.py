"""Networks whose forward pass holds a backward one: forces are the slopes of an energy."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from manynet.elastic._trace import Trace
from manynet.graphs import EnergyForces, Ponita


def test_widths_are_followed_through_the_slopes_of_an_energy(
    verify: Callable[..., Trace],
) -> None:
    torch.manual_seed(0)
    network = Ponita(2, channels=8, basis=6, depth=2, orientations=4, scale=1.0)
    positions = torch.randn(2, 3, 3)
    trace = verify(EnergyForces(network, (1, 8)), (positions, torch.tensor([[1, 8, 1]] * 2)))
    assert not trace.unknown


class Slopes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.layers(x).select(1, 2).sum(), x)
        return slope


def test_a_position_picked_by_its_number_stays_where_it_is(verify: Callable[..., Trace]) -> None:
    trace = verify(Slopes(), (torch.randn(5, 3),))
    assert not trace.unknown
