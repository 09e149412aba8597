"""What the trace finds in small networks, one for each way in which axes hang together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from manynet.bindings.axes import Axis, Concat, length
from manynet.elastic._trace import Attribute, Block, Trace, trace_model
from manynet.errors import TraceError
from networks import Net

Verify = Callable[..., Trace]


def sizes(trace: Trace) -> dict[str, int]:
    return {axis.name: axis.size for axis in trace.axes}


def test_a_chain_has_one_axis_for_each_inner_layer(verify: Verify) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 2))
    trace = verify(net, (torch.randn(3, 4),))
    assert sizes(trace) == {"0.width": 8, "2.width": 6}
    assert trace.attributes[Attribute("2", "in_features")] == (trace.axes[0],)
    assert trace.attributes[Attribute("2", "out_features")] == (trace.axes[1],)
    assert trace.outputs == (3, 2)
    assert trace.calls == {"": 1, "0": 1, "1": 1, "2": 1, "3": 1, "4": 1}
    assert trace.fallback is None


def test_frozen_dimensions_say_why(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert ("0.weight", 1, "an input") in trace.frozen
    assert ("0.weight", 2, "a kernel") in trace.frozen
    assert ("2.weight", 0, "an output") in trace.frozen
    assert all(name != "2.weight" or dim != 1 for name, dim, _ in trace.frozen)


def test_flattened_channels_are_a_product_with_space(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 4, 5))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    channels, *space = trace.tensors["2.weight"][1]
    assert channels is trace.axes[0]
    assert length(tuple(space)) == 4
    assert all(isinstance(axis, Axis) and axis.frozen for axis in space)


def test_a_residual_stream_is_one_axis_named_after_its_first_producer(verify: Verify) -> None:
    def block() -> Net:
        return Net(
            lambda self, x: x + self.b(functional.relu(self.a(x))),
            a=nn.Linear(6, 10),
            b=nn.Linear(10, 6),
        )

    net = nn.Sequential(nn.Linear(3, 6), nn.Sequential(block(), block()), nn.Linear(6, 2))
    trace = verify(net, (torch.randn(2, 3),))
    assert sizes(trace) == {"0.width": 6, "1.0.a.width": 10, "1.1.a.width": 10}
    assert trace.blocks == (Block("1.0", "1"), Block("1.1", "1"))


def test_a_block_that_changes_its_input_cannot_be_left_out() -> None:
    def block(inner: nn.Module, skip: nn.Module) -> Net:
        return Net(lambda self, x: self.skip(x) + self.inner(x), inner=inner, skip=skip)

    net = nn.Sequential(
        nn.Linear(3, 6),
        block(nn.Linear(6, 6), nn.Linear(6, 6)),  # the addition has another operand
        Net(lambda self, x: x * torch.sigmoid(self.gate(x)), gate=nn.Linear(6, 6)),
        nn.Linear(6, 2),
    )
    assert trace_model(net, (torch.randn(2, 3),)).blocks == ()


def test_an_activation_in_place_after_an_addition_is_no_block() -> None:
    """It writes into the sum, but adds nothing itself; what adds before it does count."""

    def block(inner: nn.Module, skip: nn.Module) -> Net:
        return Net(
            lambda self, x: self.last(self.skip(x) + self.inner(x)),
            inner=inner, skip=skip, last=nn.ReLU(inplace=True),
        )  # fmt: skip

    net = nn.Sequential(
        nn.Linear(3, 6),
        block(nn.Linear(6, 6), nn.Linear(6, 6)),
        block(nn.Linear(6, 6), nn.Identity()),
        nn.Linear(6, 2),
    )
    assert trace_model(net, (torch.randn(2, 3),)).blocks == (Block("2", ""),)


def test_only_the_innermost_residual_module_is_a_block() -> None:
    inner = Net(lambda self, x: x + self.a(x), a=nn.Linear(6, 6))
    outer = Net(lambda self, x: x + self.inner(x), inner=inner)
    net = nn.Sequential(nn.Linear(3, 6), outer, nn.Linear(6, 2))
    assert trace_model(net, (torch.randn(2, 3),)).blocks == (Block("1.inner", "1"),)


def test_concatenated_parts_keep_their_own_axes(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.join(self.norm(torch.cat([self.a(x), self.b(x)], 1))).mean((2, 3)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 6, 1),
        norm=nn.BatchNorm2d(10),
        join=nn.Conv2d(10, 5, 1),
    )
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    (joined,) = trace.tensors["join.weight"][1]
    assert isinstance(joined, Concat)
    assert [part[0] for part in joined.parts] == list(trace.axes)
    assert trace.tensors["norm.running_mean"][0] == (joined,)
    assert sizes(trace) == {"a.width": 4, "b.width": 6}
    assert length(trace.attributes[Attribute("norm", "num_features")]) == 10


def test_the_groups_of_a_convolution_lead_its_channels(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 24, 1, groups=4), nn.Conv2d(24, 2, 1))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    groups = trace.attributes[Attribute("1", "groups")]
    assert length(groups) == 4
    assert trace.tensors["1.weight"][0][:1] == groups
    assert trace.tensors["0.weight"][0][:1] == groups
    assert trace.attributes[Attribute("1", "in_channels")] == trace.tensors["0.weight"][0]
    assert "1.groups" in sizes(trace)


def test_a_depthwise_convolution_follows_its_channels(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    (channels,) = trace.axes
    assert channels.name == "0.width"
    assert trace.attributes[Attribute("1", "groups")] == (channels,)
    assert trace.tensors["1.weight"][1] == ()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_its_channels_the_other_way(
    verify: Verify, groups: int
) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, groups=groups), nn.Conv2d(6, 2, 1)
    )
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert length(trace.attributes[Attribute("1", "in_channels")]) == 8
    assert length(trace.attributes[Attribute("1", "out_channels")]) == 6
    assert trace.tensors["1.weight"][0] == trace.tensors["0.weight"][0]


def test_squeeze_and_excite_scales_the_axis_that_it_reads(verify: Verify) -> None:
    def excite(self: Any, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))

    gate = Net(excite, down=nn.Conv2d(8, 4, 1), up=nn.Conv2d(4, 8, 1))
    net = nn.Sequential(nn.Conv2d(3, 8, 3), gate, nn.Conv2d(8, 2, 1))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert sizes(trace) == {"0.width": 8, "1.down.width": 4}
    assert trace.blocks == ()


def test_chunk_halves_an_axis_into_parts(verify: Verify) -> None:
    def gated(self: Any, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, dim=-1)
        return self.b(a * torch.sigmoid(b))

    net = Net(gated, a=nn.Linear(3, 16), b=nn.Linear(8, 2))
    trace = verify(net, (torch.randn(2, 3),))
    (rows,) = trace.tensors["a.weight"][0]
    assert isinstance(rows, Concat)
    assert rows.parts[0] == rows.parts[1] == trace.tensors["b.weight"][1]
    assert sizes(trace) == {"a.width": 8}


def test_chunks_stay_equally_long(verify: Verify) -> None:
    def halves(self: Any, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, dim=-1)
        return self.b(a) + self.c(b)

    net = Net(halves, a=nn.Linear(3, 10), b=nn.Linear(5, 2), c=nn.Linear(5, 2))
    assert sizes(verify(net, (torch.randn(2, 3),))) == {"a.width": 5}


def test_chunks_of_unequal_sizes_stay_whole(verify: Verify) -> None:
    def halves(self: Any, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, dim=-1)
        return self.b(a) + self.c(b)

    net = Net(halves, a=nn.Linear(3, 9), b=nn.Linear(5, 2), c=nn.Linear(4, 2))
    assert verify(net, (torch.randn(2, 3),)).axes == ()


def test_a_gated_linear_unit_halves_its_input(verify: Verify) -> None:
    net = nn.Sequential(nn.Linear(3, 12), nn.GLU(), nn.Linear(6, 2))
    assert sizes(verify(net, (torch.randn(2, 3),))) == {"0.width": 6}


def test_split_sizes_of_a_module_follow_the_parts(verify: Verify) -> None:
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sections = [4, 6]
            self.a, self.b, self.c = nn.Linear(3, 10), nn.Linear(4, 2), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.a(x).split(self.sections, dim=-1)
            return self.b(left) + self.c(right)

    trace = verify(Split(), (torch.randn(2, 3),))
    assert trace.attributes[Attribute("", "sections", 0)] == trace.tensors["b.weight"][1]
    assert trace.attributes[Attribute("", "sections", 1)] == trace.tensors["c.weight"][1]


def test_a_literal_in_a_view_freezes_what_it_sizes() -> None:
    net = Net(
        lambda self, x: self.b(self.a(x).view(2, 4, 2).sum(1)),
        a=nn.Linear(3, 8),
        b=nn.Linear(2, 2),
    )
    trace = trace_model(net, (torch.randn(2, 3),))
    assert trace.axes == ()
    assert ("a.weight", 0, "sized by a constant in the code") in trace.frozen


def test_channel_shuffle_keeps_its_channels_elastic(verify: Verify) -> None:
    def shuffle(self: Any, x: Tensor) -> Tensor:
        x = self.a(x)
        batch, channels, height, width = x.shape
        x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return self.b(x.view(batch, channels, height, width))

    net = Net(shuffle, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 2, 1))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    (each,) = trace.axes
    assert each.size == 4
    assert [axis.size for axis in trace.tensors["b.weight"][1]] == [4, 2]
    assert [axis.size for axis in trace.tensors["a.weight"][0]] == [2, 4]


class Attention(nn.Module):
    """Self-attention as users write it: `fused` is one projection for queries, keys, values."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, 3
        inner = self.num_heads * self.head_dim
        self.fused = fused
        if fused:
            self.qkv = nn.Linear(10, 3 * inner)
        else:
            self.q, self.k, self.v = (nn.Linear(10, inner) for _ in range(3))
        self.out = nn.Linear(inner, 10)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        shape = batch, tokens, self.num_heads, self.head_dim
        if self.fused:
            q, k, v = self.qkv(x).reshape(batch, tokens, 3, *shape[2:]).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(mixed.reshape(batch, tokens, -1))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_has_heads_and_their_size(verify: Verify, fused: bool) -> None:
    net = nn.Sequential(nn.Linear(5, 10), Attention(fused=fused), nn.Linear(10, 2))
    trace = verify(net, (torch.randn(2, 7, 5),))
    assert sizes(trace) == {
        "0.width": 10,
        "1.num_heads": 4,
        "1.head_dim": 3,
        "1.out.width": 10,
    }
    heads = trace.attributes[Attribute("1", "num_heads")]
    each = trace.attributes[Attribute("1", "head_dim")]
    assert trace.tensors["1.out.weight"][1] == (*heads, *each)


