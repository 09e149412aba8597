"""Gates on blocks: their values, what open and closed ones do, and what they learn together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.elastic import Gates
from manynet.elastic.importance import block_scores, calibration, gate, gated
from manynet.errors import InputError

X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


class Times(nn.Module):
    """A residual block that multiplies its input."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.less_one = nn.Parameter(torch.tensor(factor - 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.less_one * x


class Turn(nn.Module):
    """A residual block that puts the channels in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.one * (x.roll(1, -1) - x)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor, float]:
        return x + scale * torch.tanh(self.inner(x)), scale


class Deep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(x)
        return x


def test_values_and_slope_of_a_gate() -> None:
    theta = torch.tensor(1.0, dtype=torch.float64)
    assert float(gate(theta, 1.0)) == 0.5
    assert float(gate(theta, 0.01)) == pytest.approx(0.990099, abs=1e-6)
    for value, softness in ((1.0, 0.1), (0.3, 0.01), (-0.7, 0.5)):
        theta = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(gate(theta, softness), theta)
        assert float(slope) == pytest.approx(2 * value * softness / (value**2 + softness) ** 2)
    theta = torch.tensor(0.0, requires_grad=True)
    assert float(torch.autograd.grad(gate(theta, 0.1), theta)[0]) == 0.0


def test_open_gates_change_nothing_and_a_closed_one_takes_its_block_out() -> None:
    model = Deep()
    whole = model(X)
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    with gated(model, {f"blocks.{n}": one for n in range(3)}):
        assert torch.equal(model(X), whole)
    with gated(model, {"blocks.0": one, "blocks.1": zero, "blocks.2": one}):
        found = model(X)
    assert torch.equal(model(X), whole), "the hooks are gone"
    del model.blocks[1]
    assert torch.equal(found, model(X))


@pytest.mark.parametrize(
    ("gates", "loss"), [((1, 1), 0.0), ((0, 0), 0.0), ((0, 1), 0.25), ((1, 0), 1.0)]
)
def test_two_blocks_that_undo_each_other(gates: tuple[int, int], loss: float) -> None:
    model = nn.Sequential(Times(2.0), Times(0.5))
    values = {str(place): torch.tensor(float(value)) for place, value in enumerate(gates)}
    with gated(model, values):
        found = functional.mse_loss(model(X), X) / X.square().mean()
    assert float(found.detach()) == pytest.approx(loss, abs=1e-6)


def test_gates_find_blocks_that_only_together_do_nothing() -> None:
    model = nn.Sequential(Times(2.0), Turn(), Times(0.5))
    data = calibration(model, [(X, X.roll(1, -1))], functional.mse_loss)
    names = ["0", "1", "2"]
    alone = block_scores(data, names, "influence")
    assert alone["0"] == pytest.approx(0, abs=1e-6)
    assert alone["2"] == pytest.approx(0, abs=1e-6)
    found = block_scores(data, names, Gates(keep=1 / 3, steps=80, penalty=1.0))
    assert max(found["0"], found["2"]) < 0.2
    assert found["1"] > 0.9
    both = nn.Sequential(Times(2.0), Times(0.5))
    data = calibration(both, [(X, X)], functional.mse_loss)
    assert max(block_scores(data, ["0", "1"], Gates(keep=0, steps=80)).values()) < 0.2


def test_training_gates_leaves_the_model_as_it_was() -> None:
    model = Deep().train()
    model.blocks[0].inner.bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = calibration(model, [(X, X), (X + 1, X)], functional.mse_loss)
    found = block_scores(data, [f"blocks.{n}" for n in range(3)], Gates(steps=5))
    assert all(0 < value < 1 for value in found.values())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    assert wanted == [True, False, True, True, True, True]
    assert model.training and not model.blocks[0]._forward_hooks


def test_a_family_orders_its_depth_by_gates() -> None:
    torch.manual_seed(0)
    model = Deep()
    with torch.no_grad():
        model.blocks[1].inner.weight.mul_(0.01)
        model.blocks[1].inner.bias.zero_()
    family = mn.elastic(
        model,
        X,
        width=None,
        importance=None,
        depth_importance=Gates(keep=2 / 3, steps=60),
        data=[(X, model(X).detach())],
        loss=functional.mse_loss,
    )
    (run,) = family.blueprint.depths
    assert run.blocks[-1] == "blocks.1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 1.5}, "keep=1.5"),
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"penalty": -1.0}, "penalty=-1.0"),
        ({"softness": (1e-4, 0.1)}, "softness"),
    ],
)
def test_what_no_gates_can_be_trained_with_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Gates(**options)  # type: ignore[arg-type]


def test_a_loss_that_is_not_finite_is_refused() -> None:
    model = nn.Sequential(Times(2.0), Times(0.5))
    data = calibration(model, [(X / 0, X)], functional.mse_loss)
    with pytest.raises(InputError, match="not finite in step 0"):
        Gates().of_blocks(data, ["0", "1"])


def test_a_block_without_a_stream_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4))
    with pytest.raises(InputError, match="Linear returns no tensor of the shape"):
        block_scores(calibration(model, [(X, X)], functional.mse_loss), ["0", "1"], Gates())
