"""Cutting axes for good, leaving out what nothing reads, and other heads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings.recipes import low_rank, masked, prunable
from manynet.elastic import axes_in, cut, cut_state
from manynet.errors import InputError
from manynet.family.file import load_family

X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A residual path, a norm, groups and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 1)
        self.norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.outer = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.outer(torch.relu(self.deep(torch.relu(self.norm(self.inner(x))))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    return mn.elastic(Net().eval(), X, width=(0.5, 1.0), importance=None)


def zeroed(family: mn.Family, places: list[int]) -> None:
    """Let nobody read these channels of the inner axis."""
    with torch.no_grad():
        family.state_dict()["outer.weight"][:, places] = 0.0


def test_channels_that_nobody_reads_can_be_cut(family: mn.Family) -> None:
    zeroed(family, [0, 7])
    before = family.at({})(X).detach()
    keep = [n for n in range(12) if n not in (0, 7)]
    cut(family, {"inner.width": keep})
    assert torch.allclose(family.at({})(X), before, atol=1e-6)
    assert torch.allclose(family.extract({})(X), before, atol=1e-6)
    choice = next(c for c in family.space.choices if c.name == "inner.width")
    assert choice.values == (6, 10)
    assert family.at({"inner.width": 6}).deep.groups == 6  # type: ignore[union-attr]
    assert family.cuts == {"inner.width": tuple(keep)}
    cut(family, {"inner.width": (1, 2)})
    assert family.cuts == {"inner.width": (2, 3)}
    assert family.shared.norm.num_features == 2


def test_a_residual_axis_is_cut_in_all_its_tensors(family: mn.Family) -> None:
    assert set(axes_in(family)) == {"inner.width", "stem.width"}
    cut(family, {"stem.width": (0, 2, 5)})
    shapes = {name: tuple(t.shape) for name, t in family.state_dict().items()}
    assert shapes["stem.weight"] == (3, 3, 3, 3) and shapes["stem.bias"] == (3,)
    assert shapes["inner.weight"] == (12, 3, 1, 1) and shapes["outer.weight"] == (3, 12, 1, 1)
    assert shapes["head.weight"] == (4, 3)
    assert family.at(family.space.smallest)(X).shape == (5, 4)


def test_masks_and_optimizers_are_cut_alike_and_training_goes_on(family: mn.Family) -> None:
    family = mn.bind(family, nn.Conv2d, prunable())
    mn.prune(family, 0.4)
    masks = mn.masks_of(family, {})
    optimizer = torch.optim.AdamW(family.parameters(), lr=1e-3)
    family.guard(optimizer)
    family.zero_grad()
    family.at({})(X).square().sum().backward()
    optimizer.step()
    weight = family.state_dict()["deep.weight"]
    before = optimizer.state[weight]["exp_avg"].clone()
    keep = (1, 3, 4, 11)
    cut_state(cut(family, {"inner.width": keep}), family.named_parameters(), optimizer)
    assert family.state_dict()["deep.weight"] is weight
    assert torch.equal(optimizer.state[weight]["exp_avg"], before[list(keep)])
    assert torch.equal(mn.masks_of(family, {})["deep.weight"], masks["deep.weight"][list(keep)])
    family.zero_grad()
    family.at({})(X).sum().backward()
    optimizer.step()


def test_a_cut_family_is_read_back_into_the_network_as_it_was_built(
    family: mn.Family, tmp_path: Path
) -> None:
    cut(family, {"inner.width": (0, 2, 4, 6, 8, 9), "stem.width": (1, 2, 7)})
    family.save(tmp_path)
    again = load_family(tmp_path, Net())
    assert torch.equal(again.at({})(X), family.at({})(X))
    assert again.cuts == family.cuts
    assert again.shared.inner.out_channels == 6
    with pytest.raises(InputError, match="another network"):
        load_family(tmp_path, nn.Sequential(nn.Linear(3, 3)))


def test_cuts_that_do_not_fit_are_refused_and_change_nothing(family: mn.Family) -> None:
    before = {name: t.clone() for name, t in family.state_dict().items()}
    for keep, words in (
        ({"nothing": (0,)}, "no axis 'nothing'"),
        ({"inner.width": (0, 0)}, "different positions from 0 to 11"),
        ({"inner.width": (3, 12)}, "different positions"),
        ({"inner.width": (0,), "stem.width": (-1,)}, "different positions"),
    ):
        with pytest.raises(InputError, match=words):
            cut(family, keep)
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name])
    scored = mn.bind(family, "deep.weight", masked(0.5))
    cut(scored, {"inner.width": (0, 1, 2)})  # scores lie along the axis and are cut alike
    assert scored.at({})(X).shape == (5, 4)
    made = mn.bind(mn.elastic(Net(), X, width=(0.5, 1.0)), "inner.weight", low_rank(2))
    with pytest.raises(InputError, match="computed from other tensors"):
        cut(made, {"inner.width": (0, 1)})


# -- compact -------------------------------------------------------------------------------------


def test_a_sparse_network_becomes_a_smaller_one_with_the_same_outputs() -> None:
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.outer.weight[:, [1, 5, 6]] = 0.0
        net.head.weight[:, 3] = 0.0  # still read by the inner convolution
    small = mn.compact(net, X)
    assert small.inner.out_channels == small.deep.groups == 9
    assert small.stem.out_channels == 8
    assert torch.allclose(small(X), net(X), atol=1e-5)
    assert net.inner.out_channels == 12
    assert mn.macs()(small, X) < mn.macs()(net, X)


def test_what_only_dead_channels_read_goes_too() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        net[4].weight[:, 2:] = 0.0
        net[2].weight[:2, 3:] = 0.0  # five inputs serve the dead four alone
    small = mn.compact(net, torch.zeros(1, 4))
    assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [3, 2, 2]


def test_a_norm_over_channels_is_noticed() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    with torch.no_grad():
        net[2].weight[:, :4] = 0.0
    with pytest.raises(InputError, match="a norm over channels"):
        mn.compact(net, torch.zeros(3, 4))


def test_a_dense_network_stays_as_it_is() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    small = mn.compact(net, torch.zeros(1, 4))
    assert small is not net
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), net.parameters(), strict=True))
    assert isinstance(mn.compact(nn.Linear(4, 2), torch.zeros(1, 4)), nn.Linear)


# -- another head --------------------------------------------------------------------------------


def test_a_new_head_is_cut_in_what_it_reads(family: mn.Family) -> None:
    other = mn.replace_head(family, "head", nn.Linear(8, 7))
    for arch in (family.space.largest, family.space.smallest):
        assert other.at(arch)(X).shape == (5, 7)
    own, theirs = family.state_dict(), other.state_dict()
    assert torch.equal(own["stem.weight"], theirs["stem.weight"])
    assert own["stem.weight"].data_ptr() != theirs["stem.weight"].data_ptr()


def test_a_head_that_does_not_fit_is_refused(family: mn.Family) -> None:
    with pytest.raises(InputError, match="no module 'tail'"):
        mn.replace_head(family, "tail", nn.Linear(8, 7))
    with pytest.raises(InputError, match=r"head\.weight has shape \(7, 9\)"):
        mn.replace_head(family, "head", nn.Linear(9, 7))