def test_grouped_queries_share_the_axes_of_their_keys(verify: Verify) -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.shared, self.size = 6, 2, 4
            self.q, self.k, self.v = nn.Linear(5, 24), nn.Linear(5, 8), nn.Linear(5, 8)
            self.out = nn.Linear(24, 3)

        def forward(self, x: Tensor) -> Tensor:
            batch, tokens, _ = x.shape
            q = self.q(x).view(batch, tokens, self.heads, self.size).transpose(1, 2)
            k = self.k(x).view(batch, tokens, self.shared, self.size).transpose(1, 2)
            v = self.v(x).view(batch, tokens, self.shared, self.size).transpose(1, 2)
            mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            return self.out(mixed.transpose(1, 2).reshape(batch, tokens, self.heads * self.size))

    trace = verify(Grouped(), (torch.randn(2, 3, 5),))
    shared = trace.attributes[Attribute("", "shared")]
    assert trace.attributes[Attribute("", "heads")][:1] == shared


@pytest.mark.parametrize("separate", [True, False])
def test_multihead_attention_of_pytorch(verify: Verify, separate: bool) -> None:
    kwargs = {"kdim": 6, "vdim": 7} if separate else {}
    net = Net(
        lambda self, x, k, v: self.out(
            self.attend(self.x(x), self.k(k), self.v(v), need_weights=False)[0]
        ),
        x=nn.Linear(3, 8),
        k=nn.Linear(3, 6 if separate else 8),
        v=nn.Linear(3, 7 if separate else 8),
        attend=nn.MultiheadAttention(8, 2, batch_first=True, **kwargs),
        out=nn.Linear(8, 2),
    )
    trace = verify(net, tuple(torch.randn(3, 2, 5, 3).unbind()))
    assert length(trace.attributes[Attribute("attend", "num_heads")]) == 2
    assert length(trace.attributes[Attribute("attend", "embed_dim")]) == 8
    kdim = trace.attributes[Attribute("attend", "kdim")]
    assert (kdim == trace.attributes[Attribute("attend", "embed_dim")]) is not separate


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("two_ways", [False, True])
def test_recurrent_networks_have_one_hidden_axis(
    verify: Verify, kind: type[nn.RNNBase], two_ways: bool
) -> None:
    net = Net(
        lambda self, x: self.b(self.rnn(self.a(x))[0]),
        a=nn.Linear(3, 5),
        rnn=kind(5, 6, num_layers=2, batch_first=True, bidirectional=two_ways),
        b=nn.Linear(12 if two_ways else 6, 2),
    )
    trace = verify(net, (torch.randn(2, 4, 3),))
    assert sizes(trace) == {"a.width": 5, "rnn.hidden_size": 6}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_an_lstm_with_projections(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.b(self.rnn(x)[0]),
        rnn=nn.LSTM(3, 6, num_layers=2, proj_size=4),
        b=nn.Linear(4, 2),
    )
    trace = verify(net, (torch.randn(5, 2, 3),))
    assert sizes(trace) == {"rnn.hidden_size": 6, "rnn.proj_size": 4}


