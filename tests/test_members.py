"""What users do with members: compile, export, copy, pickle, autocast, spread over processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import manynet
from manynet.family import Family
from networks import make
from processes import run_two

NAMES = ("mlp", "residual", "attention")


def family_of(name: str, **options: object) -> tuple[Family, Tensor]:
    model, x = make(name)
    return manynet.elastic(model, x, **{"width": (0.25, 0.5, 1.0), **options}), x


@pytest.fixture(params=NAMES)
def family_and_input(request: pytest.FixtureRequest) -> tuple[Family, Tensor]:
    return family_of(request.param)


def gradients(family: Family) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in family.named_parameters() if p.grad is not None}


@pytest.fixture
def graphs() -> Iterator[list[torch.fx.GraphModule]]:
    """The graphs that the backend `counting(graphs)` is given."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def counting(graphs: list[torch.fx.GraphModule]):
    def backend(module: torch.fx.GraphModule, inputs: object):
        graphs.append(module)
        return module.forward

    return backend


# -- torch.compile ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [12, pytest.param(50, marks=pytest.mark.slow)])
def test_many_compiled_members_are_as_many_graphs_and_no_more(graphs, count: int) -> None:
    """Dynamo keeps 8 graphs of a class's code; a region of its own gives a member its own 8."""
    widths = tuple(i / 16 for i in range(1, 17))
    family, x = family_of("mlp", width=widths, multiple_of=1)
    rng = np.random.default_rng(0)
    archs = list(dict.fromkeys(family.space.sample(rng) for _ in range(90)))[:count]
    assert len(archs) == count
    members = [
        torch.compile(family.at(a), backend=counting(graphs), isolate_recompiles=True)
        for a in archs
    ]
    for turn in range(3):
        for arch, member in zip(archs, members, strict=True):
            family.at(arch)  # brings it up to date
            assert torch.allclose(member(x), family.extract(arch)(x), atol=1e-6)
        assert len(graphs) == count, f"compiled again in turn {turn}"
        with torch.no_grad():
            for parameter in family.parameters():
                parameter.mul_(1.05)


def test_compiled_members_train_like_others(family_and_input, graphs) -> None:
    family, x = family_and_input
    optimizer = torch.optim.SGD(family.parameters(), lr=0.01)
    archs = [family.space.largest, family.space.smallest]
    compiled = [
        torch.compile(family.at(a), backend="aot_eager", isolate_recompiles=True) for a in archs
    ]
    for _ in range(2):
        family.zero_grad()
        for arch in archs:
            family.at(arch)(x).square().mean().backward()
        expected = gradients(family)
        family.zero_grad()
        for arch, member in zip(archs, compiled, strict=True):
            family.at(arch)
            member(x).square().mean().backward()
        for name, grad in gradients(family).items():
            assert torch.allclose(grad, expected[name], rtol=1e-4, atol=1e-6), name
        optimizer.step()


# -- files and copies ------------------------------------------------------------------------


def test_torch_export_of_a_member_and_of_its_extraction(family_and_input) -> None:
    family, x = family_and_input
    arch = family.space.smallest
    for model in (family.at(arch), family.extract(arch)):
        program = torch.export.export(model, (x,))
        assert torch.allclose(program.module()(x), model(x), atol=1e-5)


