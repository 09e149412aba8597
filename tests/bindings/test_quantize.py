"""`Quantize` and its learned steps: values by hand, gradients by differences, forms by tables."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings import Quantize, whole
from manynet.bindings.recipes import quantized
from manynet.bindings.rounding import best_levels, learned_round
from manynet.errors import InputError
from manynet.family.file import load_family
from manynet.space import Space

ARCH = Space(()).largest
BITS, PERS, FORMS = (2, 3, 4, 8), ("tensor", "channel"), (True, False)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def family() -> mn.Family:
    recipe = quantized(BITS, per=PERS, symmetric=FORMS, learned=True)
    return mn.bind(network(), nn.Linear, recipe, example_inputs=(torch.zeros(2, 6),))


def uniform(family: mn.Family, bits: int, per: str, symmetric: bool) -> mn.Arch:
    values = {"bits": bits, "per": per, "symmetric": symmetric}
    roles = {name: name.rpartition(".")[2] for name in family.space.names}
    return family.space.arch({n: values[role] for n, role in roles.items() if role in values})


def test_levels_by_hand() -> None:
    w = torch.tensor([-1.0, -0.3, 0.2, 0.9])
    assert learned_round(w, torch.tensor(0.5), -2, 1).tolist() == [-1.0, -0.5, 0.0, 0.5]
    with torch.enable_grad():
        found = learned_round(w, nn.Parameter(torch.tensor(0.5)), -2, 1)
    assert found.tolist() == [-1.0, -0.5, 0.0, 0.5]


def test_multiples_of_the_step_stay_as_they_are() -> None:
    step = torch.tensor(0.0137)
    x = torch.arange(-128, 128) * step
    assert torch.equal(learned_round(x, step, -128, 127), x)
    few = torch.arange(-4, 4) * step + 0.2 * step
    assert torch.equal(learned_round(few, step, -4, 3), learned_round(few, step, -128, 127))


@pytest.mark.parametrize("value", [0.33, -0.81, 9.0, -9.0])
@pytest.mark.parametrize("offset", [0.0, 0.21])
def test_gradients_are_those_of_the_straight_through_surrogate(value: float, offset: float) -> None:
    low, high, h = -8, 7, 1e-6
    x = torch.tensor([value, 0.4], dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.25, dtype=torch.float64, requires_grad=True)
    at = torch.tensor(offset, dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([1.0, 0.0], dtype=torch.float64)  # of one element alone
    (learned_round(x, step, low, high, at) * weights).sum().backward()
    pace = (high * 2) ** -0.5
    scaled = ((x - at) / step).detach()
    q = scaled.clamp(low, high).round()

    def moved(dx: float, ds: float, do: float) -> float:
        s = step.detach()
        error = q - scaled
        new = (x.detach() + dx - at.detach() - do) / (s + ds)
        inside = (scaled > low) & (scaled < high)
        levels = torch.where(inside, new + error, q) * (s + ds) + at.detach() + do
        return float((levels * weights).sum())

    for number, (leaf, by) in enumerate(((x, 1.0), (step, pace), (at, pace))):
        d = [h if n == number else 0.0 for n in range(3)]
        slope = (moved(*d) - moved(*(-v for v in d))) / (2 * h)
        assert leaf.grad is not None
        mine = float(leaf.grad[0] if leaf is x else leaf.grad)
        assert mine == pytest.approx(slope * by, abs=1e-6)
    v = float(scaled[0])
    expected = (round(v) - v) * pace if low < v < high else float(q[0]) * pace
    assert float(step.grad) == pytest.approx(expected)  # type: ignore[arg-type]


def test_an_offset_of_zero_changes_nothing() -> None:
    torch.manual_seed(0)
    found = []
    for offset in (None, torch.zeros(())):
        x = torch.linspace(-3, 3, 50).requires_grad_()
        step = torch.tensor(0.3, requires_grad=True)
        y = learned_round(x, step, -4, 3, offset)
        y.square().sum().backward()
        found.append((y.detach(), x.grad, step.grad))
    for a, b in zip(*found, strict=True):
        assert a is not None and b is not None
        assert torch.equal(a, b)


def test_channels_with_equal_steps_are_a_tensor_with_one() -> None:
    w, step = torch.randn(4, 6), torch.tensor([0.2])
    one = Quantize(whole("w", w), 3, "tensor", True, whole("s", step))
    many = Quantize(whole("w", w), 3, "channel", True, whole("s", step))
    assert torch.equal(one.value(ARCH, w, step, None), many.value(ARCH, w, step.expand(4), None))


@pytest.mark.parametrize("symmetric", FORMS)
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_best_levels_lose_less_than_the_whole_range(
    bits: int, signed: bool, symmetric: bool
) -> None:
    torch.manual_seed(0)
    rows = torch.randn(3, 500) if signed else torch.randn(3, 500).relu()
    step, offset = best_levels(rows, bits, symmetric=symmetric, signed=signed)
    low = -(2 ** (bits - 1)) if signed else 0
    high = low + 2**bits - 1

    def lost(step: Tensor, offset: Tensor) -> Tensor:
        rounded = learned_round(rows, step[:, None], low, high, offset[:, None])
        return (rows - rounded).abs().pow(2.4).sum(1)

    least, most = rows.amin(1), rows.amax(1)
    if symmetric:
        most = torch.maximum(most, -least) if signed else most
        least = -most if signed else torch.zeros_like(most)
        assert not offset.any()
    wide = (most - least) / (high - low)
    with torch.no_grad():
        whole_range = lost(wide, torch.zeros(3) if symmetric else least - low * wide)
        assert bool((lost(step, offset) <= 1.0001 * whole_range).all())
        if bits < 8:
            assert bool((lost(step, offset) < whole_range).all())
        assert bool((lost(step, offset) <= lost(step * 1.05, offset) + 1e-3).all())


@pytest.mark.parametrize(("bits", "per", "symmetric"), list(product(BITS, PERS, FORMS)))
def test_a_form_reads_and_trains_its_own_row_alone(
    family: mn.Family, bits: int, per: str, symmetric: bool
) -> None:
    x, arch = torch.randn(5, 6), uniform(family, bits, per, symmetric)
    values = {v.item() for v in family.at(arch)[0].weight[0].detach()}
    assert len(values) <= 2**bits
    family.at(arch)(x).square().sum().backward()
    moved = {n: p.grad for n, p in family.named_parameters() if p.grad is not None}
    word = "symmetric" if symmetric else "asymmetric"
    mine = {f"{n}.weight.step.{per}.{word}" for n in (0, 2)}
    mine |= set() if symmetric else {f"{n}.weight.offset.{per}.{word}" for n in (0, 2)}
    assert set(moved) == mine | {f"{n}.{role}" for n in (0, 2) for role in ("weight", "bias")}
    row = BITS.index(bits)
    for name in mine:
        grads = moved[name].view(len(BITS), -1)
        assert not grads[[n for n in range(len(BITS)) if n != row]].any(), name
    if bits < 8:
        assert any(moved[name].any() for name in mine)


def test_tables_do_not_decay_and_rows_that_are_not_read_do_not_move(family: mn.Family) -> None:
    from manynet.train.optimizers import make_optimizer

    optimizer = make_optimizer(family, "adamw", 0.1, 0.1)
    assert all(
        "step" not in name and "offset" not in name
        for name, p in family.named_parameters()
        for q in optimizer.param_groups[0]["params"]
        if q is p
    )
    before = {n: t.clone() for n, t in family.extra.items()}
    family.at(uniform(family, 3, "channel", True))(torch.randn(5, 6)).sum().backward()
    optimizer.step()
    for name, tensor in family.extra.items():
        if name.endswith("step.channel.symmetric"):
            same = (tensor == before[name]).view(len(BITS), -1).all(1)
            assert same.tolist() == [True, False, True, True]
        else:
            assert torch.equal(tensor, before[name]), name


def test_bits_stand_beside_widths() -> None:
    x = torch.randn(5, 6)
    elastic = mn.elastic(network(), (x,), width=(0.5, 1.0), multiple_of=1)
    recipe = quantized(BITS, per=PERS, symmetric=FORMS, learned=True)
    family = mn.bind(elastic, nn.Linear, recipe)
    small = family.space.arch({**uniform(family, 3, "channel", False), "0.width": 4})
    member = family.at(small)
    assert member[0].out_features == 4
    table = family.extra["0.weight.step.channel.asymmetric"]
    row = BITS.index(3)
    shared = family.state_dict()
    value = learned_round(
        shared["0.weight"][:4],
        table.view(len(BITS), 8)[row, :4, None],
        -4,
        3,
        family.extra["0.weight.offset.channel.asymmetric"].view(len(BITS), 8)[row, :4, None],
    )
    assert torch.equal(member[0].weight, value)
    assert torch.equal(member(x), family.extract(small)(x))


def test_a_family_with_tables_survives_its_file(family: mn.Family, tmp_path: Path) -> None:
    x = torch.randn(5, 6)
    family.save(tmp_path)
    again = load_family(tmp_path, network())
    for bits, per, symmetric in product((2, 8), PERS, FORMS):
        arch = uniform(family, bits, per, symmetric)
        assert torch.equal(family.at(arch)(x), again.at(arch)(x))


def test_a_learned_scale_needs_an_offset_where_it_is_not_symmetric() -> None:
    scale = whole("s", torch.zeros(1))
    with pytest.raises(InputError, match="learned offset"):
        Quantize(whole("w", torch.zeros(2, 2)), 4, "tensor", False, scale)
