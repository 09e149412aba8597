from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from manynet.cost import by_layer, cost, macs, parameters
from manynet.cost import bytes as bytes_
from manynet.errors import InputError


def forward_is_forbidden(*_: object) -> None:
    raise AssertionError("a kernel ran on the CPU")


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class ReadsValues(nn.Module):
    """Cannot run on the meta device: the code looks at the numbers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if bool(x.isfinite().all()) else x


@settings(max_examples=12)
@given(
    groups=st.sampled_from([1, 2]),
    fan_in=st.integers(1, 3),
    fan_out=st.integers(1, 3),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    size=st.integers(4, 7),
)
def test_a_convolution_costs_its_window_at_every_output(
    groups: int, fan_in: int, fan_out: int, kernel: int, stride: int, size: int
) -> None:
    conv = nn.Conv2d(groups * fan_in, groups * fan_out, kernel, stride=stride, groups=groups)
    x = torch.randn(3, groups * fan_in, size, size)
    (layer,) = by_layer(conv, x)
    side = (size - kernel) // stride + 1
    assert layer.macs == groups * fan_out * side**2 * fan_in * kernel**2
    assert layer.output_shape == (1, groups * fan_out, side, side)
    assert layer.kind == ("grouped" if groups > 1 else "pointwise" if kernel == 1 else "spatial")
    assert layer.parameters == sum(p.numel() for p in conv.parameters())


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (nn.Linear(4, 8), (5, 4), 32),
        (nn.Linear(4, 8), (5, 7, 4), 7 * 32),
        (nn.Conv1d(2, 4, 3), (1, 2, 9), 7 * 4 * 2 * 3),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), 8 * 2 * 8),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4), 16 * 2 * 3 * 4),
        (Attention(), (1, 2, 7, 8), 2 * 2 * 7 * 7 * 8),
        (nn.Sequential(nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)), (1, 2, 4, 4), 0),
        (nn.Embedding(5, 3), None, 0),
        (nn.LSTM(3, 4, batch_first=True), (1, 5, 3), 5 * 4 * (3 + 4) * 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_macs_on_meta_and_by_a_real_pass_agree_with_the_formula(
    net: nn.Module, shape: tuple[int, ...] | None, expected: int
) -> None:
    x = torch.zeros(1, 4, dtype=torch.long) if shape is None else torch.randn(shape)
    assert macs()(net, x) == expected
    if not isinstance(net, nn.Embedding):
        assert macs()(ReadsValues(net), x) == expected


def test_fused_attention_is_counted_in_a_real_pass_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(1, 6, 8)
    expected = 6 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 6 * 6 * 8
    assert macs()(layer, x) == expected
    assert macs()(ReadsValues(layer), x) == expected


def test_counting_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    by_layer(net, torch.randn(2, 3, 5, 5))
    assert [module.training for module in net] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not net[0]._forward_hooks
    assert not net[0]._forward_pre_hooks


def test_layers_name_where_the_products_are() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4, 4))
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x)) @ self.scale

    root, inner = by_layer(Net(), torch.randn(2, 4))
    assert (root.path, root.parameters, root.macs) == ("", 16, 16)
    assert (inner.path, inner.parameters, inner.macs) == ("inner", 20, 32)  # called twice


def test_a_tied_tensor_counts_once() -> None:
    a, b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
    net = nn.Sequential(a, b)
    assert parameters()(net, torch.randn(1, 4)) == 32
    b.weight = a.weight
    assert parameters()(net, torch.randn(1, 4)) == 16
    assert bytes_()(net, torch.randn(1, 4)) == 64
    assert macs()(net, torch.randn(1, 4)) == 32  # ties cut bytes, not computation
    b.weight = nn.Parameter(a.weight.data)  # another parameter that shows the same storage
    assert parameters()(net, torch.randn(1, 4)) == 16


def test_bytes_are_those_of_the_tensors_in_a_file() -> None:
    net = nn.Sequential(nn.Linear(4, 4).half(), nn.BatchNorm1d(4))
    net.register_buffer("scratch", torch.zeros(100), persistent=False)
    saved = sum(t.numel() * t.element_size() for t in net.state_dict().values())
    assert bytes_()(net, torch.randn(1, 4)) == saved == 2 * 20 + 4 * 16 + 8


def test_macs_are_counted_once_for_a_network_and_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    net, count = nn.Linear(4, 8), macs()
    assert count(net, torch.randn(1, 4)) == 32
    monkeypatch.setattr(nn.Linear, "forward", forward_is_forbidden)
    assert count(net, torch.randn(1, 4)) == 32
    with pytest.raises(InputError):  # nothing was remembered for another network
        count(nn.Linear(4, 8), torch.randn(1, 4))


def test_a_graph_is_counted_as_it_is() -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(4, 8)

        def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
            return self.lift(nodes)[edges[0]]

    inputs = (torch.randn(6, 4), torch.zeros(2, 9, dtype=torch.long))
    assert macs(per_sample=False)(Graph(), inputs) == 6 * 32


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(InputError, match=r"Linear cannot run on inputs of shape \(1, 5\)"):
        macs()(nn.Linear(4, 2), torch.randn(2, 5))
    with pytest.raises(InputError, match="should be a tensor or a tuple"):
        macs()(nn.Linear(4, 2), "x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="hold no sample"):
        macs()(nn.Linear(4, 2), torch.randn(0, 4))


@pytest.mark.parametrize("value", [float("nan"), -1.0, float("inf"), "many", None])
def test_a_cost_must_be_a_number_that_can_be_one(value: object) -> None:
    @cost("energy", unit="mJ")
    def energy(member: nn.Module, inputs: tuple[object, ...]) -> float:
        return value  # type: ignore[return-value]

    with pytest.raises(InputError, match="cost 'energy' returned"):
        energy(nn.Linear(1, 1), torch.zeros(1, 1))


def test_a_cost_of_ones_own(family) -> None:  # type: ignore[no-untyped-def]
    @cost(name="energy", unit="mJ", measured=True)
    def energy(member: nn.Module, inputs: tuple[Tensor, ...]) -> float:
        return 2.5 * len(list(member.modules()))

    assert (energy.name, energy.unit, energy.measured, energy.predicted) == (
        "energy",
        "mJ",
        True,
        False,
    )
    small = family.space.smallest
    assert energy.of_arch(family, small) == energy(family.at(small), family.example_inputs)
    with pytest.raises(InputError, match="needs a name"):
        cost("", unit="mJ")


def test_a_family_is_tabulated(family, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    archs = [family.space.sample(rng) for _ in range(60)]
    for made in (macs(), parameters(), bytes_()):
        table = [made.of_arch(family, arch) for arch in archs]
        assert table == [made(family.at(arch), family.example_inputs) for arch in archs]
    everything = list(family.space.enumerate())
    found = [macs().of_arch(family, arch) for arch in everything]
    asked = family.asked
    for made in (macs(), parameters(), bytes_()):
        for arch in everything:
            made.of_arch(family, arch)
    assert family.asked - asked <= 6  # all layers were met; a few members are audited
    assert found == [macs()(family.at(arch), family.example_inputs) for arch in everything]


def test_a_table_that_is_wrong_gives_itself_up(family, rng: np.random.Generator) -> None:  # type: ignore[no-untyped-def]
    """A layer that changes only when two choices are low together looks as if it never did."""

    class Treacherous(nn.Module):
        def __init__(self, arch: dict[str, int]) -> None:
            super().__init__()
            odd = arch["stem.width"] < 16 and arch["block.width"] < 32
            self.layer = nn.Conv2d(3, 7 if odd else 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    family.net = Treacherous
    archs = list(family.space.enumerate())
    found = [parameters().of_arch(family, arch) for arch in archs]
    assert set(found) == {16, 28}
    assert found == [parameters()(family.at(arch), family.example_inputs) for arch in archs]


def test_a_table_is_audited_while_it_serves(family) -> None:  # type: ignore[no-untyped-def]
    class Late(type(family.at(family.space.largest))):  # type: ignore[misc]
        """Changes behind the table's back, as no family should."""

        extra = 0

        def __init__(self, arch: dict[str, int]) -> None:
            super().__init__(arch)
            self.head = nn.Linear(arch["stem.width"], 5 + Late.extra)

    family.net = Late
    archs = list(family.space.enumerate())
    for arch in archs[:40]:
        parameters().of_arch(family, arch)
    Late.extra = 1
    for arch in archs:
        parameters().of_arch(family, arch)
    found = [parameters().of_arch(family, arch) for arch in archs]
    assert found == [parameters()(family.at(arch), family.example_inputs) for arch in archs]
