"""Patterns of models of language, sound and several of them: axes, and that permuting is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manynet import elastic
from manynet.elastic._trace import Trace
from networks import Net

Verify = Callable[..., Trace]
SEQUENCE = torch.Size((2, 5, 6))


def axes_of(trace: Trace) -> list[int]:
    return sorted(axis.size for axis in trace.axes)


def images_in_a_text(self: Any, x: Tensor, images: Tensor) -> Tensor:
    x = self.text(x)
    mask = torch.tensor([False, True, True, False, True])[None, :, None].expand_as(x)
    return self.last(x.masked_scatter(mask, self.image(images)))


def test_the_width_of_images_written_into_a_text_is_one_axis(verify: Verify) -> None:
    net = Net(images_in_a_text, text=nn.Linear(6, 8), image=nn.Linear(4, 8), last=nn.Linear(8, 3))
    trace = verify(net, (torch.randn(SEQUENCE), torch.randn(6, 4)))
    assert axes_of(trace) == [8]
    assert not trace.unknown


def scattered_by_value(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    return self.last(x.masked_scatter(x > 0, self.other(torch.ones(2, 5, 6))))


def test_a_mask_that_differs_along_the_width_freezes_it(verify: Verify) -> None:
    net = Net(
        scattered_by_value, first=nn.Linear(6, 8), other=nn.Linear(6, 8), last=nn.Linear(8, 3)
    )
    assert axes_of(verify(net, (torch.randn(SEQUENCE),))) == []


def sinusoids(self: Any, x: Tensor) -> Tensor:
    steps = torch.arange(4, dtype=torch.float32) / 3
    angles = 0.5 / 100**steps
    return self.first(x) + self.place(torch.cat([angles.cos(), angles.sin()]))


def test_numbers_in_order_size_nothing_elastic(verify: Verify) -> None:
    net = nn.Sequential(
        Net(sinusoids, first=nn.Linear(6, 12), place=nn.Linear(8, 12)), nn.Linear(12, 3)
    )
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [12]
    assert trace.tensors["0.place.weight"][1][0].frozen == "numbered in order"


KEPT = torch.linspace(0, 1, 8)


def shifted_by_a_kept_tensor(self: Any, x: Tensor) -> Tensor:
    return self.last(self.first(x) + KEPT.to(x.device))


def test_a_tensor_that_the_code_keeps_freezes_what_it_meets(verify: Verify) -> None:
    net = Net(shifted_by_a_kept_tensor, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == []
    assert "the code holds" in str(trace.tensors["first.bias"][0][0].frozen)


def squeezed_in_place(self: Any, x: Tensor) -> Tensor:
    return self.last(self.first(x).unsqueeze(1).squeeze_(1))


def test_a_dimension_squeezed_in_place_is_gone(verify: Verify) -> None:
    net = Net(squeezed_in_place, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [8]
    assert not trace.unknown


class SharedKeys(nn.Module):
    """Attention with one head of keys; `num_key_value_groups` is read only where it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.num_key_value_groups, self.head_dim = 4, 6
        self.q_proj, self.k_proj = nn.Linear(6, 24), nn.Linear(6, 6)
        self.v_proj, self.o_proj = nn.Linear(6, 6), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads read."""
        query, key, value = (
            layer(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        if torch.compiler.is_exporting():
            key, value = (t.repeat_interleave(self.num_key_value_groups, 1) for t in (key, value))
        read = torch.softmax(query @ key.transpose(2, 3), -1) @ value
        return self.o_proj(read.transpose(1, 2).flatten(2))


def test_the_number_of_queries_for_the_one_head_of_keys_is_followed(verify: Verify) -> None:
    net = nn.Sequential(SharedKeys(), nn.Linear(6, 3))
    inputs = (torch.randn(SEQUENCE),)
    trace = verify(net, inputs)
    followed = {a.name: dim[0].size for a, dim in trace.attributes.items()}
    assert (followed["num_key_value_groups"], followed["head_dim"]) == (4, 6)
    member = elastic(net, inputs, width=(0.5, 1.0)).extract({"0.num_key_value_groups": 2})
    exported = torch.export.export(member, inputs).module()
    torch.testing.assert_close(exported(*inputs), member(*inputs))


class BorrowedKeys(nn.Module):
    """Attention that reads the keys of another layer: of one head, for all its queries."""

    def __init__(self) -> None:
        super().__init__()
        self.num_key_value_groups = 4
        self.q_proj, self.o_proj = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return what the heads read."""
        query = self.q_proj(x).view(*x.shape[:2], -1, 6).transpose(1, 2)
        if torch.compiler.is_exporting():
            key, value = (t.repeat_interleave(self.num_key_value_groups, 1) for t in (key, value))
        read = torch.softmax(query @ key.transpose(2, 3), -1) @ value
        return self.o_proj(read.transpose(1, 2).flatten(2))


