"""Losses over tokens agree with the plain formulas, and the frozen teacher teaches all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.train import tokens as tokens_module


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens_module, "_NUMBERS", 20)  # so that there are several parts


def sample(masked: bool) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 7, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 5, 7, generator=generator)
    targets = torch.randint(0, 7, (3, 5), generator=generator)
    return logits, teacher, targets.masked_fill(targets > 3, -100) if masked else targets


@pytest.mark.parametrize("masked", [False, True])
def test_token_loss_is_the_cross_entropy_and_so_is_its_gradient(masked: bool) -> None:
    logits, _, targets = sample(masked)
    wanted = functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    (expected,) = torch.autograd.grad(wanted, logits)
    found = mn.token_loss(logits, targets)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(torch.autograd.grad(found, logits)[0], expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_divergence_where_something_is_to_be_guessed(
    masked: bool, temperature: float
) -> None:
    logits, teacher, targets = sample(masked)
    kept = targets != -100
    own = functional.log_softmax(logits[kept] / temperature, -1)
    said = functional.log_softmax(teacher[kept] / temperature, -1)
    wanted = temperature**2 * functional.kl_div(own, said, reduction="batchmean", log_target=True)
    found = mn.DistillTokens(temperature)(logits, (targets, targets), teacher, False)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, logits)[0], torch.autograd.grad(wanted, logits)[0]
    )


def test_a_batch_without_anything_to_guess_has_no_loss_and_no_gradient() -> None:
    logits, teacher, targets = sample(False)
    targets = torch.full_like(targets, -100)
    for loss in (
        mn.token_loss(logits, targets),
        mn.DistillTokens()(logits, (targets, targets), teacher, False),
    ):
        assert float(loss.detach()) == 0
        assert not torch.autograd.grad(loss, logits)[0].any()


def test_the_frozen_teacher_is_asked_once_a_step_and_teaches_the_largest_too() -> None:
    asked = []

    class Teacher(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            asked.append(torch.is_grad_enabled())
            return inputs.new_tensor([[5.0, 0.0]]).expand(len(inputs), 2)

    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    family = mn.elastic(model, torch.zeros(1, 4), width=(0.5, 1.0))
    objective = mn.TaughtBy(Teacher())
    inputs, targets = torch.randn(8, 4), torch.ones(8, dtype=torch.long)
    optimizer = torch.optim.SGD(family.parameters(), lr=0.5)
    archs = [family.space.largest, family.space.smallest]
    for _ in range(100):
        family.zero_grad()
        mn.accumulate(family, (inputs, targets), archs, objective)
        optimizer.step()
    assert asked == [False] * 100
    for arch in archs:  # the labels say 1 throughout, and the teacher 0
        assert (family.at(arch)(inputs).argmax(1) == 0).all()


def test_half_of_the_labels_beside_a_frozen_teacher() -> None:
    net, batch = nn.Linear(3, 2), (torch.ones(1, 3), torch.tensor([1]))
    outputs = net(batch[0])
    half = mn.TaughtBy(net, mn.Distill(labels=0.5))(outputs, batch, None, True)
    torch.testing.assert_close(half, 0.5 * functional.cross_entropy(outputs, batch[1]))
