"""Orders that look at data: Taylor scores, activations, and the influence of blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet._inputs import batches
from manynet.data import load_data
from manynet.elastic.importance import influence
from manynet.elastic.importance._activation import activation_scores
from manynet.elastic.importance._calibration import calibration
from manynet.errors import InputError
from networks import make

HALF = {"width": (0.5, 1.0), "multiple_of": 1, "depth": False}


def l2_reversed(weight: Tensor, dim: int) -> Tensor:
    others = [d for d in range(weight.dim()) if d != dim]
    sums = weight.pow(2).sum(others)
    return sums.max() - sums


def shuffled(seed: int) -> Callable[[Tensor, int], Tensor]:
    def draw(weight: Tensor, dim: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 * seed + weight.shape[dim])
        return torch.rand(weight.shape[dim], generator=generator)

    return draw


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """Return a trained network, calibration batches, and held-out digits.

    A penalty on the weights leaves it neurons that matter and others; without one, every half of
    such a network is about as good as another.
    """
    data = load_data("digits")
    train = [(x.flatten(1), y) for x, y in batches_of(data.train)]
    held = [(x.flatten(1), y) for x, y in batches_of(data.val)]
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(15):
        for x, y in train:
            optimizer.zero_grad()
            penalty = 3e-3 * sum(p.abs().sum() for p in model.parameters())
            (functional.cross_entropy(model(x), y) + penalty).backward()
            optimizer.step()
    x, y = (torch.cat(parts) for parts in zip(*held, strict=True))
    return model.eval(), train[:8], (x, y)


def batches_of(data: object) -> list[tuple[Tensor, Tensor]]:
    return [(inputs[0] if isinstance(inputs, tuple) else inputs, y) for inputs, y in batches(data)]


def accuracy(model: nn.Module, held: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float((model(held[0]).argmax(1) == held[1]).float().mean())


def halved_accuracy(digits, **options: object) -> float:
    model, _, held = digits
    family = mn.elastic(model, held[0][:1], **HALF, **options)
    assert torch.allclose(family.at(family.space.largest)(held[0]), model(held[0]), atol=1e-4)
    return accuracy(family.extract(family.space.smallest), held)


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_data_finds_a_better_half_than_chance(digits, importance) -> None:
    assert accuracy(digits[0], digits[2]) > 0.9
    best = halved_accuracy(digits, importance=importance, data=digits[1])
    drawn = [halved_accuracy(digits, importance=shuffled(seed)) for seed in range(5)]
    assert best > sum(drawn) / len(drawn) + 0.2
    assert best > halved_accuracy(digits, importance=l2_reversed) + 0.4


def test_the_loss_decides_what_taylor_keeps(digits) -> None:
    """Digits below 5 alone: what only the others need goes first."""
    model, calibration, (x, y) = digits

    def below_five(outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs[targets < 5], targets[targets < 5])

    some = (x[y < 5], y[y < 5])
    found = []
    for loss in (None, below_five):
        family = mn.elastic(model, x[:1], importance="taylor", data=calibration, loss=loss, **HALF)
        found.append(accuracy(family.extract(family.space.smallest), some))
    assert found[1] > found[0]


@pytest.mark.parametrize("name", ["mlp", "residual", "dense", "attention", "tied"])
@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_outputs_and_the_model_stay_as_they_were(name, importance) -> None:
    model, x = make(name)
    model.train()
    next(model.parameters()).requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    family = mn.elastic(
        model, x, importance=importance, data=[x], loss=lambda outputs, _: outputs.square().mean()
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    wanted, found = model.eval()(x), family.eval().at(family.space.largest)(x)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_taylor_sums_what_the_gradient_says_over_a_position() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))
    x, y = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    family = mn.elastic(model, x, importance="taylor", data=(x, y), **HALF)
    functional.cross_entropy(model(x), y).backward()
    products = [(layer.weight * layer.weight.grad).abs() for layer in model]
    shares = [products[0].sum(1), products[1].sum(0)]
    order = sum(s / s.sum() for s in shares).argsort(descending=True)
    assert torch.equal(family.shared[0].weight, model[0].weight[order])


def test_activations_are_those_that_enter_the_next_layer() -> None:
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[9.0, 9.0], [-50.0, -50.0], [10.0, 10.0]]))
    family = mn.elastic(model, torch.ones(1, 2), importance="activation", data=torch.ones(4, 2))
    assert family.shared[0].weight[:, 0].tolist() == [10.0, 9.0, -50.0]  # relu leaves nothing of it


class Heads(nn.Module):
    """Four query heads in two groups, each with a key and a value of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(8, 16), nn.Linear(8, 8)
        self.v, self.o = nn.Linear(8, 8), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, -1, 4).transpose(1, 2)
        k, v = (part(x).view(b, t, -1, 4).transpose(1, 2) for part in (self.k, self.v))
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("importance", ["taylor", "activation"])
def test_heads_that_share_keys_move_together(importance) -> None:
    torch.manual_seed(0)
    model = Heads().eval()
    with torch.no_grad():
        model.v.weight[:4] *= 0.01  # the first group has little to say
        model.v.bias[:4] *= 0.01
    x = torch.randn(2, 5, 8)
    family = mn.elastic(
        model, x, importance=importance, data=[x], loss=lambda y, _: y.square().mean()
    )
    assert torch.equal(family.shared.k.weight[:4].sort(0)[0], model.k.weight[4:].sort(0)[0])
    assert torch.equal(family.shared.q.weight[:8].sort(0)[0], model.q.weight[8:].sort(0)[0])
    assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-6)


