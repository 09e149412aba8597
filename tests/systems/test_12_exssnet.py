"""ExSSNeT: its exact checks, on networks small enough to look at every entry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.bindings import Mask, TopK, exclusive, overlap, whole
from manynet.bindings.operation import evaluate
from manynet.bindings.recipes import masked
from manynet.errors import InputError
from manynet.family.file import load_family
from manynet.systems.exssnet import SYSTEM, learn_task, task_masks, transfer_scores

ARCHS = [{"task": task} for task in range(3)]


def batch_of(task: int, samples: int = 96) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 + task)
    x = torch.randn(samples, 1, 6, 6, generator=generator)
    direction = torch.randn(3, 36, generator=generator)
    return x, (x.flatten(1) @ direction.T).argmax(1)


class Small(nn.Module):
    """Convolutions, norms with statistics, and a classifier with a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False)
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).flatten(1))  # type: ignore[no-any-return]


@pytest.fixture
def family() -> mn.Family:
    torch.manual_seed(0)
    return task_masks(Small(), 3, density=0.3)


def learn(family: mn.Family, task: int, **changes: object) -> object:
    data = batch_of(task)
    settings = {"mask_epochs": 2, "weight_epochs": 2, "batch_size": 32} | changes
    return learn_task(family, task, data, val=data, **settings)  # type: ignore[arg-type]


def weights(family: mn.Family) -> dict[str, Tensor]:
    names = ("body.0.weight", "body.3.weight", "head.weight")
    return {name: family.state_dict()[name].detach().clone() for name in names}


def test_exclusive_sets_and_overlap_of_three_masks() -> None:
    sets = ({0, 1, 2}, {2, 3}, {0, 3, 4})
    masks = [torch.tensor([n in one for n in range(5)]) for one in sets]
    found = [set(mask.nonzero().flatten().tolist()) for mask in exclusive(masks)]
    assert found == [{0, 1, 2}, {3}, {4}]
    assert overlap(masks) == pytest.approx(2 / 3)
    assert overlap(masks[:1]) == 0.0


def topk(scores: Tensor, density: float) -> Tensor:
    return TopK(whole("s", scores), density).value(mn.Arch({}), scores)


def test_the_largest_sizes_are_kept_by_layer_and_the_count_is_rounded() -> None:
    scores = torch.tensor([-5.0, 4, 3, 2, 1, 0.5, -0.4, 0.3, 0.2, 0.1])
    assert topk(scores, 0.3).tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    assert int(topk(scores, 0.9).sum()) == 9  # (1 - 0.9) * 10 is 0.99… in floats
    assert int(topk(scores, 1.0).sum()) == 10
    for count in (7, 10, 96, 1000):
        for percent in range(1, 100):
            kept = int(topk(torch.rand(count), percent / 100).sum())
            assert kept == count - (100 - percent) * count // 100, (count, percent)
    family = mn.bind(
        nn.Sequential(nn.Linear(10, 2), nn.Linear(2, 5)),
        nn.Linear,
        masked(0.3, tasks=1),
    )
    with torch.no_grad():
        family.state_dict()["1.weight.scores0"].mul_(1000)
    masks = mn.masks_of(family, {})
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "0.weight": 6,
        "1.weight": 3,
    }


def test_scores_get_the_gradient_of_the_weight_times_weight_times_sign() -> None:
    torch.manual_seed(0)
    weight, scores = torch.randn(4, 5), torch.randn(4, 5, requires_grad=True)
    mask = Mask(whole("w", weight), TopK(whole("s", scores), 0.4))
    value = evaluate(mask.at(mn.Arch({}), {}), {"w": weight, "s": scores})
    x, target = torch.randn(7, 5), torch.randn(7, 4)
    effective = value.detach().requires_grad_()
    functional.mse_loss(functional.linear(x, effective), target).backward()
    functional.mse_loss(functional.linear(x, value), target).backward()
    assert scores.grad is not None and effective.grad is not None
    expected = effective.grad * weight * scores.detach().sign()
    assert torch.allclose(scores.grad, expected, atol=1e-6)
    assert (value == 0).sum() == 12 and bool((scores.grad[value == 0] != 0).all())


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda groups: torch.optim.Adam(groups, lr=0.01),
        lambda groups: torch.optim.AdamW(groups, lr=0.01),
        lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    ],
    ids=("adam", "adamw", "momentum"),
)
def test_a_weight_stage_moves_the_exclusive_set_alone(family: mn.Family, optimizer: object) -> None:
    learn(family, 0)
    learn(family, 1, weight_epochs=0)
    masks = [mn.masks_of(family, arch) for arch in ARCHS[:2]]
    before, scores = weights(family), scores_of(family)
    learn(family, 1, mask_epochs=0, optimizer=optimizer, weight_decay=0.1)
    for name, now in weights(family).items():
        own = exclusive([masks[0][name], masks[1][name]])[1]
        assert torch.equal(now[~own], before[name][~own]), name
        assert not torch.equal(now[own], before[name][own]), name
    for name, score in scores_of(family).items():
        assert torch.equal(score, scores[name]), name


def scores_of(family: mn.Family) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in family.named_parameters() if ".scores" in n}


