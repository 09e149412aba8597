"""`elastic_bits`: weights and inputs rounded in forms that the arch decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import manynet as mn
from manynet.bindings import recipes
from manynet.cost import bit_operations
from manynet.deploy import export, load_weights, onnx_session, to_onnx
from manynet.elastic import InputQuantizer, add_input_quantizers, elastic_bits
from manynet.errors import InputError
from manynet.family.file import load_family

X = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.Tanh(),
        nn.Conv2d(8, 6, 1, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    ).eval()


@pytest.fixture
def family() -> mn.Family:
    return elastic_bits(network(), X, bits=(2, 4, 8), input_bits=(3, 8))


def form(family: mn.Family, **roles: object) -> mn.Arch:
    given = {name: roles.get(name.rpartition(".")[2]) for name in family.space.names}
    return family.space.arch({n: v for n, v in given.items() if v is not None})  # type: ignore[misc]


def test_the_choices_are_those_of_each_layer_and_the_edges_have_eight_bits(
    family: mn.Family,
) -> None:
    names = set(family.space.names)
    roles = {"weight.per", "weight.symmetric", "input.symmetric"}
    inner = roles | {"weight.bits", "input.bits"}
    assert names == {f"{n}.{r}" for n in (2, 4) for r in inner} | {
        f"{n}.{r}" for n in (0, 7) for r in roles
    }
    member = family.at(family.space.smallest)
    assert [m.bits for m in member.modules() if isinstance(m, InputQuantizer)] == [8, 3, 3, 8]
    assert [m.signed for m in member.modules() if isinstance(m, InputQuantizer)] == [
        *(True, False),
        *(True, True),
    ]
    assert [
        name
        for name, _ in network().named_parameters()
        if name not in dict(member.named_parameters())
    ] == []  # layers keep their names


def test_eight_bits_stay_near_the_model_and_the_model_stays_as_it_is(family: mn.Family) -> None:
    expected = network()(X)
    expected = expected.detach()
    with torch.no_grad():
        for symmetric in (True, False):
            y = family.at(form(family, bits=8, per="channel", symmetric=symmetric))(X)
            assert float((y - expected).abs().max()) < 0.02 * float(expected.abs().max())
        rough = family.at(family.space.smallest)(X)
    assert float((rough - expected).abs().max()) > 0.02 * float(expected.abs().max())


def test_inputs_have_few_levels_and_their_steps_learn(family: mn.Family) -> None:
    arch = form(family, symmetric=True)
    arch = family.space.arch({**arch, "2.input.bits": 3, "4.input.bits": 3})
    member = family.at(arch)
    seen: list[Tensor] = []
    member[4].input_quantizer.register_forward_hook(lambda m, a, y: seen.append(y.detach()))
    member(X).square().sum().backward()
    assert len(seen[0].unique()) <= 8
    table = family.extra["4.input.step.symmetric"]
    assert table.grad is not None and bool(table.grad[0]) and not bool(table.grad[1])
    assert family.extra["4.input.step.asymmetric"].grad is None


def test_members_extraction_and_file_agree(family: mn.Family, tmp_path: Path) -> None:
    family.save(tmp_path)
    again = load_family(tmp_path, add_input_quantizers(network()))
    for arch in (family.space.largest, family.space.smallest, form(family, symmetric=True)):
        with torch.no_grad():
            y = family.at(arch)(X)
            assert torch.equal(y, family.extract(arch)(X))
            assert torch.equal(y, again.at(arch)(X))


def test_bits_stand_beside_width_and_depth() -> None:
    elastic = mn.elastic(network(), X, width=(0.5, 1.0), depth=False, multiple_of=1)
    family = elastic_bits(elastic, X, bits=(4, 8), input_bits=(4, 8))
    widths = [name for name in family.space.names if name.endswith("width")]
    assert widths
    small = family.at(family.space.smallest)
    assert small[4].out_channels == 3
    small(X).sum().backward()
    assert torch.equal(small.eval()(X), family.extract(family.space.smallest).eval()(X))


def test_whole_inputs_and_single_forms_are_no_choices() -> None:
    family = elastic_bits(
        network(), X, bits=4, input_bits=None, per="channel", symmetric=True, edges=None
    )
    assert family.space.count == 1
    assert not [m for m in family.shared.modules() if isinstance(m, InputQuantizer)]
    both = elastic_bits(
        network(), X, bits=4, input_bits=6, per="tensor", symmetric=False, input_symmetric=False
    )
    assert both.space.count == 1
    quantizers = [m for m in both.at({}).modules() if isinstance(m, InputQuantizer)]
    assert [q.bits for q in quantizers] == [8, 6, 6, 8]
    assert not any(q.symmetric for q in quantizers)


def test_bit_operations_count_weights_and_inputs(family: mn.Family) -> None:
    arch = form(family, symmetric=True)
    arch = family.space.arch(
        {**arch, "2.weight.bits": 2, "2.input.bits": 3, "4.weight.bits": 4, "4.input.bits": 8}
    )
    macs = {0: 64 * 8 * 27, 2: 64 * 8 * 36, 4: 64 * 6 * 8, 7: 24}
    expected = macs[0] * 64 + macs[2] * 6 + macs[4] * 32 + macs[7] * 64
    cost = bit_operations()
    assert cost(family.at(arch), X) == cost.of_arch(family, arch) == expected


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_stored_integers_compute_what_the_member_computes(
    bits: int, symmetric: bool, tmp_path: Path
) -> None:
    """Products of integers, summed exactly, then scaled: what an integer kernel does."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    x = torch.randn(32, 12)
    family = elastic_bits(
        net,
        x,
        bits=bits,
        input_bits=bits,
        per="channel",
        symmetric=symmetric,
        input_symmetric=symmetric,
        edges=None,
    )
    member = family.extract({})
    export(member, tmp_path / "m.safetensors", x)
    from safetensors.torch import load_file

    from manynet.bindings import unpack

    stored = load_file(tmp_path / "m.safetensors")
    h = x.double()
    for n in (0, 2):
        shape = member[n].weight.shape
        q = unpack(stored[f"{n}.weight.packed"], bits, shape.numel()).view(shape).long()
        q = q - 2 ** (bits - 1)
        quantizer = member[n].input_quantizer
        step, start = quantizer.step.double().detach(), torch.zeros(1).double()
        if not symmetric:
            start = quantizer.offset.double().detach()
        low = -(2 ** (bits - 1)) if quantizer.signed else 0
        levels = ((h - start) / step).clamp(low, low + 2**bits - 1).round().long()
        exact = levels @ q.T  # integers
        scale = stored[f"{n}.weight.scale"].double()
        h = exact * scale * step + (start * q.sum(1)) * scale
        if not symmetric:
            offset = stored[f"{n}.weight.offset"].double()
            h = h + offset * (levels.sum(1, keepdim=True) * step + start * shape[1])
        h = h + stored[f"{n}.bias"].double()
        h = h.relu() if n == 0 else h
    with torch.no_grad():
        assert torch.allclose(member(x).double(), h, atol=1e-5)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [8, 3])
