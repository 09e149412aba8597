"""Hypernetworks: the exact checks, and each form of the review on a network of its own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

import manynet as mn
from manynet.bindings import Generate
from manynet.bindings.hyper import crossing, hypernetwork
from manynet.bindings.hyperfan import Target, hyperfan_init, target_of
from manynet.bindings.hyperkernel import HyperKernel, hyper_kernels
from manynet.bindings.operation import evaluate, walk
from manynet.errors import InputError
from manynet.layers import HyperLinear, HyperMLP, PerSample
from manynet.space import Choice
from manynet.systems.hypernetworks import (
    SYSTEM,
    Redrawn,
    learn_in_turn,
    mean_probabilities,
    redraw,
)
from manynet.train import Fixed, OutputRegulariser, Task, Uniform

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
TASKS = Choice("task", (0, 1, 2))
FORMS: dict[str, dict[str, Any]] = {
    "whole": {},
    "chunks": {"chunk": 50, "spread": 0.1},
    "components": {"spread": 0.1},
}


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))


def family_of(output: Any = "whole", **options: Any) -> mn.Family:
    given = {"condition": TASKS, "hidden": (20,), **FORMS[output], **options}
    return mn.bind(network(), "*", hypernetwork(output, **given), together=True)


class Calls:
    """How often a generator has run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, run = 0, Generate.value

        def counted(binding: Generate, *args: Any) -> Tensor:
            self.count += 1
            return run(binding, *args)

        monkeypatch.setattr(Generate, "value", counted)

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def test_numbers_of_the_kernel_generator() -> None:
    model = nn.Conv2d(16, 16, 7, bias=False)
    recipe = hyper_kernels(code=4, inner=4)
    family = mn.bind(model, "weight", recipe, together=True)
    sizes = {name: p.numel() for name, p in family.named_parameters()}
    codes = sum(size for name, size in sizes.items() if ".code" in name)
    inner = sum(size for name, size in sizes.items() if "inner" in name)
    outer = sum(size for name, size in sizes.items() if "outer" in name)
    assert (codes, inner, outer) == (4, 320, 3_920)
    assert family.extract({}).weight.numel() == 12_544  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(("biased", "gain"), [(False, 2.0), (True, 2.0), (True, 1.0)])
