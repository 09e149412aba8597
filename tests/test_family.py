"""Families: members bound to shared weights, extraction, training steps, files."""

from __future__ import annotations

import gc
import io
import json
import pickle
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import manynet
from manynet.errors import InputError, StorageError
from manynet.family import Family
from networks import NETWORKS, make

WIDTHS = (0.25, 0.5, 1.0)


def family_of(name: str, **options: object) -> tuple[Family, torch.Tensor]:
    model, x = make(name)
    options.setdefault("width", WIDTHS)
    return manynet.elastic(model, x, **options), x


def archs_of(family: Family, count: int = 4) -> list[manynet.Arch]:
    rng = np.random.default_rng(0)
    space = family.space
    return [space.largest, space.smallest, *(space.sample(rng) for _ in range(count))]


OPTIONS = {
    "plain": {},
    "kernels": {"kernel": True},
    "transformed kernels": {"kernel": True, "kernel_transform": True},
}
CASES = [(name, "plain") for name in NETWORKS] + [
    ("residual", "kernels"),
    ("residual", "transformed kernels"),
]


@pytest.fixture(params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Family, torch.Tensor]:
    name, options = request.param
    model, x = make(name)
    family = manynet.elastic(model, x, width=WIDTHS, **OPTIONS[options])
    with torch.no_grad():  # so that a transform that is left out shows
        for matrix in family.extra.values():
            matrix.add_(0.1 * torch.randn_like(matrix))
    return model, family, x


def test_the_largest_member_is_the_original(case) -> None:
    model, family, x = case
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-5)


def test_members_equal_their_extraction_bit_for_bit(case) -> None:
    _, family, x = case
    for arch in archs_of(family):
        member, alone = family.at(arch), family.extract(arch)
        assert str(member) == str(alone)
        assert torch.equal(member(x), alone(x))
        assert not {p.data_ptr() for p in alone.parameters()} & {
            p.data_ptr() for p in family.parameters()
        }


def test_members_are_smaller_and_of_the_users_class(case) -> None:
    model, family, _ = case
    smallest = family.at(family.space.smallest)
    assert type(smallest) is type(model)
    assert sum(p.numel() for p in smallest.parameters()) < 0.5 * sum(
        p.numel() for p in model.parameters()
    )


def test_gradients_of_a_member_land_in_its_part_of_the_shared_ones(case) -> None:
    _, family, x = case
    for arch in archs_of(family, 2):
        family.zero_grad()
        alone = family.extract(arch)
        alone(x).square().sum().backward()
        family.at(arch)(x).square().sum().backward()
        mine = sum(p.grad.square().sum() for p in family.shared.parameters() if p.grad is not None)
        theirs = sum(p.grad.square().sum() for p in alone.parameters())
        if not family.extra or arch == family.space.largest:
            assert torch.allclose(mine, theirs, rtol=1e-5)
        bound = family.at(arch)
        assert all(p.grad is None or p is q for p, q in _pairs(bound, family))


def _pairs(member: nn.Module, family: Family):
    shared = {id(p): p for p in family.parameters()}
    return [(p, shared.get(id(p))) for p in member.parameters()]


def test_gradients_equal_those_of_a_mask_free_twin() -> None:
    """The whole gradient, entry by entry, against autograd through explicit slices."""
    family, x = family_of("mlp", importance=None, multiple_of=1)
    arch = family.space.arch({"0.width": 8, "3.width": 4})
    family.at(arch)(x).square().sum().backward()
    twins = {n: p.detach().clone().requires_grad_() for n, p in family.named_parameters()}
    y = torch.nn.functional.linear(x, twins["0.weight"][:8], twins["0.bias"][:8])
    y = torch.nn.functional.layer_norm(y, (8,), twins["1.weight"][:8], twins["1.bias"][:8])
    y = torch.nn.functional.linear(y.relu(), twins["3.weight"][:4, :8], twins["3.bias"][:4])
    y = torch.nn.functional.linear(y.relu(), twins["5.weight"][:, :4], twins["5.bias"])
    y.square().sum().backward()
    for name, parameter in family.named_parameters():
        assert torch.allclose(parameter.grad, twins[name].grad, atol=1e-6), name


