"""One QuantLLM for all: its exact checks, on a decoder small enough to be quick."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import manynet as mn
from manynet.bindings import rounded_to_nearest
from manynet.deploy import export, load_weights, pack_family
from manynet.errors import BudgetError, InputError
from manynet.family.file import load_family
from manynet.fit import (
    average_bits,
    bit_sizes,
    fit_low_bit,
    gptq,
    reset_adapters,
    weight_rises,
)
from manynet.models import small_gpt
from manynet.search import draw_at, lower, rises
from manynet.space import Choice, Space
from manynet.systems.one_quantllm import search_bits, train_bits
from manynet.train import BitSchedule, Fixed, Uniform, bit_shares

TOKENS = torch.randint(20, (8, 9), generator=torch.Generator().manual_seed(0))
DATA = (TOKENS[:, :-1], TOKENS[:, 1:])
X = DATA[0][:2]
LAYER = "blocks.0.attention.query.weight"


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return small_gpt(20, width=32, depth=2).eval()


def family_of(**options: Any) -> mn.Family:
    return fit_low_bit(decoder(), **{"rank": 2, "example_inputs": (X[:1],), **options}).eval()


def uniform(family: mn.Family, width: int) -> mn.Arch:
    return family.space.arch(dict.fromkeys(family.space.names, width))


def stirred(family: mn.Family) -> mn.Family:
    """Give all adapters numbers that matter."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in family.named_parameters():
        if name.endswith(".left"):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return family


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_no_entry_is_farther_than_half_a_step_from_its_level(bits: int, symmetric: bool) -> None:
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(bits))
    weight[0, :32] = 0.0  # a group of zeros, and one of equal entries
    weight[1, :32] = 0.7
    own = rounded_to_nearest(weight, bits, symmetric=symmetric)
    gap = (own.weight() - weight).view(-1, 32).abs()
    reach = own.scale.float() / 2
    if symmetric:  # the levels reach one further down than up, and the largest may lie up there
        reach = reach * (1 + 1e-3)
    assert bool((gap <= reach + 1e-6).all())
    assert int(own.integers.max()) < 2**bits
    assert torch.equal(own.weight()[0, :32], torch.zeros(32))
    assert bool(torch.isfinite(own.weight()).all())


@pytest.mark.parametrize("per", [8, 32, "channel"])
def test_gptq_of_independent_inputs_is_rounding_to_the_nearest(per: Any) -> None:
    weight = torch.randn(5, 160, generator=torch.Generator().manual_seed(0))
    found, wanted = gptq(weight, torch.eye(160), 3, per=per), rounded_to_nearest(weight, 3, per=per)
    assert torch.equal(found.weight(), wanted.weight())
    assert torch.equal(found.integers, wanted.integers)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("per", [16, 48, "channel"])  # 48 does not fit into the blocks of columns
def test_gptq_of_correlated_inputs_errs_less_in_what_comes_out(bits: int, per: Any) -> None:
    generator = torch.Generator().manual_seed(bits)
    mixing = torch.randn(12, 192, generator=generator)
    rows = torch.randn(400, 12, generator=generator) @ mixing
    rows += 0.1 * torch.randn(400, 192, generator=generator)
    weight = torch.randn(9, 192, generator=generator)

    def error(own: Any) -> float:
        return float((rows @ (own.weight() - weight).T).square().sum())

    found, plain = (
        gptq(weight, rows.T @ rows, bits, per=per),
        rounded_to_nearest(weight, bits, per=per),
    )
    assert error(found) < 0.5 * error(plain)


@pytest.mark.parametrize("adapters", ["own", "shared", "plain"])
def test_before_training_a_member_is_the_plainly_quantized_model(adapters: Any) -> None:
    family = family_of(adapters=adapters)
    for width in (2, 3, 4):
        plain = decoder()
        for name in bit_sizes(family):
            weight = plain.get_parameter(name.removesuffix(".bits"))
            weight.data.copy_(rounded_to_nearest(weight, width).weight())
        member = family.at(uniform(family, width))
        assert torch.allclose(member(X), plain(X), atol=1e-6)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("width", [2, 3, 4])
def test_the_merged_zero_points_compute_what_the_adapter_adds(width: int, symmetric: bool) -> None:
    family = stirred(family_of(symmetric=symmetric))
    arch, rows = uniform(family, width), torch.randn(7, 32)
    state, role = family.state_dict(), f"{LAYER}.{width}bits"
    left, right = state[f"{role}.adapter.left"], state[f"{role}.adapter.right"]
    frozen = rounded_to_nearest(decoder().get_parameter(LAYER), width, symmetric=symmetric)
    pooled = rows.view(7, -1, 32).mean(-1)
    added = (16.0 / 2 * pooled @ right.T @ left.T).detach()
    wanted = rows @ frozen.weight().T + added
    member = family.extract(arch)
    found = functional.linear(rows, member.get_parameter(LAYER)).detach()
    assert float(added.abs().max()) > 0.05
    # but for the zero points' half precision, of 11 digits
    assert float((found - wanted).abs().max() / wanted.abs().max()) < 2e-3
    exact = (16.0 / 2 * (left @ right).view(-1, 1) / 32).detach()
    gap = member.get_parameter(LAYER).detach().view(-1, 32) - (frozen.weight().view(-1, 32) + exact)
    middle = 2.0 ** (width - 1) if frozen.zero is None else frozen.zero
    point = middle - exact / frozen.scale
    assert bool((gap.abs() <= point.abs() * frozen.scale * 2**-11 + 1e-6).all())


