"""Filters over the channel axes of weights: shapes, the leading slice, the adjoint, gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings import Convolve, convolved, dilated, whole
from manynet.bindings.convolve import MLR, Slopes
from manynet.errors import InputError
from manynet.space import Arch


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def filtered(
    weight: Tensor, kernel: Tensor, slopes: Slopes = None, *, transposed: bool = False
) -> Tensor:
    name = whole("w", weight)
    planes = len(kernel)
    line = torch.stack([torch.ones(planes), torch.zeros(planes)]).to(weight)
    norm = kernel.flatten(1).norm(dim=1)
    binding = Convolve(name, name, name, name, slopes, transposed)
    return binding.value(Arch({}), weight, kernel, norm, line)


@pytest.mark.parametrize(
    ("large", "kernel", "small"),
    [
        ((32, 16, 3, 3), (9, 9, 5), (24, 12, 3, 3)),
        ((32, 16, 3, 3), (9, 15, 8), (18, 9, 3, 3)),
        ((10, 1568), (1, 1, 393), (10, 1176)),
        ((32,), (1, 9, 1), (24,)),
        ((10,), (1, 1, 1), (10,)),
    ],
)
def test_shapes_and_the_adjoint(
    large: tuple[int, ...], kernel: tuple[int, ...], small: tuple[int, ...]
) -> None:
    weight, filters, other = drawn(*large), drawn(*kernel, seed=1), drawn(*small, seed=2)
    down = filtered(weight, filters)
    up = filtered(other, filters, transposed=True)
    assert down.shape == small
    assert up.shape == large
    assert float((down * other).sum()) == pytest.approx(float((weight * up).sum()), rel=1e-5)


def test_the_activation() -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    found = filtered(torch.tensor([2.0, -2.0], dtype=torch.float64), one, MLR)
    assert found.tolist() == pytest.approx([1.7, -0.002])


def test_each_position_of_the_kernel_has_a_filter_of_its_own() -> None:
    weight, filters = drawn(6, 4, 2, 2), drawn(4, 3, 2, seed=1)
    found = filtered(weight, filters)
    for place in range(4):
        x, y = divmod(place, 2)
        alone = filtered(weight[:, :, x, y], filters[place : place + 1])
        assert torch.allclose(found[:, :, x, y], alone)


def test_a_filter_of_zeros_gives_zeros() -> None:
    found = filtered(drawn(4, 4), torch.zeros(1, 2, 2).double())
    assert torch.equal(found, torch.zeros(3, 3).double())


def test_gradients_agree_with_finite_differences() -> None:
    weight, kernel = drawn(5, 4, 1, 2), drawn(2, 2, 3, seed=1).requires_grad_()
    norm, line = drawn(2, seed=2).requires_grad_(), drawn(2, 2, seed=3).requires_grad_()
    name = whole("w", weight)
    for transposed in (False, True):
        binding = Convolve(name, name, name, name, MLR, transposed)

        def value(*filters: Tensor, binding: Convolve = binding) -> Tensor:
            return binding.value(Arch({}), weight, *filters)

        assert torch.autograd.gradcheck(value, (kernel, norm, line), atol=1e-6)


@pytest.mark.parametrize(("shape", "taps"), [((5, 12), (1, 1, 4)), ((6,), (1, 3, 1))])
@pytest.mark.parametrize("transposed", [False, True])
def test_one_axis_alone_is_the_same_convolution(
    shape: tuple[int, ...], taps: tuple[int, ...], transposed: bool
) -> None:
    weight, kernel = drawn(*shape).requires_grad_(), drawn(*taps, seed=1).requires_grad_()
    slide = nn.functional.conv_transpose2d if transposed else nn.functional.conv2d
    expected = slide(weight.reshape(1, 1, shape[0], -1), kernel[None])[0, 0]
    found = filtered(weight, kernel, transposed=transposed)
    assert torch.allclose(found.reshape(expected.shape), expected)

    def value(weight: Tensor, kernel: Tensor) -> Tensor:
        return filtered(weight, kernel, transposed=transposed)

    assert torch.autograd.gradcheck(value, (weight, kernel))
    assert torch.autograd.gradgradcheck(value, (weight, kernel))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(32 * 9, 10)),
    )


IMAGES = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
ARCHS = [{"0.width": 12, "3.width": 24}, {"0.width": 9, "3.width": 18}]


def sliced() -> mn.Family:
    return mn.elastic(
        network(),
        IMAGES,
        width=(0.5625, 0.75, 1.0),
        multiple_of=1,
        importance=None,
        depth=False,
    )


def test_a_family_starts_as_leading_slices_to_the_bit() -> None:
    plain = sliced().eval()
    family = mn.bind(sliced(), "*", convolved(ARCHS, slopes=None)).eval()
    for arch in (*ARCHS, plain.space.largest):
        ours, theirs = family.extract(arch).state_dict(), plain.extract(arch).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert torch.equal(family.at(arch)(IMAGES), plain.at(arch)(IMAGES))


def test_a_width_brings_along_those_it_was_given_with() -> None:
    family = mn.bind(sliced(), "*", convolved(ARCHS))
    assert family.space.count == 5  # the two, and three of the whole first layer, which are slices
    with pytest.raises(InputError, match=r"0\.width"):
        family.at({"0.width": 12, "3.width": 32})
    assert family.at({"0.width": 16, "3.width": 24})(IMAGES).shape == (4, 10)


def test_an_extracted_member_is_a_plain_module_of_the_small_size(tmp_path: Path) -> None:
    family = mn.bind(sliced(), "*", convolved(ARCHS, start="random")).eval()
    small, plain = family.extract(ARCHS[1]), sliced().extract(ARCHS[1])
    assert torch.allclose(small(IMAGES), family.at(ARCHS[1])(IMAGES), atol=1e-6)
    assert [type(m) for m in small.modules()] == [type(m) for m in plain.modules()]
    assert not any(m._forward_pre_hooks for m in small.modules())
    sizes = [sum(t.nbytes for t in one.state_dict().values()) for one in (small, plain)]
    assert sizes[0] == sizes[1]
    family.save(tmp_path / "family")
    again = mn.load(tmp_path / "family", network()).eval()
    assert torch.equal(again.at(ARCHS[0])(IMAGES), family.at(ARCHS[0])(IMAGES))


def test_dilation_restores_the_large_shapes() -> None:
    small = sliced().extract(ARCHS[0])
    family = mn.bind(network(), "*", dilated(dict(small.named_parameters()), slopes=None)).eval()
    whole_network = family.extract({}).requires_grad_(False)
    small.requires_grad_(False)
    large = dict(whole_network.named_parameters())
    assert {n: p.shape for n, p in large.items()} == {
        n: p.shape for n, p in network().named_parameters()
    }
    for name, own in small.named_parameters():
        block = tuple(slice(0, size) for size in own.shape)
        assert torch.equal(large[name][block], own), name
        assert float(large[name].abs().sum()) == pytest.approx(float(own.abs().sum()), rel=1e-5)


def test_what_cannot_be_filtered_is_refused() -> None:
    with pytest.raises(InputError, match="no choice tells the 2 archs apart"):
        convolved([ARCHS[0], ARCHS[0]])
    with pytest.raises(InputError, match="no choice tells the 0 archs apart"):
        convolved([])
    with pytest.raises(InputError, match="start='zero' is unknown"):
        convolved(ARCHS, start="zero")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no smaller weight for 0\.weight"):
        mn.bind(nn.Sequential(nn.Linear(3, 4)), "*", dilated({}))
    shapes = {"0.weight": torch.zeros(2, 5), "0.bias": torch.zeros(2)}
    with pytest.raises(InputError, match="both to fewer channels or both to more"):
        mn.bind(nn.Sequential(nn.Linear(3, 4)), "*", dilated(shapes))
