"""SuperTickets: its exact checks, on networks small enough to look at every entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.elastic import axes_in
from manynet.family.file import load_family
from manynet.family.masks import fixed_masks
from manynet.models import atomic_cnn
from manynet.systems.supertickets import (
    SYSTEM,
    rewind,
    search_costs,
    ticket_family,
    train_supertickets,
    transfer,
)
from manynet.train import Ema, Fixed, Moment, Prune, ScaledL1, Scales, Shrink, Task, train

INPUTS = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small_network() -> nn.Module:
    return atomic_cnn(4, widths=(6, 8), depths=(1, 1), stride=1)


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    family = ticket_family(small_network(), INPUTS)
    family.train().at({})(INPUTS)  # statistics that are not those of a fresh norm
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.1)
    return family


@pytest.fixture
def family_of_tokens() -> mn.Family:
    torch.manual_seed(0)
    network = atomic_cnn(4, widths=(6, 8), depths=(1, 1), stride=1, tokens=8)
    return ticket_family(network, INPUTS)


def samples(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    return x, x.mean((2, 3)).argmax(1)


def moment_of(family: mn.Family, optimizer: Any = None, *, epoch: int = 1, epochs: int = 10) -> Any:
    made = optimizer or torch.optim.SGD(family.parameters(), lr=0.1)
    return Moment(family, made, None, epoch, epochs)


def stepped(family: mn.Family, optimizer: torch.optim.Optimizer) -> None:
    family.guard(optimizer)
    family.zero_grad()
    mn.accumulate(family, samples(16), [family.space.largest], Task())
    optimizer.step()


def shared(family: mn.Family, name: str) -> Tensor:
    return family.state_dict()[name]


# -- 1 and 2: the penalty ------------------------------------------------------------------------


def planted(family: mn.Family, costs: Sequence[float]) -> tuple[Scales, ...]:
    scales, _ = search_costs(family)
    return tuple(
        Scales(s.axis, s.parameter, cost, s.channels) for s, cost in zip(scales, costs, strict=True)
    )


def test_the_mean_channel_counts_once_and_each_scale_by_its_cost(family: mn.Family) -> None:
    scales = planted(family, (3.0, 50.0, 7.0, 1000.0))
    mn.cut(family, {scales[0].axis: (0, 3, 4)})  # unequal numbers of channels
    penalty = ScaledL1(scales, 0.02)
    weights = penalty.weights(family)
    counts = {s.axis: shared(family, s.parameter).numel() for s in scales}
    total = sum(weights[axis] * count for axis, count in counts.items())
    assert total / sum(counts.values()) == pytest.approx(1.0, abs=1e-6)
    with torch.no_grad():
        shared(family, scales[1].parameter).mul_(-1)
    family.zero_grad()
    penalty(family).backward()
    for one in scales:
        gamma = shared(family, one.parameter)
        assert gamma.grad is not None
        assert torch.allclose(gamma.grad, 0.02 * weights[one.axis] * gamma.detach().sign())


def test_the_penalty_rises_in_a_straight_line(family: mn.Family) -> None:
    penalty = ScaledL1(planted(family, (1.0, 1.0, 1.0, 1.0)), 1.8e-4, rise=50, until=80)
    assert [penalty.strength_at(step) for step in (0, 25, 50, 79, 80)] == pytest.approx(
        [0.0, 0.9e-4, 1.8e-4, 1.8e-4, 0.0], abs=0
    )
    half, full = penalty.at(25)(family).detach(), penalty(family).detach()
    assert float(half) == pytest.approx(float(full) / 2)


def test_the_costs_are_what_one_channel_takes(family: mn.Family) -> None:
    scales, total = search_costs(family)
    first = scales[0]
    left = axes_in(family)[first.axis].size - 2
    mn.cut(family, {first.axis: range(left)})
    assert total - search_costs(family)[1] == pytest.approx(2 * first.cost)


def test_a_token_costs_what_leaving_it_out_saves(family_of_tokens: mn.Family) -> None:
    family = family_of_tokens
    scales, total = search_costs(family)
    tokens = next(s for s in scales if "tokens" in s.axis)
    assert (
        tokens.pair == 2 * 16
    )  # each of 16 numbers, in the products of query and key and of value
    assert all(s.pair == 0 for s in scales if "tokens" not in s.axis)
    penalty = ScaledL1(scales, 1.0)
    before = penalty.weights(family)
    for left in (5, 3):
        now = axes_in(family)[tokens.axis].size
        expected = tokens.cost * (now - left) + tokens.pair * (now**2 - left**2)
        assert tokens.of(now) - tokens.of(left) == expected
        mn.cut(family, {tokens.axis: range(left)})
        assert total - search_costs(family)[1] == pytest.approx(expected)
        total -= expected
        again = next(s for s in search_costs(family)[0] if s.axis == tokens.axis)
        assert (again.cost, again.pair) == (pytest.approx(tokens.cost), pytest.approx(tokens.pair))
    weights, other = penalty.weights(family), scales[0].axis
    marginal = tokens.cost + tokens.pair * (3**2 - 2**2)
    assert weights[tokens.axis] / weights[other] == pytest.approx(marginal / scales[0].cost)
    assert weights[tokens.axis] / weights[other] < before[tokens.axis] / before[other]
    counts = {s.axis: shared(family, s.parameter).numel() for s in scales}
    mean = sum(weights[axis] * count for axis, count in counts.items()) / sum(counts.values())
    assert mean == pytest.approx(1.0, abs=1e-6)


def test_tokens_are_searched_and_pruned_beside_kernels(family_of_tokens: mn.Family) -> None:
    family = family_of_tokens
    _, total = search_costs(family)
    left = drawn(family)
    assert 0.45 < left <= 0.6
    assert left == pytest.approx(search_costs(family)[1] / total)
    ticket = family.eval().extract({})
    assert torch.allclose(ticket(INPUTS), family.at({})(INPUTS), atol=1e-5)
    masks = mn.masks_of(family, {})
    assert {n for n in masks if ".tokens." in n} >= {
        f"blocks.1.branches.tokens.{path}.weight"
        for path in ("expand", "project", "attention.qkv", "attention.out", "attention.mlp.2")
    }
    assert all(not ticket.state_dict()[name][~mask].any() for name, mask in masks.items())


# -- 3: a shrink ---------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_branch", [False, True])
def test_a_shrink_changes_nothing_but_shapes(family: mn.Family, whole_branch: bool) -> None:
    scales, total = search_costs(family)
    optimizer = torch.optim.Adam(family.parameters(), lr=1e-3)
    stepped(family, optimizer)
    dead = {s.axis: [1, 4, 5] for s in scales}
    if whole_branch:
        dead[scales[0].axis] = list(range(scales[0].channels))
    with torch.no_grad():
        for one in scales:
            shared(family, one.parameter)[dead[one.axis]] = 0.0
            shared(family, one.parameter.replace("weight", "bias"))[dead[one.axis]] = 0.7
        keep = next(iter(fixed_masks(family).values()))
        shared(family, keep)[0] = False
    kept = {s.axis: [n for n in range(s.channels) if n not in dead[s.axis]] for s in scales}
    moments = {
        s.parameter: optimizer.state[shared(family, s.parameter)]["exp_avg"][kept[s.axis]].clone()
        for s in scales
    }
    masks = mn.masks_of(family, {})
    before = family.eval().at({})(INPUTS).detach()
    ema = Ema(family, 0.9)
    moment = Moment(family, optimizer, ema, 1, 1)
    Shrink(scales, total, every=1, fold=_fold()).before(moment)
    assert torch.allclose(family.at({})(INPUTS), before, atol=1e-5)
    for one in scales:
        parameter = shared(family, one.parameter)
        left = len(kept[one.axis])
        branch = one.parameter.rpartition(".norm2")[0]
        assert parameter.shape == ema.averages[one.parameter].shape == (left,)
        assert shared(family, f"{branch}.project.weight").shape[1] == left
        state = optimizer.state[parameter]
        assert torch.equal(state["exp_avg"], moments[one.parameter])
        for place in ("expand", "depthwise"):
            name = f"{branch}.{place}.weight"
            assert optimizer.state[shared(family, name)]["exp_avg_sq"].shape[0] == left
            assert torch.equal(mn.masks_of(family, {})[name], masks[name][kept[one.axis]])
    stepped(family.train(), optimizer)  # it trains on


def _fold() -> Any:
    from manynet.systems import supertickets

    return supertickets._fold


def test_without_the_fold_what_dead_channels_add_is_lost(family: mn.Family) -> None:
    scales, total = search_costs(family)
    with torch.no_grad():
        shared(family, scales[0].parameter)[:3] = 0.0
        shared(family, scales[0].parameter.replace("weight", "bias"))[:3] = 0.7
    before = family.eval().at({})(INPUTS).detach()
    Shrink(scales, total, every=1).before(moment_of(family, epochs=1))
    assert float((family.at({})(INPUTS) - before).detach().abs().max()) > 1e-3


# -- 4, 5 and 6: masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.3, 0.55, 0.9, 0.98])
def test_one_threshold_cuts_exactly_that_share_of_all_weights(
    family: mn.Family, share: float
) -> None:
    names = fixed_masks(family)
    modules = (nn.Conv2d, nn.Linear)
    expected = [f"{p}.weight" for p, m in family.named_modules() if isinstance(m, modules)]
    assert sorted(names) == sorted(expected)
    total = sum(shared(family, name).numel() for name in names)
    assert mn.prune(family, share) == int(round(share * total, 6))
    masks = mn.masks_of(family, {})
    assert sum(int((~mask).sum()) for mask in masks.values()) == int(round(share * total, 6))
    kept = min(
        float(shared(family, n).detach().abs()[masks[n]].min()) for n in names if masks[n].any()
    )
    gone = max(
        float(shared(family, n).detach().abs()[~masks[n]].max()) for n in names if (~masks[n]).any()
    )
    assert gone <= kept


def test_a_network_that_lost_a_layer_still_runs(family: mn.Family) -> None:
    with torch.no_grad():
        shared(family, "blocks.0.branches.kernel3.expand.weight").mul_(1e-6)
    mn.prune(family, 0.5)
    ticket = family.extract({}).eval()
    assert not ticket.blocks[0].branches["kernel3"].expand.weight.any()  # type: ignore[index, union-attr]
    assert bool(ticket(INPUTS).isfinite().all())


def test_the_share_rises_by_a_tenth_with_each_event() -> None:
    rule = Prune(0.9)
    shares = [rule.share(number) for number in range(1, 11)]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
    assert [rule.last(epochs) for epochs in (100, 10, 1)] == [9, 6, 0]
    assert Prune(0.9, every=6, rise=0.9, fix=0.5).last(12) == 6


NAME = "blocks.0.branches.kernel5.project.weight"


def cut_weight(family: mn.Family, rule: Prune, optimizer: Any) -> tuple[int, ...]:
    """Let the first event cut a certain weight; return where it is."""
    place = (0, 0, 0, 0)
    with torch.no_grad():
        shared(family, NAME)[place] = 1e-9
    rule.before(moment_of(family, optimizer, epoch=1))
    assert not mn.masks_of(family, {})[NAME][place]
    assert float(family.extract({}).state_dict()[NAME][place]) == 0.0
    rule.after(moment_of(family, optimizer, epoch=1))
    return place


def pull(family: mn.Family, optimizer: torch.optim.Optimizer, place: tuple[int, ...]) -> None:
    """Take one step in which the member's weight at that place wants to grow."""
    family.guard(optimizer)
    family.zero_grad()
    weight = dict(family.train().at({}).named_parameters())[NAME]
    (-1e3 * weight[place]).backward()
    optimizer.step()


