"""TangleNAS: its exact checks on a small copy of its convolutional space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import manynet as mn
from manynet.models import conv_macro
from manynet.systems.tanglenas import SYSTEM, conv_macro_family, tangle
from manynet.train import Relaxed, Softmax, relax, step_times, sum_outputs
from manynet.train._summed import SummedOutputs

IMAGES = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))


def small() -> Relaxed:
    torch.manual_seed(0)
    network = conv_macro(widths=(4, 4, 4, 4), kernel=5).eval()
    for module in network.modules():  # statistics as after a training
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.randn(4)
            module.running_var = torch.rand(4) + 0.5
    widths = {f"{n}.width": (0.5, 1.0) for n in (0, 4)}
    return relax(mn.elastic(network, IMAGES, width=widths, kernel=(3, 5), multiple_of=1))


def drawn(relaxed: Relaxed, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: torch.rand(len(s), generator=generator).softmax(0) for n, s in relaxed.shares.items()
    }


def test_the_space_is_the_papers() -> None:
    space = conv_macro_family().space
    assert space.count == 3**8 == 6561
    widths = [choice.values for choice in space.choices if choice.name.endswith("width")]
    assert widths == [(2, 4, 8), (4, 8, 16), (8, 16, 32), (16, 32, 64)]
    kernels = [choice.values for choice in space.choices if choice.name.endswith("kernel")]
    assert kernels == [(3, 5, 7)] * 4


def test_with_one_hot_shares_every_member_is_in_the_network() -> None:
    relaxed = small()
    assert relaxed.of.space.count == 64
    for arch in relaxed.of.space.enumerate():
        relaxed.set(relaxed.only(arch))
        found = relaxed.family.at({})(IMAGES)
        torch.testing.assert_close(found, relaxed.of.extract(arch)(IMAGES), rtol=1e-5, atol=1e-5)


def test_summed_weights_are_summed_outputs() -> None:
    relaxed = small()
    relaxed.set(drawn(relaxed))
    network, plain = relaxed.family.extract({}), sum_outputs(relaxed)
    layers = [m for m in plain.modules() if isinstance(m, SummedOutputs)]
    assert len(layers) == 4
    x = IMAGES
    with torch.no_grad():
        for mixed, summed in zip(network, plain, strict=True):  # type: ignore[arg-type]
            wanted = summed(x)
            assert float((mixed(x) - wanted).norm() / wanted.norm()) < 1e-5
            x = wanted


def test_summed_weights_take_a_fraction_of_the_work() -> None:
    """Seconds depend on who else is at work, so operations are counted; the proof times them."""
    relaxed = relax(conv_macro_family())
    images = torch.randn(16, 1, 16, 16)
    work = []
    for network in (relaxed.family.at({}), sum_outputs(relaxed)):
        with FlopCounterMode(display=False) as counter:
            network(images)
        work.append(counter.get_total_flops())
    assert work[1] > 4 * work[0]


def test_steps_are_timed_with_summed_weights_and_outputs() -> None:
    found = step_times(small(), IMAGES, repeats=1)
    assert min(found.values()) > 0
    assert found["times faster"] == found["summed outputs step ms"] / found["step ms"]


def test_one_convolution_a_layer_and_no_more_weights() -> None:
    relaxed = relax(conv_macro_family())
    count = sum(p.numel() for p in conv_macro().parameters())
    assert sum(p.numel() for p in relaxed.family.parameters()) == count
    with torch.profiler.profile() as profile:
        relaxed.family.at({})(IMAGES)
    assert [e.count for e in profile.key_averages() if e.key == "aten::conv2d"] == [5]


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(6, 16), nn.LayerNorm(16)
        self.second, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(hidden)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("options", [{}, {"estimator": Softmax(), "order": 2}])
def test_the_recipe_searches_any_family(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    x = torch.randn(512, 6, generator=torch.Generator().manual_seed(1))
    data = (x, x[:, :3].argmax(1))
    family = mn.elastic(Mlp(), x[:2], width=(0.25, 0.5, 1.0))
    found = tangle(family, data, steps=120, **options)  # type: ignore[arg-type]
    assert found.arch in family.space
    member = family.extract(found.arch).eval()
    assert float((member(x).argmax(1) == data[1]).float().mean()) > 0.8


def test_the_example_runs() -> None:
    names: dict[str, object] = {}
    exec(SYSTEM.example, names)
    assert isinstance(names["small"], nn.Module)
