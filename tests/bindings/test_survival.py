"""Members with computed weights, in whatever users put members through."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bound import BOUND, X, archs, by_hand, gradients
from torch import Tensor, nn

import manynet
from manynet.bindings import recipes
from manynet.family import Family
from manynet.train.ema import Ema
from processes import run_two

QUICK = ("mask", "generate once", "quantized slice")
"""What is compiled in every run of the tests; the others take a while."""


@pytest.fixture(params=BOUND)
def family(request: pytest.FixtureRequest) -> Family:
    return BOUND[request.param]()


def loss_of(y: Tensor) -> Tensor:
    return y.float().square().mean()


def assert_gradients(family: Family, leaves: dict[str, Tensor], share: float = 1e-4) -> None:
    """Check the gradients against those of the leaves, up to a share of the largest."""
    found = gradients(family)
    wanted = {n: leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}
    assert found.keys() <= leaves.keys()
    largest = max(float(grad.abs().max()) for grad in wanted.values())
    for name, leaf in leaves.items():
        own, other = (g.get(name, torch.zeros_like(leaf)) for g in (found, wanted))
        assert float((own - other).abs().max()) <= share * largest, name


def change(family: Family) -> None:
    """Move all shared weights, as a step does."""
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(1.05)


# -- precision -------------------------------------------------------------------------------


def test_autocast_reaches_computed_members(family: Family) -> None:
    """The weights are computed in full precision, and rounded where the network uses them."""
    for arch in archs(family):
        family.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = family.at(arch)(X)
            alone = family.extract(arch)(X)
            wanted, leaves = by_hand(family, arch, X)
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, alone)
        torch.testing.assert_close(y, wanted, rtol=2e-2, atol=2e-2)
        loss_of(y).backward()
        loss_of(wanted).backward()
        assert all(grad.dtype == torch.float32 for grad in gradients(family).values())
        assert_gradients(family, leaves, share=2e-2)


def test_families_on_the_meta_device_have_computed_members() -> None:
    """Autocast, which is switched off for computed weights, does not know that device."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    family = manynet.bind(model, "*.weight", recipes.tied(scale=True))
    assert family.at({})[0].weight.is_meta
    assert family.extract({})[1].weight.shape == (4, 4)


# -- copies ----------------------------------------------------------------------------------


def test_copies_of_computed_members_are_bound_to_nothing(family: Family) -> None:
    for arch in archs(family):
        member = family.at(arch)
        twins: list[nn.Module] = [copy.deepcopy(member), pickle.loads(pickle.dumps(member))]
        y = member(X)
        change(family)
        assert not torch.equal(family.at(arch)(X), y)
        for twin in twins:
            assert torch.equal(twin(X), y)
            twin(X).sum().backward()
            assert all(p.grad is not None for p in twin.parameters())
    assert not gradients(family)


def test_a_copy_of_a_family_is_a_family_of_its_own(family: Family) -> None:
    arch = family.space.largest
    y = family.at(arch)(X)
    twin = copy.deepcopy(family)
    loss_of(twin.at(arch)(X)).backward()
    assert not gradients(family)
    wanted, leaves = by_hand(twin, arch, X)
    loss_of(wanted).backward()
    assert_gradients(twin, leaves)
    change(twin)
    assert not torch.equal(twin.at(arch)(X), y)
    assert torch.equal(family.at(arch)(X), y)


# -- compiling and exporting -----------------------------------------------------------------