@pytest.mark.parametrize("restart", ["zero", "keep"])
def test_a_weight_that_grows_comes_back(family: mn.Family, restart: Any) -> None:
    rule = Prune(0.9, restart=restart)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)
    stepped(family, optimizer)
    place = cut_weight(family, rule, optimizer)
    start = float(shared(family, NAME)[place].detach())
    assert start == (0.0 if restart == "zero" else pytest.approx(1e-9))
    if restart == "zero":
        assert float(optimizer.state[shared(family, NAME)]["momentum_buffer"][place]) == 0.0
    pull(family, optimizer, place)
    rule.before(moment_of(family, optimizer, epoch=2))
    assert bool(mn.masks_of(family, {})[NAME][place])


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
    ids=("momentum", "adamw"),
)
def test_a_sticky_weight_stays_zero(family: mn.Family, make: Any) -> None:
    rule = Prune(0.9, mode="sticky")
    optimizer = make(list(family.parameters()))
    stepped(family, optimizer)
    place = cut_weight(family, rule, optimizer)
    for _ in range(3):
        pull(family, optimizer, place)
        stepped(family, optimizer)
    assert float(shared(family, NAME)[place].detach()) == 0.0
    rule.before(moment_of(family, optimizer, epoch=2))
    assert not mn.masks_of(family, {})[NAME][place]


