"""Modules whose code ties heads to the width are freed: the same outputs, a choice more."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from manynet import elastic, load
from manynet.elastic import FreeMultiheadAttention, frees, recast
from manynet.elastic._trace import Trace
from manynet.elastic.freeing import FREEING, free_again, freed
from manynet.errors import InputError

Verify = Callable[..., Trace]
PADDING = torch.arange(5) >= torch.tensor([5, 3])[:, None]
CAUSAL = nn.Transformer.generate_square_subsequent_mask(5)
B, L, S, D = 2, 5, 4, 12


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(D, 3, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.3)
    return module


def same(module: nn.Module, other: nn.Module, *inputs: Any, **options: Any) -> None:
    for grad in (True, False):  # without gradients PyTorch takes its fused kernels
        with torch.set_grad_enabled(grad):
            one, two = module(*inputs, **options), other(*inputs, **options)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weights", [{"need_weights": False}, {}, {"average_attn_weights": False}])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True, "add_zero_attn": True}])
@pytest.mark.parametrize("widths", [{}, {"kdim": 10, "vdim": 7}])
@pytest.mark.parametrize("layout", [{}, {"batch_first": True}, {"bias": False}])
def test_a_freed_attention_computes_the_same(
    layout: dict[str, Any], widths: dict[str, Any], extra: dict[str, Any], weights: dict[str, Any]
) -> None:
    module = attention(**layout, **widths, **extra)
    free = FreeMultiheadAttention.of(module)
    first = module.batch_first
    query, key, value = (
        torch.randn((B, length, width) if first else (length, B, width))
        for length, width in ((L, D), (S, module.kdim), (S, module.vdim))
    )
    if not widths:
        same(module, free, query, query, query, **weights)
    lacking = torch.zeros(B, S, dtype=torch.bool)
    lacking[0, -1] = True
    hidden = torch.zeros(L, S, dtype=torch.bool)
    hidden[0, 1:] = True
    for padding, mask in itertools.product(
        (None, lacking), (None, hidden, torch.randn(L, S), torch.randn(B * 3, L, S))
    ):
        if padding is not None and mask is not None and mask.is_floating_point():
            continue  # PyTorch wants masks of one type
        masks = {"key_padding_mask": padding, "attn_mask": mask}
        same(module, free, query, key, value, **masks, **weights)
    masks = {"key_padding_mask": -1e4 * lacking, "attn_mask": torch.randn(L, S)}
    same(module, free, query, key, value, **masks, **weights)
    one = [x[0] if first else x[:, 0] for x in (query, key, value)]
    same(module, free, *one, key_padding_mask=lacking[0], attn_mask=hidden, **weights)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padding", [None, PADDING.float() * -1e4])
def test_a_causal_hint_means_the_same(padding: Tensor | None, need_weights: bool) -> None:
    module = attention(batch_first=True)
    x = torch.randn(B, L, D)
    options = {"key_padding_mask": padding, "need_weights": need_weights, "attn_mask": CAUSAL}
    same(module, FreeMultiheadAttention.of(module), x, x, x, is_causal=True, **options)
    with pytest.raises(RuntimeError, match="must be given too"):
        FreeMultiheadAttention.of(module)(x, x, x, is_causal=True)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_draws_the_same(need_weights: bool) -> None:
    module = attention(dropout=0.5, batch_first=True).train()
    x, free = torch.randn(B, L, D), FreeMultiheadAttention.of(module)
    results = []
    for one in (module, free):
        torch.manual_seed(1)
        results.append(one(x, x, x, need_weights=need_weights)[0])
    torch.testing.assert_close(*results, rtol=0, atol=1e-6)


def test_the_names_and_the_parameters_stay() -> None:
    module = attention()
    free = FreeMultiheadAttention.of(module)
    assert dict(free.named_parameters()) == dict(module.named_parameters())
    FreeMultiheadAttention(D, 3).load_state_dict(module.state_dict())
    attention().load_state_dict(free.state_dict())
    tied = free.tied()
    assert type(tied) is nn.MultiheadAttention
    assert vars(tied).keys() == vars(module).keys()
    free.num_heads = 2
    assert free.tied() is None


class Encoder(nn.Module):
    """PyTorch's encoder between two layers, so that its width is no input and no output."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, **options)
        packs = not options
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=packs)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.last(self.encoder(self.first(x), src_key_padding_mask=padding))