def test_a_tied_weight_ties_what_it_is_used_for(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.head(torch.tanh(self.inner(self.words(x)))),
        words=nn.Embedding(11, 6),
        inner=nn.Linear(6, 6),
        head=nn.Linear(6, 11, bias=False),
    )
    net.head.weight = net.words.weight
    trace = verify(net, (torch.randint(11, (2, 4)),))
    assert sizes(trace) == {"words.width": 6}
    assert trace.tensors["head.weight"] == trace.tensors["words.weight"]
    assert trace.attributes[Attribute("words", "embedding_dim")] == (trace.axes[0],)


def test_a_module_that_is_called_twice_counts_twice(verify: Verify) -> None:
    shared = Net(lambda self, x: x + torch.tanh(self.a(x)), a=nn.Linear(6, 6))
    net = nn.Sequential(nn.Linear(3, 6), shared, shared, nn.Linear(6, 2))
    trace = verify(net, (torch.randn(2, 3),))
    assert trace.calls["1"] == 2
    assert sizes(trace) == {"0.width": 6}
    assert trace.tensors["2.a.weight"] == trace.tensors["1.a.weight"]


def test_norms_follow_what_they_normalize(verify: Verify) -> None:
    net = nn.Sequential(
        nn.Conv1d(3, 12, 1), nn.GroupNorm(4, 12), nn.ReLU(), nn.Conv1d(12, 8, 1),
        nn.GroupNorm(8, 8), nn.Conv1d(8, 6, 1), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1),
    )  # fmt: skip
    trace = verify(net, (torch.randn(2, 3, 5),))
    assert Attribute("1", "num_groups") not in trace.attributes
    assert length(trace.attributes[Attribute("1", "num_channels")]) == 12
    assert (
        trace.attributes[Attribute("4", "num_groups")]
        == (trace.attributes[Attribute("4", "num_channels")])
    )


