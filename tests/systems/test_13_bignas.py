"""BigNAS: its exact checks, on networks small enough to compute by hand."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.models.mobile import mobile_cnn
from manynet.search import search
from manynet.space import Arch, Choice, Space
from manynet.systems.bignas import five_archs, train_bignas
from manynet.train import Distill, Sandwich, accumulate
from manynet.train.optimizers import make_optimizer
from manynet.train.schedules import exponential

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    network = mobile_cnn(4, widths=(8, 8, 16), depths=(2, 2), kernels=(5, 3))
    return mn.elastic(network, IMAGES[:2], width=(0.5, 1.0), kernel=True)


def wake(family: mn.Family) -> None:
    """Give the zero gammas values, so that blocks do something."""
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            if "norm3" in name:
                parameter.uniform_(0.5, 1.5)


def test_with_zero_gammas_depth_and_kernel_change_nothing(family: mn.Family) -> None:
    space = family.eval().space
    free = [name for name in space.names if not name.endswith(".width")]
    logits = []
    rng = np.random.default_rng(0)
    for _ in range(6):
        drawn = space.sample(rng, by="choice")
        arch = space.arch({**space.largest, **{name: drawn[name] for name in free}})
        logits.append(family.at(arch)(IMAGES).detach())
    for other in logits[1:]:
        assert torch.equal(other, logits[0])


def test_a_step_is_the_sum_of_its_members_and_the_teacher_learns_nothing(
    family: mn.Family,
) -> None:
    wake(family)
    family.eval()  # statistics stay, so that passes can be repeated
    archs = Sandwich(2).archs(family.space, np.random.default_rng(1))
    batch = (IMAGES, LABELS)
    family.zero_grad()
    accumulate(family, batch, archs, Distill())
    together = {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}
    family.zero_grad()
    teacher = family.at(archs[0])(IMAGES)
    functional.cross_entropy(teacher, LABELS).backward()
    soft = teacher.detach().softmax(1)
    for arch in archs[1:]:
        own = family.at(arch)(IMAGES).log_softmax(1)
        functional.kl_div(own, soft, reduction="batchmean").backward()
    for name, parameter in family.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(together[name], parameter.grad, atol=1e-6), name


def test_a_member_that_equals_its_teacher_has_nothing_to_learn(family: mn.Family) -> None:
    wake(family)
    family.eval().zero_grad()
    teacher = family.at(family.space.largest)(IMAGES).detach()
    outputs = family.at(family.space.largest)(IMAGES)
    loss = Distill()(outputs, (IMAGES, LABELS), teacher, False)
    loss.backward()
    assert abs(float(loss.detach())) < 1e-7
    for parameter in family.parameters():
        assert parameter.grad is None or parameter.grad.abs().max() < 1e-6


def test_the_schedule_decays_to_a_constant() -> None:
    factor = exponential(0.97, every=2.4, floor=0.05)
    values = [factor(step) for step in range(400)]
    assert values[0] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(values))
    first = values.index(0.05)
    assert values[first:] == [0.05] * (400 - first)
    assert 0.97 ** ((first - 1) / 2.4) > 0.05 >= 0.97 ** (first / 2.4)


def test_weight_decay_acts_once_a_step_on_all_that_the_largest_uses(family: mn.Family) -> None:
    wake(family)
    plain, decayed = family, copy.deepcopy(family.shared)
    other = mn.elastic(decayed, IMAGES[:2], width=(0.5, 1.0), kernel=True, importance=None)
    archs = Sandwich(2).archs(family.space, np.random.default_rng(1))
    rate, decay = 0.1, 0.01
    start = {name: p.detach().clone() for name, p in family.named_parameters()}
    for one, amount in ((plain, 0.0), (other, decay)):
        one.eval()
        optimizer = make_optimizer(
            one, lambda groups: torch.optim.SGD(groups, lr=rate), None, amount
        )
        one.zero_grad()
        accumulate(one, (IMAGES, LABELS), archs, Distill())
        optimizer.step()
    for (name, mine), (_, theirs) in zip(
        plain.named_parameters(), other.named_parameters(), strict=True
    ):
        shrinks = mine.ndim > 1 and mine.numel() != max(mine.shape)
        expected = mine - rate * decay * start[name] if shrinks else mine
        assert torch.allclose(theirs, expected, atol=1e-6), name


def test_recalibrating_a_member_changes_no_other(family: mn.Family) -> None:
    wake(family)
    family.eval()
    space = family.space
    before = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    largest = family.at(space.largest)(IMAGES).detach()
    small = family.at(space.smallest)
    untouched = small(IMAGES).detach()
    mn.calibrate(small, [IMAGES])
    assert not torch.equal(small(IMAGES), untouched)
    assert torch.equal(family.at(space.largest)(IMAGES), largest)
    for name, tensor in family.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_coarse_to_fine_finds_the_optimum_of_a_separable_table() -> None:
    best = Arch(
        {f"{stage}.width": width for stage, width in enumerate((8, 24, 32, 16))}
        | {f"{stage}.depth": depth for stage, depth in enumerate((3, 1, 2, 2))}
    )
    levels = {"width": (8, 16, 24, 32), "depth": (1, 2, 3)}
    space = Space(tuple(Choice(name, levels[name.partition(".")[2]]) for name in best))

    def quality(arch: Arch) -> dict[str, float]:
        return {"quality": -sum(abs(arch[name] - best[name]) for name in space.names)}

    front = search(space, "quality", evaluate=quality, strategy="coarse_to_fine", evaluations=2000)
    assert front.members[0].arch == best
    assert len(front.history) < space.count / 20


def test_five_archs_are_distinct_and_each_contains_the_one_before(family: mn.Family) -> None:
    space = family.space
    archs = list(five_archs(space).values())
    assert archs[0] == space.smallest and archs[-1] == space.largest
    counts = [sum(p.numel() for p in family.extract(arch).parameters()) for arch in archs]
    assert all(small < large for small, large in itertools.pairwise(counts))
    for arch, larger in itertools.pairwise(archs):
        assert all(arch[c.name] <= larger[c.name] for c in space.choices if c.name in arch)


def test_five_archs_rise_in_all_choices_alike() -> None:
    space = Space(tuple(Choice(f"{n}.width", (8, 16, 24)) for n in range(8)))
    middle = five_archs(space)["0.5"]
    assert set(middle.values()) == {16}
    quarter = list(five_archs(space)["0.25"].values())
    assert sorted(quarter) == [8] * 4 + [16] * 4
    assert 16 in quarter[:4] and 16 in quarter[4:]


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.drop, self.head = nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.inner(x))))  # type: ignore[no-any-return]


def test_the_recipe_trains_any_family() -> None:
    torch.manual_seed(0)
    family = mn.elastic(Tiny(), torch.zeros(2, 6), width=(0.5, 1.0))
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(1))
    data = (x, x[:, :3].argmax(1))
    train_bignas(family, data, steps=150, batch_size=64)
    for arch in five_archs(family.space).values():
        assert float((family.eval().at(arch)(x).argmax(1) == data[1]).float().mean()) > 0.8
