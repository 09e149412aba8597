"""The relaxed network: every member is in it, and its shares have the members' gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings.recipes import quantized
from manynet.errors import InputError
from manynet.train import Task, accumulate, relax


class Encoder(nn.Module):
    """Layer norms over the searched width, heads, depths."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))  # type: ignore[no-any-return]


class Normed(nn.Module):
    """An RMS norm over a width, and a layer norm without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rms = nn.Linear(5, 12), nn.RMSNorm(12, eps=1e-5)
        self.second, self.plain = nn.Linear(12, 8), nn.LayerNorm(8, elementwise_affine=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.plain(self.second(self.rms(self.first(x)))))
        return self.head(inner)  # type: ignore[no-any-return]


def conv(dtype: torch.dtype = torch.float32) -> tuple[mn.Family, Tensor]:
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 7, padding=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    )
    x = torch.randn(4, 1, 9, 9, dtype=dtype)
    return mn.elastic(network.to(dtype), x, width=(0.5, 1.0), kernel=True), x


def encoder(dtype: torch.dtype = torch.float32) -> tuple[mn.Family, Tensor]:
    x = torch.randn(4, 6, 5, dtype=dtype)
    return mn.elastic(Encoder().to(dtype), x, width=(0.5, 1.0), keep=("*head_dim",)), x


def normed(dtype: torch.dtype = torch.float32) -> tuple[mn.Family, Tensor]:
    x = torch.randn(4, 5, dtype=dtype)
    return mn.elastic(Normed().to(dtype), x, width=(0.25, 0.5, 1.0)), x


FAMILIES = {"conv": conv, "encoder": encoder, "normed": normed}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", FAMILIES)
def test_with_shares_of_one_it_computes_every_member(name: str) -> None:
    family, x = FAMILIES[name]()
    relaxed = relax(family)
    assert relaxed.family.training is family.training
    family.eval()
    relaxed.family.eval()
    assert 9 <= family.space.count <= 64
    for arch in family.space.enumerate():
        relaxed.set(relaxed.only(arch))
        network, member = relaxed.family.at({}), family.extract(arch)
        torch.testing.assert_close(network(x), member(x), rtol=1e-5, atol=1e-5)
        with torch.no_grad():  # where PyTorch's fused layers would pass norms by
            torch.testing.assert_close(network(x), member(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gradients_of_the_shares_are_right(name: str) -> None:
    family, x = FAMILIES[name](torch.float64)
    relaxed = relax(family)
    relaxed.family.eval()
    labels = torch.arange(4) % 3
    rng = np.random.default_rng(0)
    point = {n: torch.from_numpy(rng.dirichlet(np.ones(len(s)))) for n, s in relaxed.shares.items()}

    def loss(shares: dict[str, Tensor]) -> float:
        relaxed.set(shares)
        relaxed.family.zero_grad()
        return float(
            accumulate(relaxed.family, (x, labels), [relaxed.family.space.largest], Task())
        )

    loss(point)
    grads = {n: s.grad.clone() for n, s in relaxed.shares.items() if s.grad is not None}
    assert grads.keys() == point.keys()
    toward = {n: torch.randn(len(s)).double() for n, s in point.items()}
    step = 1e-4
    ends = [loss({n: s + k * step * toward[n] for n, s in point.items()}) for k in (1, -1)]
    slope = sum(float((grads[n] * toward[n]).sum()) for n in point)
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-5)


def test_it_trains_the_family_itself_and_copies_nothing() -> None:
    family, x = conv()
    relaxed = relax(family)
    own = dict(family.named_parameters())
    for name, parameter in relaxed.family.named_parameters():
        assert parameter is own[name], name
    assert not any("share" in name for name, _ in relaxed.family.named_parameters())
    relaxed.family.train().at({})(x).sum().backward()
    before = family.eval().at(family.space.smallest)(x).detach()
    with torch.no_grad():
        for parameter in relaxed.family.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    assert not torch.equal(family.at(family.space.smallest)(x), before)


@pytest.mark.parametrize("values", [(0.5, 1.0), (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)])
def test_parameters_and_convolutions_do_not_grow_with_the_choices(
    values: tuple[float, ...],
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    x = torch.randn(2, 1, 8, 8)
    family = mn.elastic(network, x, width=values, kernel=True)
    relaxed = relax(family)
    count = sum(p.numel() for p in relaxed.family.parameters())
    assert count == sum(p.numel() for p in network.parameters())
    with torch.profiler.profile() as profile:
        relaxed.family.at({})(x)
    calls = [event.count for event in profile.key_averages() if event.key == "aten::conv2d"]
    assert calls == [2]


def test_a_depth_is_shared_among_the_blocks_that_it_keeps() -> None:
    family, x = encoder()
    relaxed = relax(family)
    family.eval()
    relaxed.family.eval()
    depth = next(name for name in family.space.names if name.endswith("depth"))
    shares = relaxed.only(family.space.largest)
    shares[depth] = torch.tensor([0.2, 0.3, 0.5])
    relaxed.set(shares)
    model = family.extract(family.space.largest)
    hidden = model.embed(x)
    for kept, block in zip((1.0, 0.8, 0.5), model.encoder.layers, strict=True):
        hidden = hidden + kept * (block(hidden) - hidden)
    wanted = model.head(hidden.mean(1))
    torch.testing.assert_close(relaxed.family.at({})(x), wanted, rtol=1e-5, atol=1e-5)


def test_the_best_arch_is_that_of_the_highest_scores() -> None:
    family, _ = conv()
    relaxed = relax(family)
    for arch in (family.space.smallest, family.space.largest):
        assert relaxed.best(relaxed.only(arch)) == arch


def test_a_size_that_is_used_beside_the_weights_is_refused() -> None:
    family = mn.elastic(Encoder(), torch.randn(4, 6, 5), width=(0.5, 1.0))
    with pytest.raises(InputError, match="size of a head; leave it whole"):
        relax(family)


def test_what_is_no_slice_is_refused() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    bits = mn.bind(network, "0.weight", quantized((4, 8)))
    with pytest.raises(InputError, match=r"'0.weight.bits' is no size of a slice"):
        relax(bits)
    kernels = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 1))
    transformed = mn.elastic(
        kernels, torch.zeros(1, 1, 8, 8), width=(0.5, 1.0), kernel=True, kernel_transform=True
    )
    with pytest.raises(InputError, match="is read by a KernelTransform"):
        relax(transformed)