@pytest.mark.slow
def test_onnx_of_a_member_and_of_its_extraction(family_and_input, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    family, x = family_and_input
    arch = family.space.smallest
    for number, model in enumerate((family.at(arch), family.extract(arch))):
        file = tmp_path / f"{number}.onnx"
        manynet.export(model, file, (x,), verify=False)
        session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert torch.allclose(torch.from_numpy(y), model(x), atol=1e-4)


def test_copies_of_a_member_are_bound_to_nothing(family_and_input) -> None:
    family, x = family_and_input
    member = family.at(family.space.smallest)
    twins = [copy.deepcopy(member), pickle.loads(pickle.dumps(member))]
    y = member(x)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.zero_()
    assert not torch.equal(member(x), y)
    for twin in twins:
        assert torch.equal(twin(x), y)
        twin(x).sum().backward()
        assert all(p.grad is not None for p in twin.parameters())
    assert not gradients(family)


def test_extracted_modules_unpickle_without_manynet(tmp_path: Path) -> None:
    pairs = {}
    for name in NAMES:
        family, x = family_of(name)
        small = family.extract(family.space.smallest)
        pairs[name] = (small, x, small(x))
    torch.save(pairs, tmp_path / "pairs.pt")
    code = (
        "import sys, torch\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"  # the networks' own classes
        "sys.modules['manynet'] = None\n"
        f"pairs = torch.load({str(tmp_path / 'pairs.pt')!r}, weights_only=False)\n"
        "assert len(pairs) == 3\n"
        "for model, x, y in pairs.values():\n"
        "    assert torch.equal(model(x), y)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_extraction_keeps_no_storage_of_larger_tensors_alive(family_and_input) -> None:
    """An index of rows and a block of columns once gave a strided view of all columns."""
    family, _ = family_and_input
    alone = family.extract(family.space.smallest)
    for name, tensor in alone.state_dict().items():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
        assert tensor.stride() == torch.empty(tensor.shape).stride(), name


def test_a_member_s_state_fits_its_extraction_and_back(family_and_input) -> None:
    family, x = family_and_input
    arch = family.space.smallest
    member, alone = family.at(arch), family.extract(arch)
    y = member(x)
    assert list(member.state_dict()) == list(alone.state_dict())
    state = {name: tensor.clone() for name, tensor in member.state_dict().items()}
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(1)
    alone.load_state_dict(state)
    assert torch.equal(alone(x), y)


def test_a_family_s_state_goes_round(family_and_input) -> None:
    family, x = family_and_input
    archs = [family.space.largest, family.space.smallest]
    before = [family.at(arch)(x) for arch in archs]
    state = {name: tensor.clone() for name, tensor in family.state_dict().items()}
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.add_(1)
    assert not torch.equal(family.at(archs[1])(x), before[1])
    family.load_state_dict(state)
    for arch, y in zip(archs, before, strict=True):
        assert torch.equal(family.at(arch)(x), y)


# -- precision -------------------------------------------------------------------------------


def test_autocast_reaches_members(family_and_input) -> None:
    family, x = family_and_input
    arch = family.space.smallest
    alone = family.extract(arch)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = family.at(arch)(x), alone(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert all(grad.dtype == torch.float32 for grad in gradients(family).values())
    assert any(bool(grad.any()) for grad in gradients(family).values())


# -- several processes -----------------------------------------------------------------------

PROGRAM = """
import os, sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from test_members import family_of, gradients

distributed.init_process_group("gloo")
rank = distributed.get_rank()
for name in ("mlp", "residual", "attention"):
    family, x = family_of(name)
    arch = family.space.smallest
    halves = torch.cat([x, 2 * x, -x, x.flip(-1)]).chunk(2)
    expected = []
    for half in halves:
        family.zero_grad()
        family.at(arch)(half).square().mean().backward()
        expected.append(gradients(family))
    family.zero_grad()
    wrapped = DistributedDataParallel(family.at(arch))
    for _ in range(2):
        wrapped(halves[rank]).square().mean().backward()
    for key, grad in gradients(family).items():
        mean = expected[0][key] + expected[1][key]   # two passes of the mean of both
        assert torch.allclose(grad, mean, rtol=1e-4, atol=1e-6), (name, key)
    alone = family.extract(arch)
    with torch.no_grad():
        y = alone(halves[rank])
        fully_shard(alone)
        optimizer = torch.optim.SGD(alone.parameters(), lr=0.1)  # before a forward gathers them
        assert torch.allclose(alone(halves[rank]), y, atol=1e-6)
    alone(halves[rank]).square().mean().backward()
    optimizer.step()
    full = {{n: p.full_tensor() for n, p in alone.named_parameters()}}
    plain = family.extract(arch)
    sum(plain(half).square().mean() for half in halves).div(2).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for key, parameter in plain.named_parameters():
        assert torch.allclose(full[key], parameter, rtol=1e-4, atol=1e-6), (name, key)
distributed.barrier()
distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_share_a_member_with_ddp_and_an_extraction_with_fsdp() -> None:
    """DDP averages what a member sends to the shared gradients; FSDP2 shards an extraction."""
    run_two(PROGRAM.format(tests=str(Path(__file__).parent)))


class Speller(nn.Module):
    """A text model whose embeddings are its output layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(12, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids)
        return self.head(x + self.down(torch.relu(self.up(x))))


@pytest.fixture
def speller(monkeypatch: pytest.MonkeyPatch) -> tuple[Family, Tensor]:
    monkeypatch.setattr("manynet.bindings.leaf.SHARED_ROWS_BYTES", 0)
    torch.manual_seed(0)
    ids = torch.randint(0, 12, (2, 5))
    family = manynet.elastic(Speller().eval(), ids, width=(0.5, 1.0))
    family.cache_bytes = 0  # no room for copies
    return family, ids


def test_without_room_for_copies_large_matrices_are_read_in_place(speller) -> None:
    family, ids = speller
    member = family.at(family.space.smallest)
    for name in ("tokens", "up", "down"):
        weight, shared = getattr(member, name).weight, getattr(family.shared, name).weight
        assert weight.data_ptr() == shared.data_ptr()
        assert weight.stride() == shared.stride()
    assert member.head.weight is member.tokens.weight
    assert family._cache.bytes == 0
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(1.5)
        torch.testing.assert_close(member(ids), family.extract(family.space.smallest)(ids))


def test_in_training_matrices_whose_rows_lie_apart_are_copied(speller) -> None:
    family, ids = speller
    arch = family.space.smallest
    read = family.at(arch)
    family.cache_bytes = None
    trained = family.train().at(arch)
    assert trained is not read
    assert trained.down.weight.is_contiguous()
    assert family.at(arch) is trained
    assert family.eval().at(arch) is trained  # it has its copies already
    alone = family.train().extract(arch)
    for member in (read.train(), trained):  # one that someone holds on to learns as well
        family.zero_grad()
        alone.zero_grad()
        alone(ids).square().mean().backward()
        member(ids).square().mean().backward()
        torch.testing.assert_close(family.shared.down.weight.grad[:4, :8], alone.down.weight.grad)
        torch.testing.assert_close(family.shared.tokens.weight.grad[:, :4], alone.head.weight.grad)


def test_what_else_than_products_takes_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manynet.bindings.leaf.SHARED_ROWS_BYTES", 0)
    net = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Conv1d(8, 8, 1), nn.Flatten(), nn.Linear(16, 3))
    family = manynet.elastic(net.eval(), torch.randn(2, 4, 4), width=(0.5, 1.0))
    member = family.at(family.space.smallest)
    assert member[3].weight.is_contiguous()  # there is room
    family.clear()
    family.cache_bytes = 0
    member = family.at(family.space.smallest)
    assert member[1].weight.is_contiguous()
    assert not member[3].weight.is_contiguous()
