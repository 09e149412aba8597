"""Accuracy, loss, and metrics of one's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from manynet.errors import InputError
from manynet.search import Metric, accuracy, loss, metric, metrics

INPUTS = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randint(0, 3, (50,), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.randn(3, 4, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def member() -> nn.Module:
    linear = nn.Linear(4, 3, bias=False)
    linear.weight.data.copy_(WEIGHTS)
    return linear


EXPECTED = float(((INPUTS @ WEIGHTS.T).argmax(1) == TARGETS).double().mean())
FORMS = {
    "tensors": (INPUTS, TARGETS),
    "data set": TensorDataset(INPUTS, TARGETS),
    "loader": DataLoader(TensorDataset(INPUTS, TARGETS), batch_size=7),
    "list of batches": list(zip(INPUTS.split(9), TARGETS.split(9), strict=True)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hold", [0, 2**31], ids=["streamed", "held"])
def test_every_form_of_data_gives_the_same_accuracy(
    member: nn.Module, monkeypatch: pytest.MonkeyPatch, form: str, hold: int
) -> None:
    monkeypatch.setattr(metrics, "HOLD_BYTES", hold)
    judge = accuracy(FORMS[form], batch_size=16)
    assert judge(member) == pytest.approx(EXPECTED, abs=1e-12)
    assert judge(member) == pytest.approx(EXPECTED, abs=1e-12)
    assert (judge.name, judge.higher_is_better) == ("accuracy", True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("limit", [1, 16, 20])
def test_limit_uses_the_first_samples(member: nn.Module, form: str, limit: int) -> None:
    hits = ((INPUTS @ WEIGHTS.T).argmax(1) == TARGETS)[:limit]
    judge = accuracy(FORMS[form], limit=limit)
    assert judge(member) == pytest.approx(float(hits.double().mean()), abs=1e-12)


def test_data_is_read_once(member: nn.Module) -> None:
    reads = []

    class Counted(Dataset[tuple[Tensor, Tensor]]):
        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            reads.append(index)
            return INPUTS[index], TARGETS[index]

    judge = accuracy(Counted())
    assert len(judge.fingerprint) == 16
    for _ in range(3):
        judge(member)
    assert len(reads) == 50


def test_dense_targets_count_every_position() -> None:
    logits = torch.zeros(2, 3, 4, 5)
    logits[:, 1] = 1
    targets = torch.ones(2, 4, 5, dtype=torch.long)
    targets[0, :2] = 0
    assert accuracy((logits, targets))(nn.Identity()) == pytest.approx(0.75)


def test_loss_is_the_mean_over_samples(member: nn.Module) -> None:
    expected = float(nn.functional.cross_entropy(INPUTS @ WEIGHTS.T, TARGETS))
    judge = loss((INPUTS, TARGETS), batch_size=7)
    assert judge(member) == pytest.approx(expected, rel=1e-6)
    assert (judge.name, judge.higher_is_better) == ("loss", False)


def test_the_member_is_judged_in_evaluation_mode_and_left_as_it_was() -> None:
    member = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(4), nn.Linear(4, 3))
    member.train()
    member[1].eval()
    before = {name: value.clone() for name, value in member.state_dict().items()}
    judge = accuracy((INPUTS, TARGETS))
    assert judge(member) == judge(member)
    assert [module.training for module in member.modules()] == [True, True, False, True]
    for name, value in member.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in member.parameters())


def test_the_fingerprint_follows_the_data_and_not_the_form() -> None:
    judged = [accuracy((INPUTS, TARGETS)), accuracy(FORMS["data set"], batch_size=256)]
    assert judged[0].fingerprint == judged[1].fingerprint
    changed = INPUTS.clone()
    changed[-1, -1] += 1
    for other in (
        accuracy((changed, TARGETS)),
        accuracy((INPUTS, (TARGETS + 1) % 3)),
        accuracy((INPUTS, TARGETS), limit=49),
        accuracy((INPUTS.double(), TARGETS)),
    ):
        assert other.fingerprint != judged[0].fingerprint


def test_outputs_with_logits_are_understood() -> None:
    class Outputs:
        logits = INPUTS @ WEIGHTS.T

    class Member(nn.Module):
        def forward(self, inputs: Tensor) -> Outputs:
            return Outputs()

    assert accuracy((INPUTS, TARGETS))(Member()) == pytest.approx(EXPECTED)


def test_a_metric_of_ones_own(member: nn.Module) -> None:
    @metric("norm", unit="", higher_is_better=False)
    def norm(module: nn.Module) -> Tensor:
        assert not module.training
        return module.weight.norm()  # type: ignore[union-attr, operator, return-value]

    assert isinstance(norm, Metric)
    assert norm(member.train()) == pytest.approx(float(WEIGHTS.norm()))
    assert (norm.name, norm.higher_is_better, norm.fingerprint) == ("norm", False, "")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "speed of this member is nan"),
        (torch.tensor(math.inf), "speed of this member is inf"),
        (torch.zeros(2), "speed of this member must be one number, and is a tensor of shape"),
        ("fast", "speed of this member must be one number, and is a str"),
        (None, "speed of this member must be one number, and is a NoneType"),
    ],
)
def test_a_metric_that_returns_no_number(member: nn.Module, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Metric("speed", lambda module: value)(member)  # type: ignore[arg-type, return-value]


def test_a_metric_that_is_a_name_only(member: nn.Module) -> None:
    with pytest.raises(InputError, match="score has no function"):
        Metric("score")(member)


class Returns(nn.Module):
    def __init__(self, outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs: Tensor) -> object:
        return self.outputs


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"out": torch.zeros(50, 3)}, "returns a dict, and this metric needs one tensor"),
        ((torch.zeros(50, 3),) * 2, "returns a tuple of 2"),
        (torch.zeros(50), r"logits \(50,\) and targets \(50,\)"),
        (torch.zeros(49, 3), r"logits \(49, 3\) and targets \(50,\)"),
        (torch.full((50, 3), math.nan), "values that are not finite"),
    ],
)
def test_networks_that_accuracy_cannot_judge(outputs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accuracy((INPUTS, TARGETS))(Returns(outputs))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((INPUTS[:0], TARGETS[:0]), "there is no sample"),
        ([], "there is no sample"),
        ((INPUTS, TARGETS[:7]), "50 inputs and 7 targets"),
        ([INPUTS], r"must be \(inputs, targets\), and its targets are a NoneType"),
        ((INPUTS, TARGETS.float()), "class numbers"),
        (3, "data should be"),
    ],
)
def test_data_that_cannot_be_judged_with(member: nn.Module, data: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accuracy(data)(member)  # type: ignore[arg-type]


def test_sizes_are_at_least_one() -> None:
    with pytest.raises(InputError, match="at least 1"):
        accuracy((INPUTS, TARGETS), batch_size=0)
    with pytest.raises(InputError, match="at least 1"):
        accuracy((INPUTS, TARGETS), limit=0)