@pytest.fixture
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BOUND],
)
def test_archs_seen_before_are_compiled_once(name: str, graphs: list[torch.fx.GraphModule]) -> None:
    """Steps, folds and other members in between: a member's graph stays good."""
    family = BOUND[name]()

    def backend(module: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(module)
        return module.forward

    found = archs(family)
    compiled = [
        torch.compile(family.at(a), backend=backend, isolate_recompiles=True, fullgraph=True)
        for a in found
    ]
    optimizer = torch.optim.SGD(family.parameters(), lr=0.05)
    for turn in range(3):
        for arch, member in zip(found, compiled, strict=True):
            family.zero_grad()
            wanted, leaves = by_hand(family, arch, X)
            family.at(arch)  # brings it up to date
            y = member(X)
            torch.testing.assert_close(y, wanted, rtol=1e-5, atol=1e-6)
            loss_of(y).backward()
            loss_of(wanted).backward()
            assert_gradients(family, leaves)
            optimizer.step()
        assert len(graphs) == len(found), f"compiled again in turn {turn}"


@pytest.mark.slow
def test_more_computed_members_than_dynamo_keeps(graphs: list[torch.fx.GraphModule]) -> None:
    """Dynamo keeps 8 graphs of a class's code; these are 18 families, 29 members, of one class."""

    def backend(module: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(module)
        return module.forward

    families = [make() for make in BOUND.values()]
    pairs = [(family, arch) for family in families for arch in archs(family)]
    compiled = [
        torch.compile(family.at(arch), backend=backend, isolate_recompiles=True)
        for family, arch in pairs
    ]
    assert len(pairs) > 8
    for _ in range(2):
        for (family, arch), member in zip(pairs, compiled, strict=True):
            family.at(arch)
            assert torch.allclose(member(X), family.extract(arch)(X), atol=1e-6)
        for family in families:
            change(family)
    assert len(graphs) == len(pairs)


def test_torch_export_of_computed_members(family: Family) -> None:
    for arch in archs(family):
        for model in (family.at(arch), family.extract(arch)):
            program = torch.export.export(model, (X,))
            assert torch.allclose(program.module()(X), model(X), atol=1e-6)


@pytest.mark.slow
def test_onnx_of_computed_members(family: Family, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    arch = family.space.smallest
    member = family.eval().at(arch)
    manynet.export(member, tmp_path / "member.onnx", (X,))
    session = runtime.InferenceSession(str(tmp_path / "member.onnx"))
    (y,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert torch.allclose(torch.from_numpy(y), family.extract(arch)(X), atol=1e-4)


# -- optimizers ------------------------------------------------------------------------------


def test_optimizers_see_each_shared_tensor_once(family: Family) -> None:
    """Decay, clipping and moments are those of the leaves of the composed function."""
    parameters = list(family.parameters())
    assert len({id(p) for p in parameters}) == len(parameters)
    assert len({p.data_ptr() for p in parameters}) == len(parameters)
    arch = family.space.largest
    optimizer = torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)
    wanted, leaves = by_hand(family, arch, X)
    twins = [leaves[name] for name, _ in family.named_parameters()]
    other = torch.optim.AdamW(twins, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        family.zero_grad()
        other.zero_grad()
        loss_of(family.at(arch)(X)).backward()
        wanted, fresh = by_hand(family, arch, X)
        loss_of(wanted).backward()
        for (name, _), twin in zip(family.named_parameters(), twins, strict=True):
            twin.grad = fresh[name].grad
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1e-2)
        assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(twins, 1e-2), rtol=1e-4)
        optimizer.step()
        other.step()
        for (name, own), twin in zip(family.named_parameters(), twins, strict=True):
            if own.grad is not None:
                assert torch.allclose(own, twin, rtol=1e-4, atol=1e-5), name
    assert len(optimizer.state) == sum(p.grad is not None for p in parameters)


def test_averages_are_of_shared_tensors_and_reach_members(family: Family) -> None:
    arch = family.space.largest
    ema = Ema(family, 0.5)
    assert set(ema.averages) == {name for name, _ in family.named_parameters()}
    before = family.at(arch)(X)
    change(family)
    y = family.at(arch)(X)
    with ema.swapped(family):
        assert torch.allclose(family.at(arch)(X), before, atol=1e-6)
        assert torch.allclose(family.extract(arch)(X), before, atol=1e-6)
    assert torch.equal(family.at(arch)(X), y)


@pytest.mark.parametrize("name", ["mask", "route", "quantized slice", "masked tie"])
def test_nothing_moves_that_a_step_did_not_touch(name: str) -> None:
    """Moments and decay of one member's steps leave alone what only another one reads."""
    family = BOUND[name]()
    optimizer = torch.optim.AdamW(family.parameters(), lr=0.01, weight_decay=0.1)
    family.guard(optimizer)
    for arch in archs(family):  # so that there are moments everywhere
        loss_of(family.at(arch)(X)).backward()
    optimizer.step()
    arch = family.space.smallest
    for _ in range(2):
        family.zero_grad(set_to_none=False)
        before = {n: t.detach().clone() for n, t in family.state_dict().items()}
        wanted, leaves = by_hand(family, arch, X)
        (wanted * torch.rand(wanted.shape)).sum().backward()
        loss_of(family.at(arch)(X)).backward()
        optimizer.step()
        moved = still = 0
        for key, leaf in leaves.items():
            same = family.state_dict()[key] == before[key]
            reached = torch.zeros_like(same) if leaf.grad is None else leaf.grad != 0
            assert bool(same[~reached].all()), key
            moved += int((~same).sum())
            still += int((~reached).sum())
        assert moved
        assert still


# -- several processes -----------------------------------------------------------------------

PROGRAM = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from bound import BOUND, X, archs, by_hand, gradients

distributed.init_process_group("gloo")
rank = distributed.get_rank()
halves = torch.cat([X, 2 * X, -X, X.flip(-1)]).chunk(2)
for name, make in BOUND.items():
    family = make()
    for arch in archs(family):
        family.zero_grad()
        total = {{}}
        for half in halves:
            y, leaves = by_hand(family, arch, half)
            y.square().mean().div(2).backward()
            for key, leaf in leaves.items():
                if leaf.grad is not None:
                    total[key] = total.get(key, 0) + leaf.grad
        wrapped = DistributedDataParallel(family.at(arch))
        for _ in range(2):
            wrapped(halves[rank]).square().mean().backward()
        found = gradients(family)
        assert found, name
        for key, grad in found.items():
            wanted = 2 * total.get(key, torch.zeros_like(grad))
            assert torch.allclose(grad, wanted, rtol=1e-4, atol=1e-6), (name, key)
        assert not [k for k, grad in total.items() if k not in found and grad.any()], name
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_get_the_gradients_of_one() -> None:
    """`DistributedDataParallel` averages what computed members send to the shared gradients."""
    run_two(PROGRAM.format(tests=str(Path(__file__).parent)))