def test_onnx_runs_the_forms_in_pairs_of_quantize_and_dequantize(
    family: mn.Family, bits: int, symmetric: bool
) -> None:
    onnx = pytest.importorskip("onnx")
    arch = (
        form(family, bits=bits, symmetric=symmetric, per="channel")
        if bits == 8
        else form(family, symmetric=symmetric)
    )
    arch = (
        arch
        if bits == 8
        else family.space.arch(
            {**arch, "2.input.bits": 3, "4.input.bits": 3, "2.weight.bits": 4, "4.weight.bits": 4}
        )
    )
    member = family.extract(arch)
    data = to_onnx(member, (X,))
    kinds = [node.op_type for node in onnx.load_from_string(data).graph.node]
    assert kinds.count("QuantizeLinear") == 4
    assert kinds.count("DequantizeLinear") == (8 if symmetric else 4)  # its weights, too
    (y,) = onnx_session(data).run(None, {onnx_session(data).get_inputs()[0].name: X.numpy()})
    with torch.no_grad():
        expected = member(X)
    span = float(expected.max() - expected.min())
    assert float((torch.from_numpy(y) - expected).abs().max()) < 1e-2 * span


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no Conv1d"):
        elastic_bits(nn.Sequential(nn.ReLU()), torch.zeros(2, 3))


def test_inputs_of_a_shared_quantizer_are_rounded_before_the_layer() -> None:
    layer = add_input_quantizers(nn.Linear(3, 2, bias=False))
    layer.input_quantizer.bits = 2
    with torch.no_grad():
        layer.input_quantizer.step.fill_(0.5)
        x = torch.tensor([[-3.0, 0.2, 0.9]])
        assert torch.equal(
            layer(x), functional.linear(torch.tensor([[-1.0, 0.0, 0.5]]), layer.weight)
        )


def test_packed_weights_of_a_member_with_quantizers_load(family: mn.Family, tmp_path: Path) -> None:
    member = family.extract(form(family, symmetric=True))
    export(member, tmp_path / "m.safetensors", X)
    other = family.extract(family.space.smallest)
    other.load_state_dict(load_weights(tmp_path / "m.safetensors"))
    for name, tensor in member.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_tied_layers_have_one_form_and_that_of_an_edge_where_one_of_them_is_it() -> None:
    net = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)), nn.Linear(6, 2))
    tied = mn.bind(net, "[123].weight", recipes.tied())
    x = torch.randn(8, 6)
    family = mn.elastic_bits(tied, x, input_bits=None)
    names = {name.partition(".")[0] for name in family.space.names}
    assert names == {"0", "1", "4"}
    member = family.at(family.space.smallest)
    assert member[1].weight is member[3].weight
    across = mn.elastic_bits(mn.bind(net, "[0123].weight", recipes.tied()), x, input_bits=None)
    assert {name.partition(".")[0] for name in across.space.names} == {"0", "4"}
    assert across.at(across.space.smallest)(x).shape == (8, 2)
