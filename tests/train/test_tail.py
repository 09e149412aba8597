"""Distillation at the tail: its parts against the plain formulas."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.errors import InputError
from manynet.train import DistillTail, DistillTokens, showing_hidden_states


def outputs(seed: int, width: int = 6) -> Any:
    draw = torch.Generator().manual_seed(seed)
    states = tuple(torch.randn(2, 5, width, generator=draw) for _ in range(3))
    return SimpleNamespace(logits=torch.randn(2, 5, 7, generator=draw), hidden_states=states)


def batch(hidden: int = 0) -> tuple[Tensor, Tensor]:
    targets = torch.randint(0, 7, (2, 5), generator=torch.Generator().manual_seed(9))
    targets[:, :hidden] = -100
    return torch.zeros(2, 5), targets


@pytest.mark.parametrize("hidden", [0, 2])
def test_it_is_labels_logits_and_last_hidden_states_together(hidden: int) -> None:
    own, teacher, (inputs, targets) = outputs(0), outputs(1), batch(hidden)
    found = DistillTail(temperature=2.0, labels=0.5, tail=3.0)(
        own, (inputs, targets), teacher, False
    )
    kept = targets != -100
    labels = functional.cross_entropy(own.logits[kept], targets[kept])
    soft = functional.kl_div(
        (own.logits[kept] / 2).log_softmax(-1),
        (teacher.logits[kept] / 2).softmax(-1),
        reduction="batchmean",
    )
    mine, theirs = own.hidden_states[-1][kept], teacher.hidden_states[-1][kept]
    states = functional.mse_loss(mine, theirs) / theirs.square().mean()
    torch.testing.assert_close(found, labels / 2 + 4 * soft / 2 + 3 * states)


def test_who_equals_the_teacher_has_nothing_to_learn() -> None:
    same = outputs(0)
    assert float(DistillTail()(same, batch(), same, False)) == 0.0


def test_the_gradient_goes_to_the_student_alone() -> None:
    own, teacher = outputs(0), outputs(1)
    for one in (own, teacher):
        one.hidden_states[-1].requires_grad_(True)
    DistillTail()(own, batch(), teacher, False).backward()
    assert own.hidden_states[-1].grad.abs().sum() > 0
    assert teacher.hidden_states[-1].grad is None


def test_without_tail_or_teacher_or_tokens_it_is_the_distillation_of_tokens() -> None:
    own, teacher = outputs(0), outputs(1)
    plain = DistillTokens(labels=0.25)
    assert torch.equal(
        DistillTail(labels=0.25, tail=0.0)(own, batch(), teacher, False),
        plain(own, batch(), teacher, False),
    )
    assert torch.equal(DistillTail()(own, batch(), None, True), plain(own, batch(), None, True))
    assert float(DistillTail()(own, batch(5), teacher, False)) == 0.0


def test_states_that_are_missing_or_of_another_width_are_refused() -> None:
    own, teacher = outputs(0), outputs(1)
    own.hidden_states = None
    with pytest.raises(InputError, match="output_hidden_states = True"):
        DistillTail()(own, batch(), teacher, False)
    with pytest.raises(InputError, match=r"\(2, 5, 4\).*\(2, 5, 6\); a network of another width"):
        DistillTail()(outputs(0, width=4), batch(), teacher, False)


def test_hidden_states_are_shown_for_a_while() -> None:
    model, plain = nn.Linear(2, 2), nn.Linear(2, 2)
    config = SimpleNamespace(output_hidden_states=False)
    model.config = config  # type: ignore[assignment]
    with pytest.raises(RuntimeError), showing_hidden_states(model, plain):
        assert config.output_hidden_states
        raise RuntimeError
    assert not config.output_hidden_states
