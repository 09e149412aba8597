from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from manynet.deploy import calibrate
from manynet.errors import InputError


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Sequential(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(4, momentum=0.3)),
        nn.Flatten(),
        nn.Linear(4 * 36, 5),
        nn.BatchNorm1d(5, affine=False),
    )


def norms(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def by_pytorch(net: nn.Module, batches: list[Tensor]) -> nn.Module:
    """What PyTorch itself does with `momentum=None`, on a copy."""
    net = copy.deepcopy(net).eval()
    for norm in norms(net):
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in batches:
            net(batch)
    return net


def statistics(net: nn.Module) -> list[Tensor]:
    return [t for n in norms(net) for t in (n.running_mean, n.running_var, n.num_batches_tracked)]


@pytest.mark.parametrize("offset", [0.0, 3.0, 300.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_it_is_what_pytorch_averages(offset: float, layout: torch.memory_format) -> None:
    net = network()
    batches = [(torch.randn(n, 3, 8, 8) + offset).to(memory_format=layout) for n in (7, 5, 9)]
    expected = by_pytorch(net, batches)
    assert calibrate(net, batches) is net
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5)


class Pixels(nn.Module):
    """Sees how its inputs lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.side_by_side: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.side_by_side.append(x.stride(1) == 1 and x.stride(3) == x.shape[1])
        return x


@pytest.mark.parametrize("channels", [1, 3])
def test_the_channels_of_a_pixel_lie_side_by_side(channels: int) -> None:
    sees = Pixels()
    net = nn.Sequential(nn.Conv2d(channels, 4, 3), sees, nn.BatchNorm2d(4))
    calibrate(net, torch.randn(32, channels, 8, 8), batch_size=16)
    assert sees.side_by_side == [True, True]


@pytest.mark.parametrize(("channels", "side"), [(5, 63), (8, 64), (300, 16)])
def test_large_maps_too_are_what_pytorch_averages(channels: int, side: int) -> None:
    net = nn.Sequential(nn.BatchNorm2d(channels))
    batches = [3 * torch.randn(3, channels, side, side) + 20 for _ in range(2)]
    expected = by_pytorch(net, batches)
    calibrate(net, batches)
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


class Viewing(nn.Module):
    """Asks for pixels side by side, as many networks do before their head."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_a_network_that_refuses_this_gets_the_data_as_they_are() -> None:
    sees = Pixels()
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        sees,
        Viewing(),
        nn.Linear(4 * 36, 5),
        nn.BatchNorm1d(5),
    )
    batches = [torch.randn(n, 3, 8, 8) for n in (7, 5, 9)]
    expected = by_pytorch(net, batches)
    sees.side_by_side.clear()
    calibrate(net, batches)
    assert sees.side_by_side == [True, False, False, False]
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5)


class Activated(nn.BatchNorm2d):
    """A layer with a forward pass of its own, as in timm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_a_layer_may_be_called_often_and_do_more() -> None:
    norm = Activated(4)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.Conv2d(4, 4, 3), norm, nn.BatchNorm2d(4))
    batches = [torch.randn(n, 3, 8, 8) for n in (7, 5)]
    expected = by_pytorch(net, batches)
    calibrate(net, batches)
    assert int(norm.num_batches_tracked) == 4
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5)


def test_no_other_process_is_waited_for() -> None:
    modes = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SyncBatchNorm(4))
    net[1].register_forward_hook(lambda layer, _, __: modes.append(layer.training))
    calibrate(net, torch.randn(16, 3, 8, 8))
    assert modes == [False]


def test_all_else_stays() -> None:
    net = network().train()
    net[3].eval()
    net[4][1].eval()
    weights = {name: p.clone() for name, p in net.named_parameters()}
    modes = [m.training for m in net.modules()]
    calibrate(net, torch.randn(16, 3, 8, 8))
    assert [m.training for m in net.modules()] == modes
    assert [n.momentum for n in norms(net)] == [0.1, 0.3, 0.1]
    assert all(torch.equal(p, weights[name]) for name, p in net.named_parameters())
    assert not any(m._forward_pre_hooks for m in net.modules())
    assert all(not t.requires_grad for t in statistics(net))


def test_another_network_keeps_the_statistics_that_they_shared() -> None:
    net, other = network(), network()
    for mine, theirs in zip(norms(net), norms(other), strict=True):
        theirs.running_mean = mine.running_mean
        theirs.running_var = mine.running_var.view(-1)
    before = [t.clone() for t in statistics(other)]
    calibrate(net, torch.randn(16, 3, 8, 8))
    assert all(torch.equal(a, b) for a, b in zip(statistics(other), before, strict=True))
    assert not torch.equal(norms(net)[0].running_mean, norms(other)[0].running_mean)


@pytest.mark.parametrize("form", ["tensor", "pair", "set", "loader", "list"])
def test_data_comes_in_many_forms(form: str) -> None:
    x, y = torch.randn(40, 3, 8, 8), torch.zeros(40)
    data = {
        "tensor": x,
        "pair": (x, y),
        "set": TensorDataset(x, y),
        "loader": DataLoader(TensorDataset(x, y), batch_size=16),
        "list": [(part, None) for part in x.split(16)],
    }[form]
    net = network()
    expected = by_pytorch(net, list(x.split(16))[:2])
    calibrate(net, data, batches=2, batch_size=16)
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-5)


def test_without_batch_norm_nothing_is_read() -> None:
    def unread() -> object:
        raise AssertionError("the data was read")
        yield

    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert calibrate(net, unread()) is net


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (torch.full((8, 3, 8, 8), float("nan")), "statistics of 1 are not finite"),
        (torch.randn(8, 4, 8, 8), "batch 0 of shape .8, 4, 8, 8. does not fit Sequential"),
        (torch.randn(1, 3, 8, 8), "no variance"),
        ([], "no batch"),
        (torch.randn(0, 3, 8, 8), "batch 0"),
        (3, "data should be"),
        ((torch.randn(2, 3, 8, 8), torch.zeros(3)), "2 inputs and 3 targets"),
        ([{"x": 1}], "a batch should be"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_bad_data_changes_nothing(data: object, message: str) -> None:
    net = network()
    before = [t.clone() for t in statistics(net)]
    with pytest.raises(InputError, match=message):
        calibrate(net, data)
    assert all(torch.equal(a, b) for a, b in zip(statistics(net), before, strict=True))
    assert net.training
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_at_least_one_batch() -> None:
    with pytest.raises(InputError, match="batches=0"):
        calibrate(network(), torch.randn(4, 3, 8, 8), batches=0)


@pytest.mark.gpu
def test_on_cuda() -> None:
    net, x = network().cuda(), torch.randn(16, 3, 8, 8)
    expected = by_pytorch(net, [x.cuda()])
    calibrate(net, x)
    for ours, theirs in zip(statistics(net), statistics(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
