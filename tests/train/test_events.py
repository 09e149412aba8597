"""Shrinking and pruning as events of any training, with any sampler, stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings.recipes import prunable
from manynet.elastic import axes_in
from manynet.errors import InputError
from manynet.train import (
    Ema,
    Fixed,
    Moment,
    Prune,
    Sandwich,
    ScaledL1,
    Shrink,
    Task,
    scales_of,
    train,
)
from manynet.train.events import cut_again


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 12, bias=False),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, 10, bias=False),
        nn.BatchNorm1d(10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


def family_of() -> mn.Family:
    family = mn.elastic(network(), torch.zeros(4, 6), width=(0.5, 1.0), importance=None)
    return mn.bind(family, nn.Linear, prunable())


def samples() -> tuple[Tensor, Tensor]:
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def rules(family: mn.Family, **shrink: Any) -> tuple[list[Any], ScaledL1]:
    scales = scales_of(
        family, "[14].weight", lambda name: {"1.weight": 16.0, "4.weight": 15.0}[name]
    )
    how = {"every": 1, "last": 4, "target": 0.7, "least": 0.0, "threshold": 0.05, **shrink}
    total = 6 * 12 + 12 * 10 + 10 * 3
    events = [Shrink(scales, total, **how), Prune(0.8, rise=0.2, fix=0.75)]
    return events, ScaledL1(scales, 0.02, rise=4)


def run(family: mn.Family, **options: Any) -> None:
    events, penalty = rules(family)
    how: dict[str, Any] = {"sampler": Fixed({}), "objective": Task(), "ema": 0.9, "seed": 3}
    how |= {"epochs": 6, "batch_size": 32, "events": events, "penalty": penalty}
    train(family, samples(), **{**how, **options})


def test_a_family_shrinks_and_sparsifies_while_it_trains() -> None:
    family = family_of()
    run(family)
    sizes = {name: axis.size for name, axis in axes_in(family).items()}
    assert 16 * sizes["0.width"] + 15 * sizes["3.width"] <= 16 * 12 + 15 * 10 - 0.3 * 222
    masks = mn.masks_of(family, {})
    total = sum(mask.numel() for mask in masks.values())
    assert sum(int((~mask).sum()) for mask in masks.values()) == int(round(0.8 * total, 6))
    member = family.eval().extract({})
    assert torch.allclose(member(samples()[0]), family.at({})(samples()[0]), atol=1e-6)


def test_members_of_other_sizes_train_on_after_a_cut() -> None:
    family = family_of()
    run(family, sampler=Sandwich(1), objective=mn.Distill())
    assert family.space.count > 1
    for arch in (family.space.smallest, family.space.largest):
        assert family.eval().at(arch)(samples()[0]).shape == (96, 3)


def stopping(at: int) -> Callable[..., None]:
    def progress(step: int, total: int, info: object) -> None:
        if step == at:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("at", [4, 8, 10, 12])
def test_a_resumed_run_ends_as_the_uninterrupted_one(tmp_path: Path, at: int) -> None:
    whole, parts = family_of(), family_of()
    run(whole, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(parts, folder=tmp_path / "parts", progress=stopping(at))
    fresh = family_of()  # as a new process would make it
    run(fresh, folder=tmp_path / "parts")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(fresh.state_dict()[name], tensor), name
    again = family_of()
    run(again, folder=tmp_path / "parts")  # a finished run is loaded, cuts included
    assert again.cuts == whole.cuts
    with pytest.raises(InputError, match="of another run"):
        run(family_of(), folder=tmp_path / "parts", events=[])


def test_a_family_that_lost_something_else_is_not_resumed() -> None:
    family = family_of()
    moment = Moment(family, torch.optim.SGD(family.parameters(), lr=0.1), None, 1, 2)
    cut_again(moment, {"0.width": list(range(4, 12))})
    cut_again(moment, {"0.width": [5, 11]})
    assert family.cuts["0.width"] == (5, 11)
    with pytest.raises(InputError, match="has lost since"):
        cut_again(moment, {"0.width": [4, 5]})


def test_both_weights_and_average_must_have_died_but_at_the_end() -> None:
    family = family_of()
    scales = rules(family)[0][0].scales
    ema = Ema(family, 0.9)
    with torch.no_grad():
        family.state_dict()["1.weight"][:4] = 0.0  # just now; the average is still at one
        ema.averages["4.weight"][:3] = 0.0  # once; they have come back
    optimizer = torch.optim.SGD(family.parameters(), lr=0.1)
    rule = Shrink(scales, 222.0, every=1, least=0.0)
    rule.before(Moment(family, optimizer, ema, 1, 2))
    assert family.cuts == {}
    rule.before(Moment(family, optimizer, ema, 2, 2))
    assert family.cuts == {"3.width": tuple(range(3, 10))}


def test_a_small_saving_waits_and_the_target_is_a_floor() -> None:
    family = family_of()
    scales = rules(family)[0][0].scales
    with torch.no_grad():
        family.state_dict()["1.weight"][:9] = 0.0
    moment = Moment(family, torch.optim.SGD(family.parameters(), lr=0.1), None, 1, 9)
    Shrink(scales, 222.0, every=1, least=9 * 16.0 + 1).before(moment)
    assert family.cuts == {}
    Shrink(scales, 222.0, every=2, least=0.0).before(moment)
    assert family.cuts == {}
    Shrink(scales, 222.0, every=1, least=0.0, target=0.6).before(moment)
    assert 222 - 16 * (12 - axes_in(family)["0.width"].size) == 222 - 16 * 5


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prune(1.0), "shares"),
        (lambda: Prune(0.5, every=0), "at least 1"),
        (lambda: Prune(0.5, mode="soft"), "'reactivate' or 'sticky'"),  # type: ignore[arg-type]
        (lambda: Shrink((), 1.0, every=0), "epochs of at least 1"),
        (lambda: Shrink((), 1.0, target=1.5), "above 0, at most 1"),
        (lambda: ScaledL1((), 1.0), "at least one vector"),
        (lambda: scales_of(family_of(), "9.*", len), "no shared parameter matches"),
        (lambda: scales_of(family_of(), "0.*", len), "not the one vector of scales"),
        (lambda: mn.prune(family_of()), "a share from 0 to 1"),
        (lambda: mn.prune(family_of(), left=10_000), "of the 222 weights"),
        (lambda: mn.prune(mn.Family(network()), 0.5), "no weight of the family has a fixed mask"),
        (lambda: mn.lift(mn.Family(network())), "prunable"),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()