@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_shapes_follow_even_without_weights(verify: Verify, affine: bool) -> None:
    net = nn.Sequential(
        nn.Linear(3, 6),
        nn.LayerNorm(6, elementwise_affine=affine),
        nn.Linear(6, 4),
        nn.RMSNorm(4, elementwise_affine=affine),
        nn.Linear(4, 2),
    )
    trace = verify(net, (torch.randn(2, 3),))
    assert trace.attributes[Attribute("1", "normalized_shape", 0)] == (trace.axes[0],)
    assert trace.attributes[Attribute("3", "normalized_shape", 0)] == (trace.axes[1],)


@pytest.mark.parametrize("operation", [torch.cumsum, torch.flip, torch.roll])
def test_an_operation_that_depends_on_the_order_freezes(
    verify: Verify, operation: Callable[..., Tensor]
) -> None:
    arguments = {torch.cumsum: (1,), torch.flip: ((1,),), torch.roll: (1, 1)}[operation]
    net = Net(
        lambda self, x: self.b(operation(self.a(x), *arguments)),
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
    )
    assert verify(net, (torch.randn(2, 3),)).axes == ()


def test_padded_channels_are_a_concatenation(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.c(functional.pad(self.a(x), (0, 0, 0, 0, 2, 0)) + self.b(x)),
        a=nn.Conv2d(3, 4, 1),
        b=nn.Conv2d(3, 6, 1),
        c=nn.Conv2d(6, 2, 1),
    )
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert [axis.size for axis in trace.axes] == [4]