def test_what_is_masked_for_good_stays_zero_through_training(family: mn.Family) -> None:
    class Watch:
        masks: dict[str, Tensor]

        def before(self, moment: Moment) -> None:
            if moment.epoch == 3:
                self.masks = mn.masks_of(moment.family, {})

        def after(self, moment: Moment) -> None:
            free = all(mask.all() for mask in mn.masks_of(moment.family, {}).values())
            assert free == (moment.epoch < 3)

    watch = Watch()
    rule = Prune(0.9, rise=0.3, fix=1.0)
    train(family, samples(), epochs=5, batch_size=16, sampler=Fixed({}), events=[rule, watch])
    for name, mask in mn.masks_of(family, {}).items():
        assert torch.equal(mask, watch.masks[name])
        assert not shared(family, name)[~mask].any()


# -- 7 and 8: tickets ----------------------------------------------------------------------------


def drawn(family: mn.Family) -> float:
    return train_supertickets(
        family,
        samples(),
        epochs=4,
        batch_size=16,
        strength=0.01,
        shrink={"target": 0.6, "every": 1, "last": 3, "threshold": 1e-2, "least": 0.0},
        prune=Prune(0.9, rise=0.3, fix=0.75),
    )


def test_a_ticket_is_a_plain_network_and_its_file_holds_what_the_mask_leaves(
    family: mn.Family, tmp_path: Path
) -> None:
    assert 0.5 < drawn(family) <= 0.6
    masks = mn.masks_of(family, {})
    weights = sum(mask.numel() for mask in masks.values())
    left = sum(int(mask.sum()) for mask in masks.values())
    assert left == weights - int(round(0.9 * weights, 6))
    ticket = family.eval().extract({})
    expected = family.at({})(INPUTS)
    assert torch.allclose(ticket(INPUTS), expected, atol=1e-5)
    mn.export(ticket, tmp_path / "ticket.safetensors", INPUTS, weights="sparse")
    stored = mn.load_weights(tmp_path / "ticket.safetensors")
    assert sum(int(stored[name].count_nonzero()) for name in masks) == left
    ticket.load_state_dict(stored)
    assert torch.allclose(ticket(INPUTS), expected, atol=1e-5)
    smaller = mn.compact(ticket, INPUTS)
    assert torch.allclose(smaller(INPUTS), expected, atol=1e-4)
    assert mn.macs()(smaller, INPUTS) <= mn.macs()(ticket, INPUTS)
    family.save(tmp_path / "family")
    again = load_family(tmp_path / "family", small_network())
    assert torch.allclose(again.eval().at({})(INPUTS), expected, atol=1e-6)