def test_attention_of_torch_hides_nothing() -> None:
    """In evaluation mode it has a path of its own, without products that could be watched."""
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    entering, leaving = activation_scores(calibration(layer, [torch.randn(2, 5, 8)], None))
    places = {("self_attn.in_proj_weight", 1), ("self_attn.out_proj.weight", 1)}
    places |= {("linear1.weight", 1), ("linear2.weight", 1)}
    assert entering.keys() == places
    assert leaving.keys() == {(name, 0) for name, _ in places}


def test_a_function_sees_the_gradient_of_each_batch() -> None:
    model, x = make("mlp")
    seen = []

    def score(weight: Tensor, dim: int) -> Tensor:
        seen.append(weight.grad is not None)
        return weight.abs().sum(1 - dim)

    y = torch.zeros(len(x), dtype=torch.long)
    mn.elastic(model, x, importance=score, data=[(x, y), (x, y)])
    with_data = len(seen)
    assert all(seen)
    mn.elastic(model, x, importance=score)
    assert with_data == 2 * (len(seen) - with_data)
    assert not any(seen[with_data:])


# -- depth -------------------------------------------------------------------------------------


class Step(nn.Module):
    """A residual block that may take and return more than one thing."""

    def __init__(self, scale: float, tuples: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6, bias=False)
        nn.init.orthogonal_(self.inner.weight, scale)
        self.tuples = tuples

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> object:
        out = hidden + self.inner(hidden)
        return (out, mask) if self.tuples else out


class Steps(nn.Module):
    def __init__(self, scales: tuple[float, ...]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Step(scale, tuples=False) for scale in scales))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x))


SCALES = (1.0, 0.0, 3.0, 0.5)


def steps() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Steps(SCALES).eval(), torch.randn(16, 6)


def test_the_block_that_does_nothing_goes_first_and_the_rest_keep_their_places(tmp_path) -> None:
    model, x = steps()
    family = mn.elastic(model, x, width=None, depth_importance="influence", data=[x])
    arch = {"blocks.depth": 3}
    assert torch.equal(family.extract(arch)(x), model(x))  # the second one adds zero
    kept = [block.inner.weight for block in family.at(arch).blocks]
    assert all(
        a is b.inner.weight
        for a, b in zip(kept, [family.shared.blocks[i] for i in (0, 2, 3)], strict=True)
    )
    assert family.blueprint.depths[0].blocks == tuple(f"blocks.{i}" for i in (2, 0, 3, 1))
    family.save(tmp_path)
    again = mn.load(tmp_path, model=steps()[0])
    assert again.blueprint.depths == family.blueprint.depths
    assert torch.equal(
        again.extract({"blocks.depth": 2})(x), family.extract({"blocks.depth": 2})(x)
    )