def test_pixel_shuffle_freezes_its_block(verify: Verify) -> None:
    net = nn.Sequential(nn.Conv2d(3, 20, 1), nn.PixelShuffle(2), nn.Conv2d(5, 2, 3))
    trace = verify(net, (torch.randn(2, 3, 4, 4),))
    assert [axis.size for axis in trace.axes] == [5]


def test_an_unknown_operation_freezes_and_is_reported(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.b(torch.linalg.matrix_exp(self.a(x))),
        a=nn.Linear(4, 4),
        b=nn.Linear(4, 2),
    )
    trace = verify(nn.Sequential(nn.Linear(4, 4), net), (torch.randn(2, 4, 4),))
    assert trace.unknown == {"aten.linalg_matrix_exp": "1"}
    assert any("aten.linalg_matrix_exp in 1" in item.reason for item in trace.frozen)


def test_an_unused_parameter_stays_whole() -> None:
    net = Net(lambda self, x: self.a(x), a=nn.Linear(3, 2), unused=nn.Linear(5, 6))
    trace = trace_model(net, (torch.randn(2, 3),))
    assert ("unused.weight", 0, "unused.weight takes no part in the forward pass") in trace.frozen


def test_a_head_of_training_follows_the_trunk() -> None:
    def forward(self: Any, x: Tensor) -> Any:
        x = self.trunk(x)
        return (self.head(x), self.helper(self.norm(x))) if self.training else self.head(x)

    net = Net(
        forward,
        trunk=nn.Linear(3, 6),
        head=nn.Linear(6, 2),
        norm=nn.BatchNorm1d(6),
        helper=nn.Linear(6, 2),
    )
    trace = trace_model(net, (torch.randn(1, 3),))
    assert trace.tensors["helper.weight"][1] == trace.tensors["trunk.weight"][0]
    assert "helper" not in trace.calls


def test_nested_inputs_and_outputs(verify: Verify) -> None:
    net = Net(
        lambda self, batch, scale: {"y": [self.b(self.a(batch["x"])) * scale], "n": 1},
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
    )
    trace = verify(net, ({"x": torch.randn(2, 3)}, 2.0))
    assert trace.outputs == {"y": [(2, 2)], "n": 1}
    assert sizes(trace) == {"a.width": 6}


