"""A search by gradients: what it moves, on which data, and what it finds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import manynet as mn
from manynet.errors import InputError, TrainingError
from manynet.space import Arch
from manynet.train import Descent, Softmax, Task, _descend, descend, relax
from manynet.train._architect import Architect, Settings
from manynet.train._hardware import Hardware
from manynet.train.schedules import constant

X = torch.randn(256, 6, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)


def make(dtype: torch.dtype = torch.float32) -> mn.Family:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3)).to(dtype)
    return mn.elastic(network, X[:2].to(dtype), width=(0.25, 1.0))


def go(family: mn.Family, **options: object) -> Descent:
    settings = {"steps": 60, "batch_size": 64, "arch_rate": 0.1, **options}
    return descend(family, (X, Y), **settings)  # type: ignore[arg-type]


def test_it_finds_the_width_that_the_task_needs_and_trains_the_weights() -> None:
    family = make()
    found = go(family, steps=150)
    assert found.arch == family.space.largest
    low, high = found.logits["0.width"]
    assert high > low + 1
    member = family.eval().at(found.arch)
    assert float((member(X).argmax(1) == Y).float().mean()) > 0.8
    assert found.path[-1] == (150, found.arch) and found.steps == 150


def test_where_small_members_are_better_it_finds_them() -> None:
    """Noise on all neurons but the first three: the small member is spared it."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(3, 12), nn.Linear(12, 3)
            with torch.no_grad():
                self.inner.weight[:3].copy_(3 * torch.eye(3))
                self.head.weight.normal_(0.0, 3.0)
                self.head.weight[:, :3].copy_(3 * torch.eye(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.inner(x)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    family = mn.elastic(Noisy(), X[:2, :3], width=(0.25, 1.0), importance=None)
    found = descend(
        family, (X[:, :3], Y), steps=40, batch_size=64, arch_rate=0.1, learning_rate=0.0
    )
    assert found.arch == family.space.smallest


def test_a_search_of_one_seed_repeats() -> None:
    one, other = make(), make()
    state = torch.get_rng_state()
    assert go(one, seed=3) == go(other, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, mine), (_, theirs) in zip(
        one.named_parameters(), other.named_parameters(), strict=True
    ):
        assert torch.equal(mine, theirs), name
    assert go(make(), seed=4).logits != go(make(), seed=3).logits


def test_the_weights_never_see_what_the_logits_learn_from() -> None:
    seen: list[Tensor] = []

    def note(inputs: Tensor) -> Tensor:
        seen.append(inputs[:, 0].clone())
        return inputs

    numbered = torch.arange(100.0)[:, None].repeat(1, 6)
    descend(make(), (numbered, Y[:100]), share=0.8, epochs=4, batch_size=20, augment=note)
    weights, logits = (set(torch.cat(seen[start::2]).tolist()) for start in (0, 1))
    assert len(weights) == 80 and len(logits) == 20 and not weights & logits


def test_own_validation_data_are_taken_whole() -> None:
    seen: list[int] = []
    family = make()
    found = descend(
        family,
        TensorDataset(X[:128], Y[:128]),
        validation=DataLoader(TensorDataset(X[128:], Y[128:]), batch_size=64),
        epochs=3,
        batch_size=64,
        watch=lambda step, arch: seen.append(step),
    )
    assert found.steps == 6 and seen == [2, 4, 6]
    assert [step for step, _ in found.path] == seen


def architect(family: mn.Family, order: int, rate: float = 0.5) -> Architect:
    relaxed = relax(family)
    settings = Settings(
        constant(),
        Softmax(),
        Task(),
        Hardware(torch.device("cpu")),
        arch_rate=0.1,
        arch_decay=0.0,
        order=order,
        clip=None,
        seed=0,
    )
    optimizer = torch.optim.SGD(relaxed.family.parameters(), lr=rate)
    return Architect(relaxed, optimizer, settings)


@pytest.mark.parametrize("order", [1, 2])
def test_the_gradient_of_the_logits_is_that_of_the_loss_ahead(order: int) -> None:
    family, rate = make(torch.float64), 0.5
    x, batch = X.double(), slice(0, 64)
    unseen = slice(64, 128)
    mover = architect(family, order, rate)
    (logits,) = mover.logits.values()
    values = {n: p.detach().clone() for n, p in family.named_parameters()}
    own = logits.detach().clone().requires_grad_()

    def loss(weights: dict[str, Tensor], part: slice) -> Tensor:
        share = own.softmax(0)
        mask = torch.cat([share.sum().expand(3), share[1].expand(9)])
        summed = {
            "0.weight": weights["0.weight"] * mask[:, None],
            "0.bias": weights["0.bias"] * mask,
            "2.weight": weights["2.weight"] * mask,
            "2.bias": weights["2.bias"],
        }
        outputs = functional_call(family.shared, summed, (x[part],))
        return functional.cross_entropy(outputs, Y[part])

    ahead = {n: p.requires_grad_() for n, p in values.items()}
    if order == 2:
        grads = torch.autograd.grad(loss(ahead, batch), list(ahead.values()), create_graph=True)
        ahead = {n: p - rate * g for (n, p), g in zip(ahead.items(), grads, strict=True)}
    (wanted,) = torch.autograd.grad(loss(ahead, unseen), own)
    mover.move_logits((x[batch], Y[batch]), (x[unseen], Y[unseen]), 0.0)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, wanted, rtol=1e-3, atol=1e-7)
    for name, parameter in family.named_parameters():
        assert torch.equal(parameter, values[name]), name


def test_second_order_searches_too() -> None:
    assert go(make(), order=2, estimator=Softmax()).arch == Arch({"0.width": 12})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": None}, "give either epochs or steps"),
        ({"steps": 0}, "there is nothing to do"),
        ({"share": 1.0}, "share=1.0: it is a share of the data"),
        ({"share": 0.001}, "leaves one of the parts empty"),
        ({"order": 3}, "order=3 is unknown; use 1 or 2"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        go(make(), **options)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    several = Hardware(torch.device("cpu"), processes=2)
    monkeypatch.setattr(_descend, "find_hardware", lambda *given: several)
    with pytest.raises(InputError, match="in one process without fp16, not in 2"):
        go(make())


def test_a_loader_is_not_split() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=32)
    with pytest.raises(InputError, match="a loader cannot be split; give validation="):
        descend(make(), loader, steps=2)


def test_a_loss_that_is_not_finite_ends_the_search() -> None:
    with pytest.raises(TrainingError, match="loss is nan at step 0 of the search"):
        descend(make(), (X * float("nan"), Y), steps=2)