def test_nothing_is_forgotten(family: mn.Family) -> None:
    x, stored = batch_of(9)[0], []
    for task in range(3):
        learn(family, task, transfer="best")
        stored.append(family.eval().at({"task": task})(x).detach())
    for task, logits in enumerate(stored):
        assert torch.equal(family.at({"task": task})(x), logits), task


def test_overwriting_does_forget(family: mn.Family) -> None:
    x = batch_of(9)[0]
    learn(family, 0)
    before = family.eval().at({"task": 0})(x).detach()
    learn(family, 1, exclusive=False)
    assert not torch.equal(family.eval().at({"task": 0})(x), before)


def test_random_masks_overlap_as_they_must() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = [topk(torch.rand(1_000_000, generator=generator), 0.1).bool() for _ in range(10)]
    assert overlap(masks) == pytest.approx(0.6126, abs=0.006)


def test_scores_are_copied_and_their_sources_stay(family: mn.Family) -> None:
    for task in range(2):
        learn(family, task)
    before = {name: s for name, s in scores_of(family).items() if not name.endswith("scores2")}
    x, y = batch_of(0)
    renamed = (x, (y + 1) % 3)
    assert transfer_scores(family, 2, renamed, mode="best", share=1.0) == (0,)
    zero, two = mn.masks_of(family, ARCHS[0]), mn.masks_of(family, ARCHS[2])
    assert all(torch.equal(two[name], mask) for name, mask in zero.items())
    both = transfer_scores(family, 2, renamed, mode="all", share=1.0)
    assert both == (0, 1)
    now = scores_of(family)
    for name, scores in before.items():
        assert torch.equal(now[name], scores), name
    name = "head.weight.scores"
    assert torch.equal(now[f"{name}2"], (now[f"{name}0"] + now[f"{name}1"]) / 2)


def test_where_no_features_help_the_scores_stay_random(family: mn.Family) -> None:
    learn(family, 0)
    before = scores_of(family)["head.weight.scores1"]
    x = torch.zeros(60, 1, 6, 6)  # all alike: every neighbor votes for one class
    y = torch.arange(60) % 20
    assert transfer_scores(family, 1, (x, y), share=1.0) == ()
    assert torch.equal(scores_of(family)["head.weight.scores1"], before)
    assert transfer_scores(family, 1, (x, y), mode="always", share=1.0) == (0,)


def test_with_nothing_left_to_train_it_is_supsup(family: mn.Family) -> None:
    learn(family, 0)
    same = scores_of(family)
    with torch.no_grad():  # the second mask is the first
        for name, scores in family.named_parameters():
            if name.endswith("scores1"):
                scores.copy_(same[name.replace("scores1", "scores0")])
    other = copy.deepcopy(family.state_dict())
    told = learn(family, 1, mask_epochs=0)
    assert told.overlap == 1.0  # type: ignore[attr-defined]
    for name, tensor in weights(family).items():
        assert torch.equal(tensor, other[name]), name


def test_an_extracted_member_is_plain_and_so_is_one_of_packed_masks(
    family: mn.Family, tmp_path: object
) -> None:
    x = batch_of(9)[0]
    for task in range(2):
        learn(family, task)
    family.eval()
    outputs = [family.at(arch)(x).detach() for arch in ARCHS]
    held = family.state_dict()["head.weight.free"].clone()
    packed = mn.pack_masks(family)
    for arch, expected in zip(ARCHS, outputs, strict=True):
        member = packed.extract(arch)
        assert member.state_dict().keys() == Small().state_dict().keys()
        assert torch.allclose(member(x), expected, atol=1e-6)
        assert torch.equal(packed.at(arch)(x), expected)
    assert not any("scores" in name and "bits" not in name for name in packed.state_dict())
    assert torch.equal(packed.state_dict()["head.weight.free"], held)
    packed.save(tmp_path)  # type: ignore[arg-type]
    again = load_family(tmp_path, Small())  # type: ignore[arg-type]
    assert torch.equal(again.eval().at(ARCHS[1])(x), outputs[1])
    with pytest.raises(InputError, match="packed already"):
        transfer_scores(packed, 2, batch_of(2), mode="always")


def test_statistics_of_norms_are_one_set_a_task(family: mn.Family) -> None:
    learn(family, 0)
    zero = family.extract(ARCHS[0]).body[1]  # type: ignore[index]
    learn(family, 1)
    after, one = (family.extract(arch).body[1] for arch in ARCHS[:2])  # type: ignore[index]
    assert torch.equal(after.running_mean, zero.running_mean)
    assert torch.equal(after.num_batches_tracked, zero.num_batches_tracked)
    assert not torch.equal(one.running_mean, zero.running_mean)


def test_a_model_without_weights_to_mask_is_refused() -> None:
    with pytest.raises(InputError, match="no linear or convolutional weight"):
        task_masks(nn.ReLU(), 2)


def test_the_example_runs() -> None:
    scope: dict[str, object] = {}
    exec(SYSTEM.example, scope)
    turner = scope["turner"]
    assert isinstance(turner, nn.Module)
    weights = [p.detach() for p in turner.parameters() if p.dim() > 1]
    assert all(float((weight == 0).float().mean()) >= 0.79 for weight in weights)