def test_keyword_inputs(verify: Verify) -> None:
    class Keywords(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, *, x: Tensor) -> Tensor:
            return self.b(self.a(x))

    assert sizes(verify(Keywords(), {"x": torch.randn(2, 3)})) == {"a.width": 6}


def test_a_branch_on_values_is_followed_for_the_example(verify: Verify) -> None:
    net = Net(
        lambda self, x: self.b(self.a(x)) if x.sum() > 0 else x[:, :2],
        a=nn.Linear(3, 6),
        b=nn.Linear(6, 2),
    )
    trace = verify(net, (torch.ones(2, 3),))
    assert trace.fallback is not None
    assert "meta" in trace.fallback
    assert sizes(trace) == {"a.width": 6}


def test_a_model_that_raises_gives_one_clear_line() -> None:
    net = nn.Sequential(nn.Linear(3, 6), nn.Sequential(nn.Linear(5, 2)))
    with pytest.raises(TraceError) as caught:
        trace_model(net, (torch.randn(2, 3),))
    message = str(caught.value)
    assert "'1.0' (Linear)" in message
    assert "mat1 and mat2" in message
    assert "\n" not in message


def test_a_lazy_model_is_refused() -> None:
    with pytest.raises(TraceError, match="call the model once"):
        trace_model(nn.Sequential(nn.LazyLinear(3)), (torch.randn(2, 3),))


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    net = nn.Linear(3, 2)
    net.source = (item for item in ())
    with pytest.raises(TraceError, match="cannot be copied"):
        trace_model(net, (torch.randn(2, 3),))


@pytest.mark.parametrize("values", [False, True], ids=["shapes", "values"])
def test_the_model_is_left_as_it_was(values: bool) -> None:
    net = nn.Sequential(
        nn.Linear(5, 10),
        Attention(fused=True),
        Net(lambda self, x: self.norm(x.mean(1)), norm=nn.BatchNorm1d(10)),
        nn.Dropout(),
        nn.Linear(10, 2),
        Net(lambda self, x: x if not values or x.sum() > -1e9 else -x),
    )
    net.train()
    inputs = (torch.randn(2, 7, 5),)
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    kept, given = {id(tensor) for tensor in net.parameters()}, inputs[0].clone()
    trace = trace_model(net, inputs)
    assert (trace.fallback is not None) is values
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(inputs[0], given)
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    assert {id(tensor) for tensor in net.parameters()} == kept
    assert all(module.training for module in net.modules())
    assert all(not module._forward_hooks for module in net.modules())
    assert type(net[1].num_heads) is int
    assert torch.overrides._len_torch_function_stack() == 0
    assert torch.is_grad_enabled()


def test_axes_have_unique_names() -> None:
    net = nn.Sequential(nn.Linear(3, 24), nn.Unflatten(1, (4, 6)), nn.Linear(6, 5), nn.Linear(5, 2))
    trace = trace_model(net, (torch.randn(2, 3),))
    names = [axis.name for axis in trace.axes]
    assert len(set(names)) == len(names)


def test_slices_by_an_attribute_cut_where_the_parts_meet(verify: Verify) -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = 4
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(3, 6), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            joined = torch.cat([self.a(x), self.b(x)], -1)
            return self.c(joined[:, : self.first]) + joined[..., self.first :].sum()

    trace = verify(Cut(), (torch.randn(2, 3),))
    assert trace.attributes[Attribute("", "first")] == trace.tensors["a.weight"][0]


def test_equal_attributes_become_one_axis(verify: Verify) -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width = 6
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            assert x.shape[-1] == self.width
            return self.b(x)

    trace = verify(Checked(), (torch.randn(2, 3),))
    assert trace.attributes[Attribute("", "width")] == (trace.axes[0],)


def test_a_comparison_with_a_literal_freezes() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            assert x.shape[-1] == 6
            return self.b(x)

    trace = trace_model(Checked(), (torch.randn(2, 3),))
    assert ("a.weight", 0, "compared with a constant in the code") in trace.frozen