def lending(self: Any, x: Tensor) -> Tensor:
    return self.last(self.layer(x, self.key(x)[:, None], self.value(x)[:, None]))


def test_the_number_of_queries_for_the_keys_of_another_layer_is_followed(verify: Verify) -> None:
    parts = {"key": nn.Linear(6, 6), "value": nn.Linear(6, 6), "last": nn.Linear(6, 3)}
    net, inputs = Net(lending, layer=BorrowedKeys(), **parts), (torch.randn(SEQUENCE),)
    trace = verify(net, inputs)
    followed = {a.name: dim[0].size for a, dim in trace.attributes.items()}
    assert followed["num_key_value_groups"] == 4
    family = elastic(net, inputs, width=(0.5, 1.0))
    member = family.extract(family.space.smallest)
    exported = torch.export.export(member, inputs).module()
    torch.testing.assert_close(exported(*inputs), member(*inputs))


def biased_attention(self: Any, x: Tensor) -> Tensor:
    query, key, value = (
        layer(x).view(*x.shape[:2], -1, 3).transpose(1, 2)
        for layer in (self.query, self.key, self.value)
    )
    bias = self.bias(x[:, :, None] - x[:, None]).permute(0, 3, 1, 2)
    read = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    return self.last(read.transpose(1, 2).flatten(2))


def test_a_bias_of_attention_has_its_heads(verify: Verify) -> None:
    net = Net(
        biased_attention,
        **{name: nn.Linear(6, 12) for name in ("query", "key", "value")},
        bias=nn.Linear(6, 4),
        last=nn.Linear(12, 3),
    )
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert trace.tensors["bias.weight"][0] == trace.tensors["query.weight"][0][:1]


class GatedQueries(SharedKeys):
    """The same with a gate beside each head's query, in one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(6, 48)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the heads read, gated."""
        query, gate = self.q_proj(x).view(*x.shape[:2], -1, 2 * self.head_dim).chunk(2, -1)
        query = query.transpose(1, 2)
        key, value = (
            layer(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)
            for layer in (self.k_proj, self.v_proj)
        )
        read = torch.softmax(query @ key.transpose(2, 3), -1) @ value
        return self.o_proj((read.transpose(1, 2) * gate.sigmoid()).flatten(2))


def test_gated_queries_for_the_one_head_of_keys_are_counted(verify: Verify) -> None:
    trace = verify(nn.Sequential(GatedQueries(), nn.Linear(6, 3)), (torch.randn(SEQUENCE),))
    followed = {a.name: dim[0].size for a, dim in trace.attributes.items()}
    assert followed["num_key_value_groups"] == 4


def changed_in_place(self: Any, x: Tensor) -> Tensor:
    return self.last(self.first(x).abs_().sqrt_())


