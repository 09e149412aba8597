"""The loss of each member of a step."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from manynet.errors import InputError
from manynet.train import Distill, DistillOutputs, Task, logits_of, squared_error

LOGITS, TEACHER = torch.randn(5, 4), torch.randn(5, 4)
BATCH = (torch.zeros(5, 2), torch.tensor([0, 1, 2, 3, 0]))


def test_the_task_takes_any_loss() -> None:
    assert torch.equal(
        Task()(LOGITS, BATCH, None, True), functional.cross_entropy(LOGITS, BATCH[1])
    )
    targets = torch.randn(5, 4)
    wanted = functional.mse_loss(LOGITS, targets)
    assert torch.equal(Task(functional.mse_loss)(LOGITS, (BATCH[0], targets), None, False), wanted)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_is_the_divergence_from_the_teacher(temperature: float) -> None:
    loss = Distill(temperature)(LOGITS, BATCH, TEACHER, False)
    wanted = functional.kl_div(
        functional.log_softmax(LOGITS / temperature, 1),
        functional.softmax(TEACHER / temperature, 1),
        reduction="batchmean",
    )
    assert torch.allclose(loss, wanted * temperature**2, atol=1e-6)


def test_a_member_equal_to_its_teacher_gets_neither_loss_nor_gradient() -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = Distill()(logits, BATCH, logits.detach().clone(), False)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().max()) < 1e-7  # type: ignore[union-attr] # softmax sums to 1 only nearly


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = TEACHER.clone().requires_grad_()
    logits = LOGITS.clone().requires_grad_()
    Distill()(logits, BATCH, teacher, False).backward()
    assert teacher.grad is None
    assert logits.grad is not None


def test_the_teacher_and_a_step_without_one_learn_the_labels() -> None:
    labels = functional.cross_entropy(LOGITS, BATCH[1])
    assert torch.equal(Distill()(LOGITS, BATCH, None, True), labels)
    assert torch.equal(Distill()(LOGITS, BATCH, None, False), labels)
    smooth = functional.cross_entropy(LOGITS, BATCH[1], label_smoothing=0.1)
    assert torch.equal(Distill(label_smoothing=0.1)(LOGITS, BATCH, None, True), smooth)
    assert torch.equal(Distill(label_smoothing=0.1)(LOGITS, BATCH, None, False), labels)


def test_labels_are_mixed_in() -> None:
    soft = Distill()(LOGITS, BATCH, TEACHER, False)
    hard = functional.cross_entropy(LOGITS, BATCH[1])
    mixed = Distill(labels=0.25)(LOGITS, BATCH, TEACHER, False)
    assert torch.allclose(mixed, 0.25 * hard + 0.75 * soft)


def test_the_classes_may_lie_in_any_dimension() -> None:
    logits, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    flat = [t.permute(0, 2, 3, 1).reshape(-1, 3) for t in (logits, teacher)]
    batch = (torch.zeros(1), torch.zeros(1))
    ours = Distill()(logits, batch, teacher, False)
    assert torch.allclose(ours, Distill()(flat[0], batch, flat[1], False), atol=1e-6)
    last = Distill(dim=-1)(logits.movedim(1, -1), batch, teacher.movedim(1, -1), False)
    assert torch.allclose(ours, last, atol=1e-6)


def test_logits_are_found_where_a_network_keeps_them() -> None:
    for outputs in (LOGITS, {"logits": LOGITS, "loss": None}, SimpleNamespace(logits=LOGITS)):
        assert logits_of(outputs) is LOGITS
    with pytest.raises(InputError, match="dict with the keys out, aux"):
        logits_of({"out": LOGITS, "aux": LOGITS})

    def out(outputs: object) -> Tensor:
        return outputs["out"]  # type: ignore[index,no-any-return]

    assert torch.equal(
        Distill(logits=out)({"out": LOGITS}, BATCH, {"out": TEACHER}, False),
        Distill()(LOGITS, BATCH, TEACHER, False),
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"temperature": 0.0},
        {"labels": 1.5},
        {"label_smoothing": -0.1},
        {"label_smoothing": 0.1, "loss": functional.nll_loss},
    ],
)
def test_settings_that_make_no_sense(arguments: dict[str, float]) -> None:
    with pytest.raises(InputError):
        Distill(**arguments)  # type: ignore[arg-type]


def test_outputs_are_learned_from_the_teacher_under_the_same_loss() -> None:
    batch = (BATCH[0], torch.randn(5, 4))
    assert torch.equal(
        DistillOutputs()(LOGITS, batch, TEACHER, False), functional.mse_loss(LOGITS, TEACHER)
    )
    assert torch.equal(
        DistillOutputs()(LOGITS, batch, None, True), functional.mse_loss(LOGITS, batch[1])
    )
    absolute = DistillOutputs(loss=functional.l1_loss, labels=0.25)(LOGITS, batch, TEACHER, False)
    near, far = functional.l1_loss(LOGITS, batch[1]), functional.l1_loss(LOGITS, TEACHER)
    assert torch.allclose(absolute, 0.25 * near + 0.75 * far)
    flat = DistillOutputs(loss=lambda o, t: functional.mse_loss(o.squeeze(-1), t))
    far = functional.mse_loss(LOGITS[:, 0], TEACHER[:, 0])
    one = (BATCH[0], torch.randn(5))
    assert torch.equal(flat(LOGITS[:, :1], one, TEACHER[:, :1], False), far)
    with pytest.raises(InputError, match="no temperature"):
        DistillOutputs(2.0)


def test_a_number_is_compared_with_its_own_target_only() -> None:
    outputs, targets = torch.randn(6, 1), torch.randn(6)
    wanted = (outputs[:, 0] - targets).square().mean()
    assert torch.allclose(squared_error(outputs, targets), wanted)
    with pytest.raises(InputError, match="should be of one shape"):
        squared_error(torch.randn(6, 2), targets)