def test_hyperfan_gives_weights_the_variance_that_they_should_have(
    biased: bool, gain: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    target, codes, width, draws = Target("weight", 64, 32, biased), 8, 50, 10_000
    wanted = gain / ((2 if biased else 1) * 64)
    found, plain = [], []
    for _ in range(draws):
        c = torch.randn(codes, generator=generator)
        inner = torch.randn(width, codes, generator=generator) * math.sqrt(2 / codes)
        hidden = (inner @ c).relu()
        head = hyperfan_init(
            target.variance(gain=gain), inputs=width, generator=generator, outputs=4
        )
        found.append(head @ hidden)
        kaiming = torch.randn(4, width, generator=generator) * math.sqrt(1 / width)
        plain.append(kaiming @ hidden)
    assert float(torch.cat(found).var()) == pytest.approx(wanted, rel=0.03)
    assert float(torch.cat(plain).var()) > 10 * wanted


def test_the_harmonic_mean_lies_between() -> None:
    target = Target("weight", 64, 10, True)
    found = [target.variance(fan) for fan in ("in", "harmonic", "out")]
    assert found == sorted(found)
    assert found[1] == pytest.approx(2 / (1 / found[0] + 1 / found[2]))
    bias = Target("bias", 64, 128, True)
    assert bias.variance("in") == 1.0
    assert bias.variance("out") == 1.0
    assert (
        Target("bias", 64, 10).variance("out") == Target("bias", 64, 10).variance("harmonic") == 0
    )


@pytest.mark.parametrize("surplus", [None, 0, 7])
def test_chunks_of_any_size_give_the_exact_shapes(surplus: int | None) -> None:
    count = sum(p.numel() for p in network().parameters())
    size = 1 if surplus is None else count + surplus
    family = family_of("chunks", chunk=size)
    member = family.at({"task": 1})
    for mine, theirs in zip(member.parameters(), network().parameters(), strict=True):
        assert mine.shape == theirs.shape
    member(X).square().sum().backward()
    head = family.state_dict()["0.weight.shared_head_weight"]
    assert head.grad is not None and len(head.grad) == size
    assert not head.grad[count:].any()
    assert head.grad[:count].any()


@pytest.mark.parametrize("output", FORMS)
def test_gradients_are_those_of_a_functional_call(output: str) -> None:
    family = family_of(output)
    member = family.at({"task": 1})
    (member(X).square().sum() + member(2 * X).sum()).backward()
    shared = {n: p.detach().clone().requires_grad_() for n, p in family.named_parameters()}
    arch = family.space.arch({"task": 1})
    made = {n: evaluate(b.at(arch, {}), shared) for n, b in family.blueprint.bindings.items()}

    def outputs(x: Tensor) -> Tensor:
        return functional_call(network(), made, (x,))  # type: ignore[no-any-return]

    (outputs(X).square().sum() + outputs(2 * X).sum()).backward()
    for name, parameter in family.named_parameters():
        if shared[name].grad is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, shared[name].grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("output", FORMS)
def test_the_generator_runs_once_a_step(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, family = Calls(monkeypatch), family_of(output)
    optimizer = torch.optim.Adam(family.parameters())
    family.guard(optimizer)
    arch, other = {"task": 1}, family.state_dict()["0.weight.shared_code.0"].clone()
    for _ in range(2):
        calls.take()
        family.zero_grad()
        (family.at(arch)(X).sum() + family.at(arch)(2 * X).square().sum()).backward()
        assert calls.take() == 1
        optimizer.step()
    family.eval()
    with torch.no_grad():
        for _ in range(100):
            family.at(arch)(X)
    assert calls.take() == 1
    assert torch.equal(family.state_dict()["0.weight.shared_code.0"], other)


def test_the_regulariser_is_nothing_when_it_is_armed_and_never_sees_the_current_code() -> None:
    family = family_of()
    regulariser = OutputRegulariser(family, beta=1.0)
    assert float(regulariser.penalty()) == 0
    regulariser.arm([{"task": 0}, {"task": 1}])
    penalty = regulariser.penalty()
    penalty.backward()
    assert float(penalty.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in family.parameters())
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(0.1)
    family.zero_grad()
    regulariser.penalty().backward()
    grads = {name: p.grad for name, p in family.named_parameters()}
    assert grads["0.weight.shared_code.2"] is None
    assert grads["0.weight.shared_code.0"].any()
    values = [
        sum(
            float((now.detach() - kept).square().sum())
            for now, kept in zip(
                family.extract(arch).parameters(), regulariser.kept[arch].values(), strict=True
            )
        )
        for arch in regulariser.kept
    ]
    assert float(regulariser.penalty().detach()) == pytest.approx(sum(values) / 2, rel=1e-5)
    drawn = OutputRegulariser(family, beta=1.0, drawn=1)
    drawn.kept = regulariser.kept
    assert any(float(drawn.penalty().detach()) == pytest.approx(v, rel=1e-5) for v in values)


@pytest.mark.parametrize("output", FORMS)
def test_folded_members_are_plain_and_the_file_holds_the_generator_alone(
    output: str, tmp_path: Path
) -> None:
    family = family_of(output)
    member = family.extract({"task": 2})
    torch.testing.assert_close(member(X), family.at({"task": 2})(X), rtol=0, atol=1e-6)
    assert {n for n, _ in member.named_parameters()} == {n for n, _ in network().named_parameters()}
    family.save(tmp_path)
    again = mn.load(tmp_path, network())
    torch.testing.assert_close(again.at({"task": 2})(X), member(X), rtol=0, atol=1e-6)
    assert all(".shared_" in name for name in again.state_dict())
    assert not torch.equal(family.at({"task": 0})(X), family.at({"task": 2})(X))


def test_weights_for_each_sample_equal_a_loop() -> None:
    target = network()
    generator = HyperMLP(target, 4, hidden=(10,))
    model = PerSample(target, generator, nn.Linear(6, 4))
    wanted = [model.extract(context=X[n : n + 1])(X[n : n + 1]) for n in range(len(X))]
    torch.testing.assert_close(model(X), torch.cat(wanted), rtol=0, atol=1e-5)
    model(X).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.encode.parameters())
    assert "generator.layers.0.weight" in dict(model.named_parameters())
    assert not any(name.startswith("_target") for name, _ in model.named_parameters())
    with pytest.raises(InputError, match="depend on the sample"):
        model.extract()
    with pytest.raises(InputError, match="found 5 rows"):
        model.extract(context=X)
    with pytest.raises(InputError, match="makes 3 numbers, and the network has 123 weights"):
        PerSample(target, nn.Linear(6, 3))(X)
    with pytest.raises(InputError, match=r"1\.running_mean is a buffer"):
        PerSample(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), generator)
    layer = HyperLinear(6, 3, code=4, hidden=(8,))
    codes = torch.randn(5, 4)
    made = layer.generator(codes)
    for n in range(5):
        weight, bias = made[n, :18].view(3, 6), made[n, 18:]
        torch.testing.assert_close(layer(X, codes)[n], weight @ X[n] + bias, rtol=0, atol=1e-5)


