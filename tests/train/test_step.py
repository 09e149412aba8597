"""One step: its gradients, its teacher, its memory."""

from __future__ import annotations

import gc
import weakref
from typing import NamedTuple

import numpy as np
import pytest
import torch
from families import conv_family, copied, images, mlp_family, rows
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import StochasticDepth

from manynet.data import Batch
from manynet.elastic import elastic
from manynet.errors import InputError
from manynet.train import Distill, Sandwich, Task, Uniform, accumulate, train
from manynet.train.step import detached


def gradients(family: object) -> list[Tensor]:
    return [parameter.grad.clone() for parameter in family.parameters()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("objective", [Task(), Distill(), Distill(2.0, labels=0.3)])
def test_a_step_leaves_the_sum_of_its_members_gradients(objective: Distill) -> None:
    family, batch = mlp_family(), rows(24)
    archs = Sandwich().archs(family.space, np.random.default_rng(0))
    family.zero_grad()
    losses = accumulate(family, batch, archs, objective)
    together = gradients(family)

    teacher = family.at(family.space.largest)(batch[0]).detach()
    total = [torch.zeros_like(p) for p in family.parameters()]
    for arch, loss in zip(archs, losses, strict=True):
        family.zero_grad()
        first = arch == family.space.largest
        own = objective(family.at(arch)(batch[0]), batch, None if first else teacher, first)
        own.backward()
        assert torch.allclose(own.detach(), loss)
        for so_far, parameter in zip(total, family.parameters(), strict=True):
            if parameter.grad is not None:
                so_far.add_(parameter.grad)
    for ours, wanted in zip(together, total, strict=True):
        assert torch.allclose(ours, wanted, atol=1e-6)


class Both(nn.Module):
    """Dropout of units and of blocks, before nothing that could hide them."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 16)
        self.units = nn.Dropout(0.5)
        self.block = StochasticDepth(0.5, "row")
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inner(x))
        return self.head(x + self.block(self.units(x)))  # type: ignore[no-any-return]


def test_dropout_can_be_the_largest_members_alone() -> None:
    torch.manual_seed(0)
    family = elastic(Both(), torch.zeros(2, 6), width=(0.5, 1.0)).train()
    batch, archs = rows(24), [family.space.largest, family.space.smallest]
    drawn = {
        policy: torch.stack([accumulate(family, batch, archs, Task(), dropout=policy)
                             for _ in range(4)]).std(0)
        for policy in ("all", "largest")
    }  # fmt: skip
    assert (drawn["all"] > 0).all()
    assert drawn["largest"][0] > 0
    assert drawn["largest"][1] == 0
    for arch in archs:
        assert all(module.training for module in family.at(arch).modules())
    with pytest.raises(InputError, match='use "all" or "largest"'):
        train(family, batch, steps=1, dropout="smallest")  # type: ignore[arg-type]


def test_a_plain_loop_of_the_users_gives_the_same_weights() -> None:
    batch = rows(24)
    ours, theirs = mlp_family(), mlp_family()
    for family in (ours, theirs):
        rng = np.random.default_rng(0)
        optimizer = torch.optim.SGD(family.parameters(), lr=0.1, momentum=0.9)
        family.guard(optimizer)
        for _ in range(3):
            family.zero_grad()
            archs = Sandwich().archs(family.space, rng)
            if family is ours:
                accumulate(family, batch, archs, Task())
            else:
                for arch in archs:
                    functional.cross_entropy(family.at(arch)(batch[0]), batch[1]).backward()
            optimizer.step()
    for one, two in zip(copied(ours).values(), copied(theirs).values(), strict=True):
        assert torch.equal(one, two)


def test_the_largest_comes_first_and_teaches_only_the_others() -> None:
    family, batch = mlp_family(), rows(8)
    seen: list[tuple[bool, bool]] = []

    def objective(outputs: object, batch: Batch, teacher: object, is_teacher: bool) -> Tensor:
        seen.append((teacher is not None, is_teacher))
        if isinstance(teacher, Tensor):
            assert not teacher.requires_grad
        return Task()(outputs, batch, teacher, is_teacher)

    space = family.space
    accumulate(family, batch, [space.smallest, space.largest, space.smallest], objective)
    assert seen == [(False, True), (True, False), (True, False)]
    seen.clear()
    accumulate(family, batch, [space.smallest], objective)
    assert seen == [(False, False)]


def test_one_graph_is_alive_at_a_time() -> None:
    family, batch = conv_family(), images(16)
    alive: list[int] = []
    outputs_seen: list[weakref.ref[Tensor]] = []

    def objective(outputs: object, batch: Batch, teacher: object, is_teacher: bool) -> Tensor:
        assert isinstance(outputs, Tensor)
        gc.collect()
        alive.append(sum(ref() is not None for ref in outputs_seen))
        outputs_seen.append(weakref.ref(outputs))
        return Distill()(outputs, batch, teacher, is_teacher)

    accumulate(family, batch, Sandwich().archs(family.space, np.random.default_rng(0)), objective)
    assert alive == [0, 0, 0, 0]


def test_inputs_may_be_several_or_named() -> None:
    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(6, 8)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.head(torch.relu(self.inner(left - right)))  # type: ignore[no-any-return]

    from manynet.elastic import elastic

    family = elastic(Two(), (torch.zeros(2, 6), torch.zeros(2, 6)))
    left, targets = rows(8)
    largest = [family.space.largest]
    one = accumulate(family, ((left, left * 2), targets), largest, Task())
    two = accumulate(family, ({"right": left * 2, "left": left}, targets), largest, Task())
    assert torch.equal(one, two)


class Pair(NamedTuple):
    logits: Tensor
    extra: list[Tensor]


def test_outputs_lose_their_graph_and_keep_their_form() -> None:
    value = torch.ones(2, requires_grad=True) * 2
    plain = detached({"a": value, "b": (value, [value]), "c": Pair(value, [value]), "d": 3})
    assert isinstance(plain, dict)
    assert isinstance(plain["c"], Pair)
    found = [plain["a"], plain["b"][0], plain["b"][1][0], plain["c"].logits, plain["c"].extra[0]]
    assert all(torch.equal(t, value) and not t.requires_grad for t in found)
    assert plain["d"] == 3


def test_bfloat16_computes_in_bfloat16_and_keeps_the_weights() -> None:
    from manynet.train import Hardware

    family, batch = mlp_family(), rows(8)
    kinds = []

    def objective(outputs: object, batch: Batch, teacher: object, is_teacher: bool) -> Tensor:
        assert isinstance(outputs, Tensor)
        kinds.append(outputs.dtype)
        return Task()(outputs, batch, teacher, is_teacher)

    half = Hardware(torch.device("cpu"), "bf16")
    archs = Uniform(2).archs(family.space, np.random.default_rng(0))
    losses = accumulate(family, batch, archs, objective, hardware=half)
    assert kinds == [torch.bfloat16] * 2
    assert torch.isfinite(losses).all()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in family.parameters())


def test_a_loss_of_another_shape_and_a_step_without_archs_are_refused() -> None:
    family, batch = mlp_family(), rows(8)
    with pytest.raises(InputError, match="no arch"):
        accumulate(family, batch, [], Task())
    with pytest.raises(InputError, match=r"shape \(8,\)"):
        accumulate(
            family,
            batch,
            [family.space.largest],
            Task(lambda outputs, targets: outputs.sum(1)),
        )