def test_gradients_reach_the_adapter_as_if_it_stood_beside_the_layer() -> None:
    family = stirred(family_of()).train()
    rows, state = torch.randn(7, 32), family.state_dict()
    role = f"{LAYER}.3bits.adapter"
    left, right = (state[f"{role}.{side}"] for side in ("left", "right"))
    weight = family.at(uniform(family, 3)).get_parameter(LAYER)
    functional.linear(rows, weight).square().sum().backward()
    own = [left.detach().clone().requires_grad_(), right.detach().clone().requires_grad_()]
    base = functional.linear(rows, weight.detach()).detach()
    added = 16.0 / 2 * rows.view(7, -1, 32).mean(-1) @ own[1].T @ own[0].T
    (base + added - added.detach()).square().sum().backward()
    for found, wanted in zip((left, right), own, strict=True):
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-4, atol=1e-5)  # type: ignore[arg-type]


def test_a_step_of_one_width_leaves_the_adapters_of_the_others_alone() -> None:
    family = stirred(family_of())
    moments: list[torch.optim.AdamW] = []

    def adamw(groups: Any) -> torch.optim.AdamW:
        moments.append(torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.1))
        return moments[-1]

    train_bits(family, DATA, steps=3, sampler=Uniform(), optimizer=adamw)
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    sampler = Fixed(uniform(family, 2))
    train_bits(family, DATA, steps=2, sampler=sampler, optimizer=adamw)
    moved = {n for n, t in family.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {n for n in before if ".2bits.adapter." in n}
    known = dict(family.named_parameters())
    with_state = {n for n, p in known.items() if moments[-1].state.get(p)}
    assert with_state == moved


def test_widths_are_drawn_around_the_mean_that_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    for mean in (2.0, 2.3, 3.0, 3.7, 4.0):
        shares = bit_shares((2, 3, 4), mean)
        middle = (-1 + (4 - 3 * (mean - 3) ** 2) ** 0.5) / 3
        assert shares[1] == pytest.approx(middle, abs=1e-9)
        drawn = rng.choice((2, 3, 4), size=4_000, p=shares)
        spread = float(np.sqrt(np.dot(shares, (np.arange(2, 5) - mean) ** 2)))
        assert abs(drawn.mean() - mean) <= 3 * spread / 4_000**0.5
        if mean in (2.0, 4.0):
            assert set(drawn) == {mean}
    with pytest.raises(InputError, match="no draw"):
        bit_shares((2, 3, 4), 4.5)


def test_scheduled_draws_cover_the_range_that_uniform_ones_never_reach() -> None:
    space = Space(tuple(Choice(f"{n}.bits", (2, 3, 4)) for n in range(210)))
    sampler, count = BitSchedule(cycle=100), 500

    def means(draw: Any) -> np.ndarray[Any, Any]:
        rng = np.random.default_rng(0)
        return np.array([np.mean(list(draw(rng, step).values())) for step in range(count)])

    found = means(lambda rng, step: sampler.archs_at(space, rng, step)[0])
    shares = np.histogram(found, bins=10, range=(2, 4))[0] / count
    assert bool(((shares >= 0.06) & (shares <= 0.14)).all())
    found = means(lambda rng, step: Uniform().archs(space, rng)[0])
    assert 2.7 <= found.min() <= found.max() <= 3.3
    without_steps = means(lambda rng, step: sampler.archs(space, rng)[0])
    assert np.quantile(without_steps, 0.1) < 2.4
    with pytest.raises(InputError, match="matches no choice"):
        BitSchedule(rank="*.width").archs(space, np.random.default_rng(0))


@pytest.mark.parametrize("strategy", ["nsga2", "genetic", "random", "coarse_to_fine", None])
def test_searched_members_keep_the_budget_and_every_strategy_searches(strategy: Any) -> None:
    family = stirred(family_of())
    if strategy is None:
        best = search_bits(family, mn.perplexity(DATA), bits=2.5, original=decoder(), evaluations=9)
        assert average_bits(family, best) <= 2.5 + 1e-9
        return
    front = mn.search(
        family,
        mn.perplexity(DATA),
        evaluate=lambda arch: {"bits": average_bits(family, arch)},
        costs=["bits", mn.bytes_()],
        constraints={"bits": 3.2},
        strategy=strategy,
        evaluations=6,
    )
    assert all(record.costs["bits"] <= 3.2 for record in front)


def test_lowering_takes_the_layers_that_matter_least() -> None:
    family = family_of()
    space, sizes = family.space, bit_sizes(family)
    judge = mn.perplexity(DATA)
    measured = rises(space, lambda arch: judge(family.at(arch)), space.names[:2])
    assert set(measured) == set(space.names[:2])
    assert all(len(values) == 3 and values[4] == 0 for values in measured.values())
    rise = weight_rises(family, decoder())
    assert all(values[2] > values[3] > values[4] for values in rise.values())
    for budget in (2.0, 2.7, 3.9):
        assert average_bits(family, lower(space, space.largest, rise, sizes, budget)) <= budget
        drawn = draw_at(space, sizes, budget, np.random.default_rng(0), tolerance=0.05)
        assert budget - 0.05 <= average_bits(family, drawn) <= budget + 1e-9
    with pytest.raises(BudgetError, match="out of reach"):
        lower(space, space.largest, rise, sizes, 1.5)


def test_a_packed_file_has_the_bytes_that_are_predicted(tmp_path: Path) -> None:
    family = stirred(family_of())
    arch = draw_at(family.space, bit_sizes(family), 2.6, np.random.default_rng(1), tolerance=0.05)
    member = family.extract(arch)
    export(member, tmp_path / "m.safetensors", X)
    data = (tmp_path / "m.safetensors").read_bytes()
    size = len(data) - 8 - int.from_bytes(data[:8], "little")
    quantized = sum(bit_sizes(family).values())
    rest = sum(p.nbytes for p in member.parameters()) - 4 * quantized
    stored = average_bits(family, arch, stored=True)
    assert stored == pytest.approx(average_bits(family, arch) + 1)
    assert size == rest + stored * quantized / 8 == mn.bytes_()(family.at(arch), X)
    again = decoder()
    again.load_state_dict(load_weights(tmp_path / "m.safetensors"))
    assert torch.equal(again(X), member(X))
    assert torch.equal(family.at(arch)(X), member(X))


def test_a_packed_family_keeps_its_members_in_memory_and_on_disk(tmp_path: Path) -> None:
    family = stirred(family_of(bits=(2, 3, 4)))
    packed = pack_family(family)
    packed.save(tmp_path)
    again = load_family(tmp_path, decoder())
    for width in (2, 3, 4):
        arch = uniform(family, width)
        assert torch.equal(packed.extract(arch)(X), family.at(arch)(X))
        assert torch.equal(again.at(arch)(X), family.at(arch)(X))
        assert mn.bytes_()(again.at(arch), X) == mn.bytes_()(family.at(arch), X)
    quantized, bits = sum(bit_sizes(family).values()), 2 + 3 + 4 + 3 * 1
    codes = sum(
        t.nbytes for n, t in packed.state_dict().items() if "bits" not in n and ".weight." in n
    )
    assert codes == quantized * bits / 8


def test_the_family_is_saved_and_goes_on_learning(tmp_path: Path) -> None:
    family = stirred(family_of(per=(16, "channel"), symmetric=(True, False), bits=(2, 4)))
    assert len(family.space.choices) == 3 * 12
    family.save(tmp_path)
    again = load_family(tmp_path, decoder()).eval()
    arch = family.space.sample(np.random.default_rng(0), by="choice")
    assert torch.equal(again.at(arch)(X), family.at(arch)(X))
    before = mn.perplexity(DATA)(family.at(family.space.smallest))
    train_bits(family, DATA, steps=30, learning_rate=1e-2, batch_size=8)
    assert mn.perplexity(DATA)(family.at(family.space.smallest)) < before


def test_blocks_choose_together_and_adapters_begin_anew() -> None:
    family = stirred(family_of(by="block"))
    assert family.space.names == ("blocks.0.bits", "blocks.1.bits")
    arch = family.space.arch({"blocks.0.bits": 2, "blocks.1.bits": 4})
    assert average_bits(family, arch) == 3
    reset_adapters(family, 5)
    fresh = family_of(by="block", seed=5)
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, fresh.state_dict()[name])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": ()}, "at least one"),
        ({"bits": (4, 9)}, "from 2 to 8"),
        ({"per": 24}, "does not divide"),
        ({"per": "tensor"}, "does not divide"),
        ({"adapters": "mine"}, "adapters are"),
        ({"adapters": "shared", "per": (16, 32)}, "one granularity"),
        ({"rank": -1}, "not negative"),
    ],
)
def test_what_does_not_fit_is_said(options: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        family_of(**options)


def test_gptq_says_what_does_not_fit() -> None:
    with pytest.raises(InputError, match="divisor of 8"):
        gptq(torch.zeros(2, 8), torch.eye(8), 4, per=3)
    with pytest.raises(InputError, match="no weight of this member"):
        average_bits(mn.elastic(decoder(), X, width=(0.5, 1.0)), {})