# -- the other forms of the review -------------------------------------------------------------


def test_noise_makes_many_networks_whose_probabilities_are_averaged() -> None:
    family = family_of(condition="noise")
    rng = np.random.default_rng(0)
    outputs = []
    for _ in range(3):
        redraw(family, rng)
        outputs.append(family.at({})(X))
    assert not torch.allclose(outputs[0], outputs[1])
    rng = np.random.default_rng(7)
    wanted = torch.zeros(5, 3)
    for _ in range(4):
        redraw(family, rng)
        wanted += family.extract({})(X).softmax(1).detach() / 4
    found = mean_probabilities(family, {}, X, draws=4, seed=7)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    before = family.state_dict()["0.weight.shared_noise"].clone()
    data = (torch.randn(64, 6), torch.zeros(64, dtype=torch.long))
    mn.train(
        family, data, steps=4, sampler=Redrawn(family), objective=Task(), optimizer="adamw"
    )  # fmt: skip
    assert not torch.equal(family.state_dict()["0.weight.shared_noise"], before)


def test_an_elastic_family_is_generated_whole_and_cut() -> None:
    elastic = mn.elastic(network(), (X,), width=(0.5, 1.0), multiple_of=1)
    choices = list(elastic.space.choices)
    recipe = hypernetwork(condition=choices, hidden=(20,))
    family = mn.bind(elastic, "*", recipe, together=True)
    small, large = family.space.smallest, family.space.largest
    assert family.at(small)[0].out_features == 6
    for arch in (small, large):
        torch.testing.assert_close(family.at(arch)(X), family.extract(arch)(X))
    first, whole = family.extract(small)[0].weight, family.extract(large)[0].weight
    assert not torch.allclose(first, whole[:6])  # the generator is told the arch
    family.at(small)(X).sum().backward()
    assert family.state_dict()["0.weight.shared_weight0"].grad.any()


def test_norms_start_as_they_are_in_every_form() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4))
    with torch.no_grad():
        model[1].weight.fill_(1.5)
    for output, options in FORMS.items():
        recipe = hypernetwork(output, hidden=(20,), condition=TASKS, **options)  # type: ignore[arg-type]
        made = mn.bind(model, "*", recipe, together=True).extract({"task": 1})[1].weight
        scale = 1e-6 if output == "whole" else 0.6
        assert (made - 1.5).abs().max() < scale


