"""EQ-Net: its exact checks, on numbers small enough to compute by hand."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings.rounding import learned_round
from manynet.deploy import onnx_session, to_onnx
from manynet.systems.eqnet import SYSTEM, mean_bits, search_eqnet, train_eqnet, uniform_arch
from manynet.train import Distill, Staircase, UniformWeights, accumulate, moments

X = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
LABELS = X[:, :4].argmax(1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 24), nn.Linear(24, 24, bias=False)
        self.norm, self.head = nn.BatchNorm1d(24), nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.head(torch.relu(self.norm(self.second(hidden))) + hidden)  # type: ignore[no-any-return]


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    forms = {"bits": (2, 3, 4, 6, 8), "input_bits": (2, 3, 4, 6, 8), "edges": None}
    return mn.elastic_bits(Net(), X, **forms)  # type: ignore[arg-type]


def test_multiples_of_the_step_are_exact_and_bits_agree_where_nothing_is_clamped() -> None:
    step = torch.tensor(0.03)
    x = torch.arange(-128, 128) * step
    assert torch.equal(learned_round(x, step, -128, 127), x)
    few = torch.linspace(-0.1, 0.08, 50)
    for bits in (4, 6):
        half = 2 ** (bits - 1)
        rounded = learned_round(few, step, -half, half - 1)
        assert torch.equal(rounded, learned_round(few, step, -128, 127))


def test_the_tiny_case_of_two_bits() -> None:
    w = torch.tensor([-1.0, -0.3, 0.2, 0.9])
    rounded = learned_round(w, torch.tensor(0.5), -2, 1, torch.zeros(()))
    assert rounded.tolist() == [-1.0, -0.5, 0.0, 0.5]


@pytest.mark.parametrize(("value", "expected"), [(0.33, "inside"), (9.0, 7), (-9.0, -8)])
def test_the_gradient_of_the_step(value: float, expected: str | int) -> None:
    step = torch.tensor(0.25, requires_grad=True)
    x = torch.tensor([value], requires_grad=True)
    learned_round(x, step, -8, 7).sum().backward()
    pace, v = (7 * 1) ** -0.5, value / 0.25
    slope = round(v) - v if expected == "inside" else expected
    assert step.grad is not None and x.grad is not None
    assert float(step.grad) == pytest.approx(slope * pace, abs=1e-5)  # type: ignore[operator]
    assert float(x.grad[0]) == float(expected == "inside")


def test_equal_rows_of_a_table_are_one_step_for_the_tensor(family: mn.Family) -> None:
    with torch.no_grad():
        for form in ("symmetric", "asymmetric"):
            for role in ("step", "offset") if form == "asymmetric" else ("step",):
                one = family.extra[f"second.weight.{role}.tensor.{form}"]
                family.extra[f"second.weight.{role}.channel.{form}"].copy_(
                    one.repeat_interleave(24)
                )
    for bits, symmetric in product((2, 3, 4, 6, 8), (True, False)):
        members = [
            family.at(uniform_arch(family.space, bits, per=per, symmetric=symmetric))
            for per in ("tensor", "channel")
        ]
        assert torch.equal(members[0].second.weight, members[1].second.weight)


def test_an_offset_of_zero_is_the_symmetric_form(family: mn.Family) -> None:
    extra = family.extra
    with torch.no_grad():
        for name, tensor in extra.items():
            if ".offset." in name:
                tensor.zero_()
            elif name.endswith(".asymmetric"):
                tensor.copy_(extra[name.removesuffix("asymmetric") + "symmetric"])
    family.eval()
    found = []
    for symmetric, word in ((True, "symmetric"), (False, "asymmetric")):
        family.zero_grad()
        y = family.at(uniform_arch(family.space, 3, symmetric=symmetric))(X)
        y.square().sum().backward()
        weight = family.shared.second.weight.grad
        steps = [extra[f"second.{n}.{word}"].grad for n in ("weight.step.channel", "input.step")]
        found.append([y.detach(), weight, *steps])
    for a, b in zip(*found, strict=True):
        assert a is not None and b is not None
        assert torch.equal(a, b)


def test_moments_and_the_penalty_of_known_distributions(family: mn.Family) -> None:
    generator = torch.Generator().manual_seed(0)
    kurtosis, skewness = moments(torch.rand(200_000, generator=generator))
    assert float(kurtosis) == pytest.approx(1.8, abs=0.02)
    assert float(skewness) == pytest.approx(0, abs=0.02)
    with torch.no_grad():
        for part in (family.shared.first, family.shared.second, family.shared.head):
            even = torch.linspace(-1, 1, part.weight.numel())
            part.weight.copy_(even.view(part.weight.shape))
        assert float(UniformWeights(1.0, 1.0)(family)) < 0.01
        assert float((moments(torch.randn(200_000, generator=generator))[0] - 1.8) ** 2) == (
            pytest.approx(1.44, abs=0.1)
        )


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_member_from_its_file_and_in_onnx(
    family: mn.Family, symmetric: bool, tmp_path: Path
) -> None:
    """The member from integers by hand is in `tests/elastic/test_precision.py`."""
    member = family.extract(uniform_arch(family.space, 8, symmetric=symmetric)).eval()
    mn.export(member, tmp_path / "m.safetensors", X)
    other = family.extract(family.space.arch({**dict(uniform_arch(family.space, 8))})).eval()
    if symmetric:
        other.load_state_dict(mn.load_weights(tmp_path / "m.safetensors"))
        assert torch.equal(other(X), member(X))
    session = onnx_session(to_onnx(member, (X,)))
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    expected = member(X).detach()
    span = float(expected.max() - expected.min())
    assert float((torch.from_numpy(y) - expected).abs().max()) < 1e-2 * span


def test_the_gradient_of_the_largest_does_not_depend_on_the_members(family: mn.Family) -> None:
    objective = Distill(labels=0.5, chained=True)
    family.eval()
    grads = []
    for count in (0, 1, 4):
        archs = Staircase(count, rank="*bits").archs(family.space, np.random.default_rng(0))
        seen: dict[str, Tensor] = {}

        def look(outputs: object, batch: object, teacher: object, first: bool) -> Tensor:
            loss = objective(outputs, (X, LABELS), teacher, first)
            if first:
                assert isinstance(outputs, Tensor)
                seen["largest"] = torch.autograd.grad(loss, outputs, retain_graph=True)[0]  # noqa: B023
            return loss

        family.zero_grad()
        accumulate(family, (X, LABELS), archs, look)
        grads.append(seen["largest"])
    assert all(torch.equal(grad, grads[0]) for grad in grads)


def test_the_recipe_trains_every_form_and_the_search_keeps_its_bits(family: mn.Family) -> None:
    train_eqnet(family, (X, LABELS), steps=150, batch_size=64, learning_rate=0.05)
    quality = mn.accuracy((X, LABELS))

    def judge(arch: mn.Arch) -> float:
        return quality(mn.calibrate(family.extract(arch).eval(), X))

    assert judge(uniform_arch(family.space, 8)) > 0.9
    assert judge(uniform_arch(family.space, 4)) > 0.8
    archs = search_eqnet(family, judge, bits=4.0, judged=20, evaluations=200)
    assert all(mean_bits(arch) <= 4.0 for arch in archs)
    assert judge(archs[0]) > 0.7


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    exec(SYSTEM.example, found)
    small = found["small"]
    assert isinstance(small, nn.Module)
    floats = sum(p.numel() * 4 for p in small.parameters())
    assert (tmp_path / "small.safetensors").stat().st_size < floats / 3