def test_a_choice_inside_a_block_matters_only_while_the_block_is_kept() -> None:
    model, x = make("residual")
    model.blocks[0].conv3.weight.data.zero_()
    model.blocks[0].conv3.bias.data.zero_()
    family = mn.elastic(model, x, depth_importance="influence", data=[x])
    run = next(depth for depth in family.blueprint.depths if "blocks.0" in depth.blocks)
    assert run.blocks == ("blocks.1", "blocks.0")
    inside = {c.name: c.active_when for c in family.space.choices if c.name.startswith("blocks.")}
    assert inside["blocks.0.conv1.width"][run.choice] == (2,)
    assert inside["blocks.1.conv1.width"] is None


def test_an_influence_of_the_users_own() -> None:
    model, x = steps()

    def change(before: Tensor, after: Tensor) -> Tensor:
        return -(after - before).norm()

    family = mn.elastic(model, x, width=None, depth_importance=change, data=[x])
    assert family.blueprint.depths[0].blocks[0] == "blocks.1"


def test_influence_is_that_of_each_position() -> None:
    before = torch.tensor([[1.0, 0.0], [1000.0, 0.0]])
    after = torch.tensor([[0.0, 1.0], [1000.0, 0.0]])
    assert float(influence(before, after)) == pytest.approx(0.5)


def test_blocks_of_images_are_compared_over_channels() -> None:
    model, _ = make("residual")
    x, shapes = torch.randn(2, 3, 12, 12), []

    def score(before: Tensor, after: Tensor) -> Tensor:
        shapes.append(tuple(before.shape))
        return torch.tensor(0.0)

    mn.elastic(model, x, depth_importance=score, data=[x])
    assert shapes == [(2, 12, 12, 8)] * 2


@pytest.mark.parametrize("tuples", [False, True])
def test_blocks_may_take_names_and_return_several(tuples) -> None:
    from manynet.elastic.importance import calibration_for, order_blocks
    from manynet.family import Depth

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Step(scale, tuples) for scale in SCALES)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                out = block(hidden=x, mask=torch.ones(16))
                x = out[0] if tuples else out
            return x

    torch.manual_seed(0)
    found = calibration_for(Net(), "l2", "influence", {"x": torch.randn(16, 6)}, None)
    run = Depth("depth", tuple(f"blocks.{i}" for i in range(4)))
    assert order_blocks([run], found, "influence")[0].blocks == tuple(
        f"blocks.{i}" for i in (2, 0, 3, 1)
    )


# -- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"importance": "tailor"}, r"importance='tailor' is not known.*did you mean 'taylor'"),
        ({"depth_importance": "l2"}, r"depth_importance='l2' is not known.*influence"),
        ({"importance": "taylor"}, r"importance='taylor' looks at data, and none is given"),
        ({"importance": "activation"}, r"'activation' looks at data.*pass data=batches"),
        ({"depth_importance": "influence"}, r"depth_importance='influence' looks at data"),
        ({"data": [torch.zeros(2, 6)]}, r"importance='l2' looks at the weights alone"),
        ({"loss": functional.cross_entropy}, r"loss is given without data"),
        ({"importance": "activation", "data": []}, r"holds no batch"),
        ({"importance": "activation", "data": ["word"]}, r"a batch.*found str"),
        ({"importance": "activation", "data": [torch.zeros(2, 7)]}, r"Sequential fails on batch 0"),
        ({"importance": "taylor", "data": [torch.zeros(2, 6)]}, r"need a loss.*\(none\)"),
        (
            {"importance": "taylor", "data": [torch.zeros(2, 6)], "loss": lambda o, y: o},
            r"tensor of one number.*\(2, 5\)",
        ),
        (
            {"importance": "taylor", "data": [torch.zeros(2, 6)], "loss": lambda o, y: 1.0},
            r"tensor of one number.*float",
        ),
    ],
)
def test_what_does_not_fit_is_named(options, words) -> None:
    model, x = make("mlp")
    with pytest.raises(InputError, match=words):
        mn.elastic(model, x, **options)


def test_an_influence_must_be_a_number() -> None:
    model, x = steps()
    with pytest.raises(InputError, match=r"the block blocks\.0 must be one finite number"):
        mn.elastic(model, x, depth_importance=lambda a, b: torch.tensor(np.nan), data=[x])
    assert not any(block._forward_hooks for block in model.blocks)


def test_only_the_first_batches_are_used() -> None:
    model, x = make("mlp")
    taken = []

    def endless():
        while True:
            taken.append(None)
            yield x

    mn.elastic(model, x, importance="activation", data=endless())
    assert len(taken) == 32