class Translator(nn.Module):
    """PyTorch's transformer: attention over itself and over another sequence, batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 3)
        self.body = nn.Transformer(16, 4, 1, 1, 24)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.last(self.body(self.first(x), self.first(y)))


class Cross(nn.Module):
    """Attention over keys and values of other widths, whose weights are a result."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(6, 16), nn.Linear(6, 20), nn.Linear(6, 10)
        self.norm, self.last = nn.LayerNorm(16), nn.Linear(16, 3)
        self.attend = nn.MultiheadAttention(
            16, 4, kdim=20, vdim=10, add_bias_kv=True, add_zero_attn=True
        )

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        q = self.norm(self.q(x))
        output, weights = self.attend(q, self.k(y), self.v(y))
        return self.last(q + output), weights


X, Y = torch.randn(2, 5, 6), torch.randn(4, 5, 6)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[Any, ...]]] = {
    "encoder": (Encoder, (X,)),
    "norm first": (lambda: Encoder(norm_first=True), (X,)),
    "packed": (Encoder, (X, PADDING)),
    "translator": (Translator, (X, Y)),
    "cross": (Cross, (X, Y)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_heads_are_apart_from_the_width(case: str, verify: Verify) -> None:
    make, inputs = CASES[case]
    model = make().eval()
    free, paths = freed(model, inputs, True, inplace=False)
    same(model, free, *inputs)
    verify(free, inputs)
    family = elastic(model, inputs, free=True)
    names = {choice.name for choice in family.space.choices}
    for path in paths:
        assert {f"{path}.num_heads", f"{path}.head_dim"} <= names
    assert {"first.width", "q.width"} & names
    assert not any("ties" in note.detail for note in family.report().elastic)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_packed_sequences_come_back_as_pytorch_pads_them() -> None:
    model = Encoder().eval()
    free, _ = freed(model, (X,), True, inplace=False)
    with torch.no_grad():
        wanted = model.encoder(model.first(X), src_key_padding_mask=PADDING)
        found = free.get_submodule("encoder")(model.first(X), src_key_padding_mask=PADDING)
    assert not wanted[1, 3:].any()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_members_equal_their_extraction_which_is_pytorchs_own_where_it_fits() -> None:
    model = Encoder().eval()
    family = elastic(model, X, free=True)
    assert not any(isinstance(part, FreeMultiheadAttention) for part in model.modules())
    whole = family.extract(family.space.largest)
    assert [type(m) for m in whole.modules()] == [type(m) for m in model.modules()]
    copy.deepcopy(model).load_state_dict(whole.state_dict())
    same(model, whole, X)
    for seed in range(4):
        arch = family.space.sample(np.random.default_rng(seed), by="choice")
        alone = family.extract(arch)
        same(family.at(arch), alone, X)
        family.zero_grad()
        alone(X).square().sum().backward()
        family.at(arch)(X).square().sum().backward()
        kept = family.extract(arch).state_dict()
        assert kept.keys() == alone.state_dict().keys()
        total = sum(p.grad.square().sum() for p in family.parameters() if p.grad is not None)
        own = sum(p.grad.square().sum() for p in alone.parameters() if p.grad is not None)
        torch.testing.assert_close(total, own)
    one = family.extract({"encoder.layers.0.self_attn.num_heads": 2})
    layers = one.get_submodule("encoder.layers").children()
    assert [type(layer.self_attn) for layer in layers] == [
        FreeMultiheadAttention,
        nn.MultiheadAttention,
    ]


def smaller() -> nn.Module:
    """Return a member whose heads and width differ."""
    family = elastic(Encoder().eval(), X, free=True)
    heads = {f"encoder.layers.{n}.self_attn.num_heads": n + 1 for n in range(2)}
    return family.extract(heads)


def test_a_member_with_heads_of_its_own_exports_compiles_and_unpickles() -> None:
    member = smaller()
    file = io.BytesIO()
    torch.save(member, file)
    file.seek(0)
    with torch.no_grad():
        wanted = member(X)
        found = [
            torch.load(file, weights_only=False)(X),
            copy.deepcopy(member)(X),
            torch.export.export(member, (X,)).module()(X),
            torch.compile(member, backend="eager", fullgraph=True)(X),
        ]
    for output in found:
        torch.testing.assert_close(output, wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_such_a_member_runs_in_onnx_runtime(tmp_path: Path) -> None:
    from manynet import export

    export(smaller(), tmp_path / "model.onnx", X)  # raises where the outputs differ


def test_a_saved_family_frees_its_network_again(tmp_path: Path) -> None:
    family = elastic(Encoder().eval(), X, free=("*.0.self_attn",))
    assert family.blueprint.freed == ("encoder.layers.0.self_attn",)
    family.save(tmp_path)
    arch = family.space.smallest
    for model in (Encoder(), copy.deepcopy(family.shared)):
        again = load(tmp_path, model=model)
        assert again.blueprint.freed == family.blueprint.freed
        assert torch.equal(again.at(arch)(X), family.at(arch)(X))


def test_in_place_the_model_itself_is_freed() -> None:
    model, other = Encoder().eval(), Encoder().eval()
    other.load_state_dict(model.state_dict())
    family = elastic(model, X, free=True, inplace=True)
    assert family.shared is model
    assert isinstance(model.encoder.layers[0].self_attn, FreeMultiheadAttention)
    same(other, model, X)


def test_an_attention_alone_and_hooks_on_it() -> None:
    module = attention(batch_first=True)
    calls: list[str] = []
    module.register_forward_hook(lambda *_: calls.append("called"))
    x = torch.randn(B, L, D)
    free, paths = freed(module, (x, x, x), True, inplace=False)
    assert paths == ("",)
    calls.clear()
    free(x, x, x)
    assert isinstance(free, FreeMultiheadAttention)
    assert calls == ["called"]


class Tied(nn.Module):
    """Attention of a user's own, whose last view takes the width of what comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 2, 8
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.attend(x).reshape(x.shape))


class Free(Tied):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.attend(x).flatten(2))


class Doubled(Tied):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@pytest.fixture
def registered() -> Iterator[dict[str, type[nn.Module]]]:
    made: dict[str, type[nn.Module]] = {"kind": Free}

    @frees(Tied)
    def free(module: Tied) -> nn.Module:
        return recast(module, made["kind"])

    yield made
    FREEING.pop(Tied, None)


def own() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), Tied(), nn.Linear(16, 3)).eval()


def test_a_user_frees_a_class_of_their_own(
    registered: dict[str, type[nn.Module]], tmp_path: Path
) -> None:
    tied = elastic(own(), X)
    assert [choice.name for choice in tied.space.choices][:2] == ["2.heads", "2.size"]
    told = tied.report().elastic[0].detail
    assert told.endswith("the code of Tied ties them; free them with free=True")
    family = elastic(own(), X, free=True)
    assert [choice.name for choice in family.space.choices][:3] == ["0.width", "2.heads", "2.size"]
    family.save(tmp_path)
    assert load(tmp_path, model=own()).blueprint.freed == ("2",)
    del FREEING[Tied]
    told = elastic(own(), X).report().elastic[0].detail
    assert told.endswith("free them with manynet.elastic.frees(Tied) in your own file")
    with pytest.raises(InputError, match=r"import the file that registers what frees Tied: '2'"):
        load(tmp_path, model=own())


def test_what_frees_a_class_must_compute_the_same(registered: dict[str, type[nn.Module]]) -> None:
    registered["kind"] = Doubled
    with pytest.raises(InputError, match="what frees Tied has to return a module that does"):
        elastic(own(), X, free=True)


def test_a_subclass_is_not_freed_as_its_base() -> None:
    class Other(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x, x, x)[0]

    model = nn.Sequential(nn.Linear(6, 16), Other(16, 2, batch_first=True), nn.Linear(16, 3))
    assert freed(model, (X,), True, inplace=False) == (model, ())
    (note,) = [n.detail for n in elastic(model, X, free=True).report().fixed if n.name == "free"]
    assert note.startswith("the model has no MultiheadAttention itself")


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"free: 'x\.\*' fits no .*: there are|for example"):
        elastic(Encoder(), X, free=("x.*",))
    with pytest.raises(InputError, match="the model has no MultiheadAttention itself"):
        elastic(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), X, free=("0",))


def test_a_module_that_stands_in_two_places_stays_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = attention(batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x, x, x)[0]
            return self.second(y, y, y)[0]

    model = Twice().eval()
    free = free_again(copy.deepcopy(model), ("first",))
    assert free.first is free.second
    same(model, free, torch.randn(B, L, D))
