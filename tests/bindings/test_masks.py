"""Masks of a family: looked at, held, packed; and what hangs on a choice of its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import manynet as mn
from manynet.bindings import Bits, Mask, TopK, exclusive, overlap, pack, whole
from manynet.bindings.recipes import masked, quantized, separated
from manynet.errors import InputError
from manynet.search import accuracy

DATA = (torch.randn(32, 4, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 2)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


@pytest.mark.parametrize("shape", [(5, 7), (8,), (1, 1), (2, 3, 4)])
def test_bits_are_those_of_numpy(shape: tuple[int, ...]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack(mask, 1)
    assert packed.tolist() == np.packbits(mask.numpy().ravel(), bitorder="little").tolist()
    value = Bits(whole("b", packed), shape).value(mn.Arch({}), packed)
    assert value.dtype == torch.bool and torch.equal(value, mask)


def test_exclusive_sets_of_nothing_and_of_other_shapes() -> None:
    assert exclusive([]) == []
    assert overlap([torch.zeros(3)]) == 0.0
    with pytest.raises(InputError, match=r"shapes \(2,\), \(3,\)"):
        exclusive([torch.ones(2), torch.ones(3)])


def test_of_equal_scores_the_first_are_left_out() -> None:
    def kept(scores: list[float], density: float) -> list[float]:
        tensor = torch.tensor(scores)
        return TopK(whole("s", tensor), density).value(mn.Arch({}), tensor).tolist()  # type: ignore[no-any-return]

    assert kept([1.0, -1.0, 1.0, 1.0], 0.5) == [0, 0, 1, 1]
    assert kept([2.0, 1.0, 1.0, 0.0], 0.5) == [1, 0, 1, 0]
    assert kept([0.0] * 4, 0.25) == [0, 0, 0, 1]
    assert kept([0.0] * 4, 1.0) == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", [(600, 700), (1000,), (7,)])
@pytest.mark.parametrize("kind", ["normal", "sorted", "steps", "far"])
def test_the_largest_scores_are_those_of_a_sort(shape: tuple[int, ...], kind: str) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    flat = scores.view(-1)
    match kind:
        case "sorted":
            scores = flat.sort().values.view(shape)
        case "steps":
            scores = scores.round(decimals=1)
        case "far":  # what a sample of every 32nd sees is nothing like the rest
            flat[::32] += 100
    for density in (0.1, 0.5, 0.97):
        kept = TopK(whole("s", scores), density).value(mn.Arch({}), scores)
        count = int(round((1 - density) * scores.numel(), 6))
        expected = torch.ones(scores.numel())
        expected[scores.abs().flatten().sort(stable=True).indices[:count]] = 0
        assert torch.equal(kept.flatten(), expected), density


@pytest.mark.parametrize("keep_shape", [(3, 4), (3, 1)])
def test_gradients_of_a_mask_are_those_of_the_product(keep_shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    weight, scores = torch.randn(3, 4, requires_grad=True), torch.randn(keep_shape)
    scores.requires_grad_()
    mask = Mask(whole("w", weight), TopK(whole("s", scores), 0.5))
    kept = mask.keep.value(mn.Arch({}), scores)  # type: ignore[attr-defined]
    grad = torch.randn(3, 4)
    mine = torch.autograd.grad(mask.value(mn.Arch({}), weight, kept), (weight, scores), grad)
    size = scores.detach().abs()
    hard = (size >= size.flatten().sort(descending=True).values[size.numel() // 2 - 1]).float()
    if scores.numel() % 2:  # of three rows, two are kept
        hard = (size > size.min()).float()
    of_keep = (grad * weight.detach()).sum_to_size(keep_shape)
    assert torch.equal(mine[0], grad * hard)
    assert torch.allclose(mine[1], of_keep * scores.detach().sign())


def test_what_is_held_stays_and_all_else_moves(model: nn.Module) -> None:
    family = mn.bind(model, nn.Linear, masked(0.5, tasks=2, hold=True))
    masks = mn.masks_of(family, {"task": 0})
    mn.hold(family, [{"task": 0}])
    before = {name: family.state_dict()[name].detach().clone() for name in masks}
    settings = {"optimizer": "adamw", "weight_decay": 0.5, "objective": mn.Task()}
    sampler = mn.Fixed({"task": 1})
    mn.train(family, DATA, epochs=2, batch_size=8, sampler=sampler, **settings)  # type: ignore[arg-type]
    for name, mask in masks.items():
        now = family.state_dict()[name]
        assert torch.equal(now[mask], before[name][mask]), name
        free = ~mask & mn.masks_of(family, {"task": 1})[name]
        assert bool((now[free] != before[name][free]).all()), name
    mn.hold(family, [])
    mn.train(family, DATA, epochs=1, batch_size=8, sampler=mn.Fixed({"task": 0}), **settings)  # type: ignore[arg-type]
    assert all(
        not torch.equal(family.state_dict()[name][mask], before[name][mask])
        for name, mask in masks.items()
    )


def test_only_what_can_be_held_is(model: nn.Module) -> None:
    with pytest.raises(InputError, match="hold=True"):
        mn.hold(mn.bind(model, nn.Linear, masked(0.5, tasks=2)), [])


def test_packing_drops_the_scores_and_changes_no_member(model: nn.Module) -> None:
    family = mn.bind(model, nn.Linear, masked(0.3, tasks=3)).eval()
    family = mn.bind(family, "0.weight", quantized(4)).eval()
    outputs = [family.at({"task": task})(DATA[0]).detach() for task in range(3)]
    packed = mn.pack_masks(family)
    assert not any(name.endswith(f"scores{task}") for name in packed.state_dict() for task in "012")
    for task, expected in enumerate(outputs):
        assert torch.equal(packed.at({"task": task})(DATA[0]), expected)
    assert mn.masks_of(packed, {"task": 2}).keys() == {"0.weight", "3.weight"}


def test_masks_that_something_cuts_keep_their_scores(model: nn.Module) -> None:
    family = mn.elastic(model, (DATA[0],), width=(0.5, 1.0))
    family = mn.pack_masks(mn.bind(family, "0.weight", masked(0.5)))
    assert "0.weight.scores" in family.state_dict()
    assert float((family.extract(family.space.smallest)[0].weight == 0).float().mean()) == 0.5  # type: ignore[index]


def test_each_value_of_a_choice_has_its_own_head_and_statistics(model: nn.Module) -> None:
    family = mn.bind(model, ["3.weight", "1.running_*"], separated("task", (0, 1)))
    before = family.extract({"task": 0}).state_dict()
    mn.train(family, DATA, epochs=2, batch_size=8, sampler=mn.Fixed({"task": 1}))
    after = family.extract({"task": 0}).state_dict()
    for name in ("3.weight", "1.running_mean", "1.running_var"):
        assert torch.equal(after[name], before[name]), name
        assert not torch.equal(family.extract({"task": 1}).state_dict()[name], before[name]), name
    assert not torch.equal(after["0.weight"], before["0.weight"])
    assert accuracy(DATA)(family.eval().at({"task": 1})) >= 0.5


def test_a_choice_of_other_values_is_refused(model: nn.Module) -> None:
    family = mn.bind(model, "0.weight", masked(0.5, tasks=2))
    with pytest.raises(InputError, match=r"the choice 'task' has the values \(0, 1\) already"):
        mn.bind(family, "3.weight", separated("task", (0, 1, 2)))