def test_kernels_are_tiled_of_blocks() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    recipe = hyper_kernels(code=3, inner=5, block=(4, 4))
    family = mn.bind(model, ["0.weight", "2.weight"], recipe, together=True)
    shared = family.state_dict()
    kernel = family.extract({})[0].weight
    inner_w, inner_b, outer_w, outer_b = (
        shared[f"0.weight.shared_{role}"]
        for role in ("inner_weight", "inner_bias", "outer_weight", "outer_bias")
    )
    for block in range(2):
        z = shared[f"0.weight.code{block}"]
        for channel in range(4):
            a = inner_w[channel] @ z + inner_b[channel]
            part = (outer_w @ a + outer_b).view(4, 3, 3)
            mine = kernel[4 * block : 4 * block + 4, channel]
            torch.testing.assert_close(mine, part, rtol=0, atol=1e-5)
    assert any(isinstance(b, HyperKernel) for b in walk(family.blueprint.bindings["0.weight"]))
    family.at({})(torch.randn(2, 4, 9, 9)).sum().backward()
    assert all(p.grad is not None for n, p in family.named_parameters() if "bias" not in n)
    with pytest.raises(InputError, match=r"0\.weight of shape \(8, 4, 3, 3\) is no kernel"):
        mn.bind(model, "*.weight", hyper_kernels(block=(16, 16)), together=True)


def test_codes_that_are_too_large_for_chunks_are_told_of() -> None:
    with pytest.warns(RuntimeWarning, match="lower spread"):
        family_of("chunks", spread=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"code": 0}, "at least 1"), ({"hidden": (0,)}, "at least 1")],
)
def test_sizes_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        family_of("whole", **options)
    with pytest.raises(InputError, match="condition='task' is unknown"):
        family_of(condition="task")
    with pytest.raises(InputError, match="output='half' is unknown"):
        hypernetwork("half")  # type: ignore[arg-type]


def test_what_a_target_is_told_by_its_name() -> None:
    shapes = {"a.weight": (8, 3, 5, 5), "a.bias": (8,), "n.weight": (8,), "n.bias": (8,), "s": (4,)}
    assert target_of("a.weight", shapes) == Target("weight", 75, 200, True)
    assert target_of("a.bias", shapes) == Target("bias", 75, 200, True)
    assert target_of("n.weight", shapes).kind == target_of("n.bias", shapes).kind == "norm"
    assert target_of("s", shapes).kind == "bias"


@pytest.mark.parametrize(("numbers", "code"), [(13_258, 8), (500, 4)])
def test_where_separate_networks_are_smaller(numbers: int, code: int) -> None:
    tasks = crossing(numbers, code)
    head = (code + 1) * numbers
    assert tasks * numbers > head + tasks * code
    assert (tasks - 1) * numbers <= head + (tasks - 1) * code


def test_tasks_in_turn_are_kept_and_older_codes_stay() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    tasks = [(x, x[:, 3 * (n % 2) : 3 * (n % 2) + 3].argmax(1)) for n in range(3)]
    kept = {}
    for beta in (0.0, 1.0):
        family = family_of("whole", hidden=(30, 30))
        learn_in_turn(
            family, tasks, steps=150, beta=beta, learning_rate=5e-3, batch_size=64,
        )  # fmt: skip
        hits = [
            (family.extract({"task": n})(x).argmax(1) == y).float().mean()
            for n, (_, y) in enumerate(tasks)
        ]
        kept[beta] = float(min(hits[:2]))
        assert hits[2] > 0.8
    assert kept[1.0] > 0.75 and kept[1.0] > kept[0.0] + 0.1
    codes = {n: p for n, p in family.named_parameters() if ".shared_code." in n}
    assert [p.requires_grad for p in codes.values()] == [False, False, True]


def test_the_example_runs() -> None:
    scope: dict[str, Any] = {}
    exec(SYSTEM.example, scope)
    right = scope["first"](scope["images"]).argmax(1) == scope["labels"]
    assert float(right.float().mean()) > 0.5


def test_fixed_and_uniform_samplers_agree_on_a_space_of_one() -> None:
    family = family_of(condition=None)
    rng = np.random.default_rng(0)
    assert Fixed({}).archs(family.space, rng) == Uniform().archs(family.space, rng)