def test_several_members_of_a_step_add_up(case) -> None:
    _, family, x = case
    archs = archs_of(family, 2)
    total: dict[str, torch.Tensor] = {}
    for arch in archs:
        family.zero_grad()
        family.at(arch)(x).square().sum().backward()
        for name, p in family.named_parameters():
            if p.grad is not None:
                total[name] = total.get(name, 0) + p.grad.clone()
    family.zero_grad()
    losses = [family.at(arch)(x).square().sum() for arch in archs]
    for loss in losses:  # all forward passes before the first backward pass
        loss.backward()
    for name, p in family.named_parameters():
        if p.grad is not None:
            assert torch.allclose(p.grad, total[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_members_follow_a_step_of_the_optimizer(kind, fused: bool) -> None:
    """Fused optimizers do not count versions up; a member must see their step all the same."""
    family, x = family_of("residual", kernel=True)
    optimizer = kind(family.parameters(), lr=0.05, fused=fused)
    held = family.at(family.space.smallest)
    for _ in range(2):
        optimizer.zero_grad()
        family.at(family.space.smallest)(x).square().sum().backward()
        optimizer.step()
        expected = family.extract(family.space.smallest)(x)
        assert torch.equal(held(x), expected), "a member that someone holds is stale"
        assert torch.equal(family.at(family.space.smallest)(x), expected)


def test_members_follow_the_shared_weights_in_inference_mode() -> None:
    family, x = family_of("residual")
    with torch.inference_mode():
        family.at(family.space.smallest)(x)
    family.at(family.space.smallest)(x).sum().backward()  # not an inference tensor
    with torch.no_grad():
        for p in family.parameters():
            p.mul_(1.5)
    with torch.inference_mode():
        assert torch.equal(
            family.at(family.space.smallest)(x), family.extract(family.space.smallest)(x)
        )


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_a_guarded_step_moves_only_what_a_member_touched(make_optimizer) -> None:
    family, x = family_of("residual", kernel=True)
    optimizer = make_optimizer(family.parameters())
    family.guard(optimizer)
    family.guard(optimizer)  # twice is once

    def step(arch: manynet.Arch) -> dict[str, torch.Tensor]:
        before = {n: p.detach().clone() for n, p in family.named_parameters()}
        optimizer.zero_grad(set_to_none=False)
        family.at(arch)(x).square().sum().backward()
        optimizer.step()
        return {n: p.detach() != before[n] for n, p in family.named_parameters()}

    assert all(bool(moved.any()) for moved in step(family.space.largest).values())
    moved = step(family.space.smallest)  # momentum and decay would move the rest
    sizes = {n: p.shape for n, p in family.extract(family.space.smallest).named_parameters()}
    for name, where in moved.items():
        if name in sizes and where.dim() and "conv2" not in name:
            block = tuple(slice(0, n) for n in sizes[name])
            assert bool(where[block].any()), name
            where[block] = False
        if "conv2" not in name:
            assert not bool(where.any()), f"{name} moved outside the member's block"
    dropped = [n for n in moved if n.startswith("blocks.1.")]
    assert dropped
    assert not any(bool(moved[n].any()) for n in dropped)


def test_unguarded_momentum_does_move_the_rest() -> None:
    """What the guard is for: without it this fails."""
    family, x = family_of("mlp")
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)
    for arch in (family.space.largest, family.space.smallest):
        before = family.shared[0].weight.detach().clone()
        optimizer.zero_grad()
        family.at(arch)(x).square().sum().backward()
        optimizer.step()
    assert bool((family.shared[0].weight[-1] != before[-1]).any())


def test_depth_leaves_blocks_out_and_closes_the_gap() -> None:
    family, x = family_of("residual", width=None)
    member = family.at({"blocks.depth": 1})
    assert len(member.blocks) == 1
    model, _ = make("residual")
    model.blocks = model.blocks[:1]
    assert torch.allclose(member(x), model(x), atol=1e-5)


def test_a_kernel_is_the_center_of_the_larger_one() -> None:
    family, _x = family_of("residual", width=None, depth=False, kernel=(3, 5), importance=None)
    name = "blocks.0.conv2.kernel"
    member = family.at({name: 3})
    assert member.blocks[0].conv2.kernel_size == (3, 3)
    assert member.blocks[0].conv2.padding == (1, 1)
    full = family.shared.blocks[0].conv2.weight
    assert torch.equal(member.blocks[0].conv2.weight, full[:, :, 1:4, 1:4])


def test_a_transformed_kernel_goes_through_its_matrix() -> None:
    family, x = family_of("residual", kernel=True, kernel_transform=True)
    matrix = family.extra["kernel_transform.blocks.0.conv2.5to3"]
    crop = family.at({"blocks.0.conv2.kernel": 3}).blocks[0].conv2.weight.detach().clone()
    with torch.no_grad():
        matrix.mul_(2)
    member = family.at({"blocks.0.conv2.kernel": 3})
    member(x)  # a change of one tensor by hand is noticed when the member runs
    doubled = member.blocks[0].conv2.weight
    assert torch.allclose(doubled, 2 * crop)
    family.at({"blocks.0.conv2.kernel": 3})(x).sum().backward()
    assert matrix.grad is not None
    assert bool(matrix.grad.any())


def test_a_member_seen_before_is_the_same_object() -> None:
    family, _ = family_of("mlp")
    assert family.at(family.space.smallest) is family.at(dict(family.space.smallest))


def test_mode_follows_the_family() -> None:
    family, _ = family_of("residual")
    assert not family.at(family.space.smallest).training
    family.train()
    assert family.at(family.space.smallest).blocks[0].bn1.training
    assert family.extract(family.space.smallest).training
    assert not family.eval().at(family.space.smallest).blocks[0].bn1.training


def test_statistics_given_to_a_member_are_its_own_and_go_with_its_extraction() -> None:
    family, _x = family_of("residual")
    arch = family.space.smallest
    member = family.at(arch)
    member.blocks[0].bn1.running_mean = torch.full_like(member.blocks[0].bn1.running_mean, 7.0)
    assert float(family.extract(arch).blocks[0].bn1.running_mean[0]) == 7.0
    assert not bool((family.shared.blocks[0].bn1.running_mean == 7).any())
    family.train().at(arch)
    assert not bool((family.eval().at(arch).blocks[0].bn1.running_mean == 7).any())


def test_members_that_nobody_holds_are_dropped_beyond_the_limit() -> None:
    family, _ = family_of("residual")
    family.train()
    limit = family.cache_bytes = sum(t.nbytes for t in family.state_dict().values()) // 10
    rng = np.random.default_rng(0)
    for _ in range(30):
        family.at(family.space.sample(rng))
    newest = list(family._cache.values())[-1]
    kept = sum(member.bytes for member in family._cache.values() if member is not newest)
    assert kept <= limit


def test_a_member_beyond_the_limit_goes_when_the_next_is_asked_for_and_stays_right() -> None:
    family, x = family_of("residual")
    family.train().cache_bytes = 0
    first = family.space.smallest
    member = family.at(first)
    assert family.at(first) is member  # as long as no other is asked for
    loss = member(x).square().mean()
    other = family.at(family.space.sample(np.random.default_rng(1)))
    assert [m.module for m in family._cache.values() if m.module is not other] == []
    loss.backward()  # what somebody holds works on
    assert any(p.grad is not None and bool(p.grad.any()) for p in family.parameters())
    again = family.at(first)
    assert again is not member
    assert torch.equal(again(x), member(x))


def test_an_unknown_choice_or_value_is_refused_with_the_nearest() -> None:
    family, _ = family_of("mlp")
    with pytest.raises(InputError, match=r"0\.wdith.*did you mean '0\.width'"):
        family.at({"0.wdith": 8})
    with pytest.raises(InputError, match="7"):
        family.at({"0.width": 7})


# -- what users do with members --------------------------------------------------------------


def test_tied_weights_stay_tied() -> None:
    family, _x = family_of("tied")
    for arch in archs_of(family):
        for model in (family.at(arch), family.extract(arch)):
            assert model.c.weight is model.b.weight
    assert "c.weight" not in family.state_dict()


def test_a_family_of_frozen_weights_trains_the_rest() -> None:
    model, x = make("mlp")
    model[0].weight.requires_grad_(False)
    family = manynet.elastic(model, x)
    family.at(family.space.smallest)(x).sum().backward()
    assert family.shared[0].weight.grad is None
    assert family.shared[3].weight.grad is not None


def test_the_users_model_is_left_alone() -> None:
    model, x = make("residual")
    state = {n: t.clone() for n, t in model.state_dict().items()}
    attributes = {p: dict(vars(m)) for p, m in model.named_modules()}
    random = torch.get_rng_state()
    family = manynet.elastic(model, x, kernel=True)
    family.train().at(family.space.smallest)(x).sum().backward()
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    for path, module in model.named_modules():
        now = vars(module)
        assert {k: v for k, v in now.items() if type(v) is int} == {
            k: v for k, v in attributes[path].items() if type(v) is int
        }
    assert all(p.grad is None for p in model.parameters())


class Caching(nn.Module):
    """Keeps what it has computed in a dictionary of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.seen = nn.Linear(6, 8), nn.Linear(8, 3), {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen["norm"] = self.first.weight.detach().norm()
        return self.last(torch.relu(self.first(x))) / self.seen["norm"]


@pytest.mark.parametrize("caches", [False, True])
def test_members_are_freed_without_the_garbage_collector(caches: bool) -> None:
    """Else the weights of those that a training step has drawn would pile up until it runs."""
    if caches:
        x = torch.randn(2, 6)
        family = manynet.elastic(Caching(), (x,))
    else:
        family, x = family_of("residual")
    family.train()
    gc.collect()
    gc.disable()
    try:
        members = []
        for arch in archs_of(family, 20):
            member = family.at(arch)
            member(x).sum().backward()
            members.append(weakref.ref(member))
            del member
        family.clear()
        assert not [member for member in members if member() is not None]
    finally:
        gc.enable()


# -- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_family_survives_its_file(name: str, tmp_path: Path) -> None:
    options = {"kernel": True, "kernel_transform": True} if name == "residual" else {}
    family, x = family_of(name, **options)
    family.members["small"] = family.space.smallest
    family.save(tmp_path)
    again = manynet.load(tmp_path, model=make(name, seed=5)[0])
    assert again.space == family.space
    assert again.members == family.members
    assert str(again.report()) == str(family.report())
    for arch in archs_of(family):
        assert torch.equal(again.at(arch)(x), family.at(arch)(x))
        assert torch.equal(again.extract(arch)(x), family.extract(arch)(x))


def saved(tmp_path: Path) -> Path:
    family_of("mlp")[0].save(tmp_path)
    return tmp_path


def test_shared_tensors_are_stored_once(tmp_path: Path) -> None:
    family, _ = family_of("tied")
    family.save(tmp_path)
    stored = load_file(tmp_path / "family.safetensors")
    assert sorted(stored) == sorted(family.state_dict())
    assert len({t.data_ptr() for t in stored.values()}) == len(stored)


def test_another_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="made of another network"):
        manynet.load(saved(tmp_path), model=make("tied")[0])


def test_a_nameless_network_must_be_handed_in(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model=your_network"):
        manynet.load(saved(tmp_path))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path) / "family.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(StorageError, match="truncated"):
        manynet.load(tmp_path, model=make("mlp")[0])


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.write_text, (tmp_path / "owned", "yes"))

    file = saved(tmp_path) / "family.safetensors"
    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StorageError, match="nothing in it was run"):
        manynet.load(tmp_path, model=make("mlp")[0])
    buffer = io.BytesIO()
    torch.save({"0.weight": Evil()}, buffer)
    file.write_bytes(buffer.getvalue())
    with pytest.raises(StorageError, match="nothing in it was run"):
        manynet.load(tmp_path, model=make("mlp")[0])
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "damage",
    [
        lambda d: d.pop("bindings"),
        lambda d: d["bindings"].update({"0.weight": {"kind": "pickle"}}),
        lambda d: d["depths"].append(["x"]),
        lambda d: d["members"].update({"a": [99]}),
        lambda d: d["follows"].append([1]),
        lambda d: d["space"].clear(),
    ],
)
def test_a_damaged_description_is_one_clear_error(tmp_path: Path, damage) -> None:
    file = saved(tmp_path) / "family.json"
    data = json.loads(file.read_text())
    damage(data)
    file.write_text(json.dumps(data))
    with pytest.raises((StorageError, InputError)) as caught:
        manynet.load(tmp_path, model=make("mlp")[0])
    assert "\n" not in str(caught.value)


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    family, x = family_of("mlp")
    y = family.at(family.space.largest)(x)
    state = {n: t.clone() + 1 for n, t in family.state_dict().items()}
    state["5.bias"] = torch.zeros(3)
    with pytest.raises(InputError, match=r"5\.bias has shape \(3,\)"):
        family.load_state_dict(state)
    del state["5.bias"]
    with pytest.raises(InputError, match=r"lacks 5\.bias"):
        family.load_state_dict(state)
    assert torch.equal(family.at(family.space.largest)(x), y)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    save_file({"other": torch.zeros(2)}, saved(tmp_path) / "family.safetensors")
    with pytest.raises(InputError, match="does not fit this family"):
        manynet.load(tmp_path, model=make("mlp")[0])


@pytest.mark.parametrize("arch", ["smallest", None, 3])
def test_what_is_no_arch_is_told(arch: object) -> None:
    family = manynet.elastic(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), torch.zeros(1, 4))
    for read in (family.at, family.extract):
        with pytest.raises(InputError, match="is no arch; give one of the space, such as"):
            read(arch)
