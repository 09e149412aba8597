"""The search over a real family: elastic convolutions, calibrated, with counted costs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from supernet import INPUTS, TARGETS, conv_family

from manynet.cost import macs, parameters
from manynet.deploy import calibrate
from manynet.family import Family
from manynet.search import Front, accuracy, search


@pytest.fixture
def family() -> Family:
    return conv_family()


def run(family: Family, **more: object) -> Front:
    return search(
        family, accuracy((INPUTS, TARGETS)), costs=[macs(), parameters()], evaluations=9,
        calibrate=lambda member: calibrate(member, INPUTS), **more,
    )  # fmt: skip


def test_members_are_judged_as_they_would_be_shipped(family: Family) -> None:
    family.train()
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    front = run(family)
    assert family.training
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert len(front.history) == 9
    for record in front:
        alone = calibrate(family.eval().extract(record.arch), INPUTS)
        assert accuracy((INPUTS, TARGETS))(alone) == record.quality
        assert record.costs["macs"] == macs()(alone, family.example_inputs)
        assert record.costs["parameters"] == sum(p.numel() for p in alone.parameters())
    assert front.largest.costs["macs"] > 4 * front.smallest.costs["macs"] or len(front) == 1


def test_a_second_search_measures_nothing(family: Family, tmp_path: Path) -> None:
    stored: list[float] = []
    first = run(family, store=tmp_path / "e.sqlite", progress=lambda *_: None)
    second = run(
        family,
        store=tmp_path / "e.sqlite",
        progress=lambda done, total, info: stored.append(info["stored"]),
    )
    assert second.history == first.history
    assert stored[-1] == 3 * 9


def test_a_constraint_on_macs(family: Family) -> None:
    most = macs().of_arch(family, family.space.largest)
    front = run(family, constraints={"macs": most / 2})
    assert all(record.costs["macs"] <= most / 2 for record in front.history)