def test_element_wise_operations_in_place_are_known(verify: Verify) -> None:
    net = Net(changed_in_place, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [8]
    assert not trace.unknown


def solved(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    triangle = torch.tril(x @ x.transpose(1, 2) / 100) + 3 * torch.eye(5)
    return self.last(torch.linalg.solve_triangular(triangle, x, upper=False))


def test_what_a_triangle_is_solved_for_keeps_its_width(verify: Verify) -> None:
    net = Net(solved, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [8]
    assert not trace.unknown


class StateSpace(nn.Module):
    """The projections of Mamba 2: one for all, cut into parts by computed sizes."""

    def __init__(self, width: int = 6, heads: int = 4, size: int = 3, states: int = 5) -> None:
        super().__init__()
        self.inner, self.heads, self.size, self.groups = heads * size, heads, size, 2
        self.states = states
        self.mixed = self.inner + 2 * self.groups * states
        self.project = nn.Linear(width, self.inner + self.mixed + heads)
        self.last = nn.Linear(self.inner, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return a mix of every head by its group's states."""
        x = self.project(x)
        rest = (x.shape[-1] - self.inner - self.mixed - self.heads) // 2
        _, _, gate, mixed, step = x.split([rest, rest, self.inner, self.mixed, self.heads], -1)
        states = self.groups * self.states
        y, into, out = mixed.split([self.inner, states, states], -1)
        y = y.reshape(*y.shape[:2], -1, self.size) * step[..., None]
        into = into.reshape(*into.shape[:2], -1, self.states)
        out = out.reshape(*out.shape[:2], -1, self.states)
        weight = (into * out).sum(-1).mean(-1)[..., None, None]
        return self.last((weight * y).flatten(2) * gate)


def test_sizes_that_are_computed_from_unmet_numbers_are_followed(verify: Verify) -> None:
    trace = verify(StateSpace(), (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [2, 3, 4, 5]
    names = {attribute.name for attribute in trace.attributes}
    assert {"inner", "mixed", "heads", "size", "states"} <= names


def joined_to_no_tokens(self: Any, x: Tensor) -> Tensor:
    extra = self.extra.expand(len(x), -1, -1)
    return self.last(torch.cat([extra, self.first(x)], 1))


def test_a_part_without_positions_has_the_width_of_the_others(verify: Verify) -> None:
    net = Net(joined_to_no_tokens, first=nn.Linear(6, 8), last=nn.Linear(8, 3))
    net.extra = nn.Parameter(torch.empty(1, 0, 8))
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [8]
    assert trace.tensors["extra"][2] == trace.tensors["first.weight"][0]


class MaskedHeads(nn.Module):
    """Attention whose mask is repeated for every head by the module around it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 4
        self.inner = nn.Module()
        self.inner.heads = 4
        self.inner.query, self.inner.key = nn.Linear(6, 12), nn.Linear(6, 12)
        self.last = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        mask = x.new_zeros(len(x), 1, 5, 5).repeat(1, self.count, 1, 1)
        query, key = (
            part(x).unflatten(-1, (self.inner.heads, 3)).transpose(1, 2)
            for part in (self.inner.query, self.inner.key)
        )
        return self.last((query @ key.transpose(2, 3) + mask).mean(1))


def test_how_often_a_mask_is_repeated_follows_the_heads(verify: Verify) -> None:
    trace = verify(MaskedHeads(), (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [4]
    followed = {attribute.path: dim for attribute, dim in trace.attributes.items()}
    assert followed[""] == followed["inner"]


def test_repeated_positions_are_counted_by_their_outer_factor(verify: Verify) -> None:
    def tiled(self: Any, x: Tensor) -> Tensor:
        return self.last(self.first(x).repeat(1, 1, self.times))

    net = Net(tiled, first=nn.Linear(6, 8), last=nn.Linear(16, 3))
    net.times = 2
    trace = verify(net, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [8]


class SeparateProjections(nn.Module):
    """Calls PyTorch's attention as a function, with projections of its own, as WavLM does."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.heads = 8, 2
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).transpose(0, 1)
        y, _ = torch.nn.functional.multi_head_attention_forward(
            x,
            x,
            x,
            self.width,
            self.heads,
            torch.empty([0]),
            torch.cat((self.q.bias, self.k.bias, self.v.bias)),
            None,
            None,
            False,
            0.0,
            self.out.weight,
            self.out.bias,
            use_separate_proj_weight=True,
            q_proj_weight=self.q.weight,
            k_proj_weight=self.k.weight,
            v_proj_weight=self.v.weight,
        )
        return self.last(y.transpose(0, 1))


def test_attention_as_a_function_ties_its_projections_to_what_comes_in(verify: Verify) -> None:
    model = SeparateProjections()
    trace = verify(model, (torch.randn(SEQUENCE),))
    assert axes_of(trace) == [2, 4, 8]  # heads, their size, what comes out
    family = elastic(model, torch.randn(SEQUENCE), width=(0.5, 1.0))
    assert family.at(family.space.smallest)(torch.randn(SEQUENCE)).shape == (2, 5, 3)