def test_another_head_leaves_the_mask_and_the_ticket_alone(family: mn.Family) -> None:
    drawn(family)
    masks = mn.masks_of(family, {})
    before = {name: tensor.detach().clone() for name, tensor in family.state_dict().items()}
    other = transfer(family, nn.Linear(8, 3))
    shapes = {n: t.shape for n, t in family.state_dict().items()}
    changed = {n for n, t in other.state_dict().items() if t.shape != shapes[n]}
    assert changed == {"head.weight", "head.bias"}
    train(other, samples(), epochs=2, batch_size=16, sampler=Fixed({}), objective=Task())
    after = mn.masks_of(other, {})
    assert after.keys() == masks.keys() - {"head.weight"}
    for name, mask in after.items():
        assert torch.equal(mask, masks[name])
        assert not other.state_dict()[name][~mask].any()
    moved = [n for n in after if not torch.equal(other.state_dict()[n], before[n])]
    assert moved
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_ticket_is_trained_again_from_the_weights_that_it_began_with() -> None:
    torch.manual_seed(0)
    network = small_network()
    family = ticket_family(network, INPUTS)
    drawn(family)
    again = rewind(ticket_family(network, INPUTS), family)
    masks, state = mn.masks_of(family, {}), again.state_dict()
    assert all(torch.equal(mask, masks[name]) for name, mask in mn.masks_of(again, {}).items())
    first = network.state_dict()
    for name, tensor in state.items():
        assert tensor.shape == family.state_dict()[name].shape
        if name in first and tensor.shape == first[name].shape:
            assert torch.equal(tensor, first[name])
    for axis, kept in family.cuts.items():
        branch = axis.removesuffix(".expand.width")
        assert torch.equal(
            state[f"{branch}.project.weight"], first[f"{branch}.project.weight"][:, list(kept)]
        )
    train(again, samples(), epochs=1, batch_size=16, sampler=Fixed({}), objective=Task())
    ticket = again.eval().extract({}).state_dict()
    assert all(not ticket[name][~mask].any() for name, mask in masks.items())
    assert any(
        not torch.equal(ticket[n][mask], shared(family, n)[mask]) for n, mask in masks.items()
    )


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(SYSTEM.example, scope)
    assert (tmp_path / "ticket.safetensors").is_file()
    assert mn.nonzeros()(scope["ticket"], torch.zeros(1, 1, 8, 8)) > 0
