"""The small networks: shapes, their start, and what a family of them reaches on digits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from manynet.data import Samples, batches, load_data
from manynet.elastic import elastic
from manynet.errors import InputError
from manynet.models.cnn import ResidualBlock, mlp, small_cnn
from manynet.train import train


@pytest.mark.parametrize(
    ("channels", "size", "widths", "kernels"),
    [(1, 8, (16, 32), (3, 3)), (3, 32, (8, 16, 24), (3, 5, 5)), (2, 7, (4,), (1,))],
)
def test_shapes(
    channels: int, size: int, widths: tuple[int, ...], kernels: tuple[int, ...]
) -> None:
    net = small_cnn(7, channels, widths=widths, depths=(2,) * len(widths), kernels=kernels)
    assert net(torch.zeros(2, channels, size, size)).shape == (2, 7)


def test_a_block_starts_as_its_shortcut() -> None:
    images = torch.rand(2, 4, 6, 6)
    assert torch.equal(ResidualBlock(4, 4)(images), images)
    block = ResidualBlock(4, 8, stride=2).eval()
    assert torch.equal(block(images), torch.relu(block.shortcut(images)))


def test_width_depth_and_kernel_are_elastic() -> None:
    net = small_cnn(kernels=(5, 3))
    family = elastic(net, (torch.zeros(2, 1, 8, 8),), kernel=True)
    names = set(family.space.names)
    assert {"stages.0.depth", "stages.1.depth", "stages.0.0.conv1.kernel"} <= names
    images = torch.randn(3, 1, 8, 8)
    net.eval()
    family.eval()
    assert torch.allclose(family.at(family.space.largest)(images), net(images), atol=1e-5)
    assert family.at(family.space.smallest)(images).shape == (3, 10)


def test_an_mlp_is_a_plain_sequence() -> None:
    net = mlp(64, 10, widths=(32, 16), dropout=0.1)
    assert [type(layer) for layer in net] == [
        nn.Flatten,
        *[nn.Linear, nn.ReLU, nn.Dropout] * 2,
        nn.Linear,
    ]
    assert net(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="2 widths, 2 depths and 3 kernels"):
        small_cnn(kernels=(3, 3, 3))
    with pytest.raises(InputError, match="odd kernels"):
        small_cnn(kernels=(3, 4))
    with pytest.raises(InputError, match="at least 1"):
        small_cnn(depths=(0, 2))


def accuracy(member: nn.Module, data: Samples) -> float:
    with torch.no_grad():
        right = [(member(inputs).argmax(1) == labels) for inputs, labels in batches(data, 500)]
    return float(torch.cat(right).float().mean())


def recalibrated(member: nn.Module, data: Samples) -> nn.Module:
    for module in member.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    member.train()
    with torch.no_grad():
        for inputs, _ in batches(data, 256):
            assert isinstance(inputs, Tensor)
            member(inputs)
    return member.eval()


@pytest.mark.slow
def test_a_family_on_digits_is_good_at_both_ends() -> None:
    data = load_data("digits")
    torch.manual_seed(0)
    family = elastic(small_cnn(), data.example_inputs(), width=(0.25, 0.5, 0.75, 1.0))
    train(family, data.train, epochs=20, batch_size=64, weight_decay=5e-4)
    space = family.space
    for arch, least in ((space.largest, 0.98), (space.smallest, 0.95)):
        member = recalibrated(family.extract(arch), data.train)
        assert accuracy(member, data.test) >= least
