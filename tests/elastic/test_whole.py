"""What stays whole, and which sizes are left out, because the model's code relies on them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from manynet import elastic
from manynet.elastic._trace import trace_model
from manynet.errors import InputError, TraceError

INPUT = torch.Size((2, 5, 6))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        inner = torch.relu(self.up(x))
        return x + self.down(inner if extra is None else inner * extra)


class Stack(nn.Module):
    """Blocks in a list, and a config that says how many they are."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_layers=4)
        self.first = nn.Linear(6, 8)
        self.layers = nn.ModuleList(Block(8) for _ in range(4))
        self.last = nn.Linear(8, 3)


class TableForEachBlock(Stack):
    """Each block reads its own part of one table, as in Gemma 3n."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(6, 64)

    def forward(self, x: Tensor) -> Tensor:
        table = self.table(x).reshape(*x.shape[:2], self.config.num_layers, 16)
        y = self.first(x)
        for i, layer in enumerate(self.layers):
            y = layer(y, table[:, :, i])
        return self.last(y)


def test_a_list_whose_length_sizes_a_tensor_keeps_its_blocks() -> None:
    model, x = TableForEachBlock(), torch.randn(INPUT)
    trace = trace_model(model, (x,))
    assert trace.blocks == ()
    assert "one for each block of a list" in {note.reason for note in trace.frozen}
    family = elastic(model, x)
    assert not any("depth" in choice.name for choice in family.space.choices)
    assert family.at(family.space.smallest)(x).shape == (2, 5, 3)
    assert model.config.num_layers == 4
    assert type(model.config.num_layers) is int


class PicksAHiddenState(Stack):
    """Reads the result of a block by a number that lies in a table, as decoders of images do."""

    def __init__(self) -> None:
        super().__init__()
        self.places = {"deep": 3}

    def forward(self, x: Tensor) -> Tensor:
        found = [self.first(x)]
        for layer in self.layers:
            found.append(layer(found[-1]))
        return self.last(found[self.places["deep"]] + found[-1])


def test_what_the_code_fails_without_stays_whole_and_is_named() -> None:
    model, x = PicksAHiddenState(), torch.randn(INPUT)
    family = elastic(model, x)
    assert not any("depth" in choice.name for choice in family.space.choices)
    assert len(family.space.choices) == 5
    (note,) = [note for note in family.report().fixed if note.name == "layers.depth"]
    assert "IndexError" in note.detail
    with torch.no_grad():
        assert torch.allclose(family.at(family.space.largest)(x), model(x), atol=1e-6)
        for seed in range(3):
            arch = family.space.sample(np.random.default_rng(seed))
            assert torch.allclose(family.at(arch)(x), family.extract(arch)(x), atol=1e-6)


class Demanding(nn.Module):
    """Its code fails where its first two layers have fewer units together than it demands."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.a.out_features + self.b.out_features < self.least:
            raise ValueError("too narrow")
        return self.c(self.b(self.a(x)))


def test_of_two_that_fail_together_the_second_stays_whole() -> None:
    model, x = Demanding(8), torch.randn(INPUT)
    family = elastic(model, x)
    assert [choice.name for choice in family.space.choices] == ["a.width"]
    (note,) = [note for note in family.report().fixed if note.name == "b.width"]
    assert "too narrow" in note.detail
    assert family.at(family.space.smallest)(x).shape == (2, 5, 3)


def test_where_every_member_fails_the_error_names_the_failure() -> None:
    with pytest.raises(TraceError, match=r"smallest member of Demanding .*too narrow.*keep="):
        elastic(Demanding(16), torch.randn(INPUT))


class Sampling(nn.Module):
    """Adds noise to what it computes, as autoencoders that sample do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mean, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean(torch.relu(self.first(x)))
        return self.last(mean + torch.randn_like(mean))


def test_what_random_numbers_are_drawn_along_stays_whole() -> None:
    model, x = Sampling(), torch.randn(INPUT)
    trace = trace_model(model, (x,))
    frozen = {(note.tensor, note.dim): note.reason for note in trace.frozen}
    assert frozen["mean.weight", 0] == "random numbers are drawn along it"
    assert [axis.name for axis in trace.axes] == ["first.width"]


class Twins(nn.Module):
    """One list of blocks is gone through by the numbers of another, as by a shared cache."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.left = nn.ModuleList(Block(8) for _ in range(3))
        self.right = nn.ModuleList(Block(8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        seen = []
        for block in self.left:
            y = block(y, None)
            seen.append(y)
        for i, block in enumerate(self.right):
            y = block(y + seen[i], None)
        return self.last(y)


def test_a_list_that_another_goes_through_by_number_stays_whole() -> None:
    model, x = Twins(), torch.randn(INPUT)
    family = elastic(model, x)
    depths = [choice.name for choice in family.space.choices if "depth" in choice.name]
    assert depths == ["right.depth"]
    (note,) = [note for note in family.report().fixed if note.name == "left.depth"]
    assert "IndexError" in note.detail


class Stage(nn.Module):
    """Widens where its code finds two of its numbers to differ, as in Hiera."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.inner, self.outer = inner, outer
        self.layer = nn.Linear(inner, outer)
        if inner != outer:
            self.widen = nn.Linear(inner, outer)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.inner != self.outer:
            x = self.widen(x).view(*y.shape[:2], self.outer)
        return x + y


def test_an_axis_never_gets_the_length_that_the_code_tells_it_apart_from() -> None:
    model, x = nn.Sequential(Stage(6, 12), nn.Linear(12, 3)), torch.randn(INPUT)
    family = elastic(model, x, width=(0.25, 0.5, 1.0))
    (choice,) = family.space.choices
    assert choice.values == (3, 12)
    for value in choice.values:
        assert family.at({choice.name: value})(x).shape == (2, 5, 3)


class InParts(nn.Module):
    """Adds to the first token and to the others apart, and joins them, as in TimeSformer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = Block(width)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        first, rest = x[:, :1], x[:, 1:]
        rest = rest + self.inner.down(torch.relu(self.inner.up(rest))) * scale
        return torch.cat((first, rest), 1)


def test_a_block_that_joins_what_it_has_cut_apart_can_be_left_out() -> None:
    class Joined(Stack):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            for layer in self.layers:
                x = layer(x)
            return self.last(x)

    model = Joined()
    model.layers = nn.ModuleList(InParts(8) for _ in range(4))
    family = elastic(model, torch.randn(INPUT))
    depths = {c.name: c.values for c in family.space.choices if c.name.endswith("depth")}
    assert depths == {"layers.depth": (1, 2, 3, 4)}


class Rotated(nn.Module):
    """Attention whose queries and keys are rotated by a table as long as a head."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 4
        self.q, self.k, self.v = (nn.Linear(6, 12) for _ in range(3))
        self.last = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1], device=x.device)[:, None]
        angles = steps / 10.0 ** torch.arange(2, device=x.device)
        table = torch.cat([angles, angles], -1)
        q, k, v = (
            part(x).view(*x.shape[:2], -1, self.size).transpose(1, 2)
            for part in (self.q, self.k, self.v)
        )
        q, k = (
            t * table.cos() + torch.cat((-t[..., 2:], t[..., :2]), -1) * table.sin() for t in (q, k)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(y.transpose(1, 2).flatten(2))


def test_the_report_says_why_a_head_keeps_its_size() -> None:
    family = elastic(Rotated(), torch.randn(INPUT))
    assert {choice.values[-1] for choice in family.space.choices} == {3}
    notes = {note.name: note.detail for note in family.report().fixed}
    (why,) = [name for name in notes if name.startswith("groups keep their 4 positions: ")]
    assert "q.weight" in notes[why]
    assert "k.weight" in notes[why]


class Positioned(nn.Module):
    """A table of 40 positions, of which an input reads as many as it is long."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.positions = nn.Parameter(torch.randn(1, 40, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x) + self.positions[:, : x.shape[1]]))


def test_positions_that_these_inputs_do_not_reach_stay() -> None:
    family = elastic(Positioned(), torch.randn(INPUT))
    assert [choice.name for choice in family.space.choices] == ["first.width"]
    longest = torch.randn(2, 40, 6)
    assert family.at(family.space.smallest)(longest).shape == (2, 40, 3)


def test_the_report_says_why_no_block_can_be_left_out() -> None:
    def notes(model: nn.Module, **options: Any) -> list[str]:
        report = elastic(model, torch.randn(INPUT), **options).report()
        return [note.detail for note in report.fixed if note.name == "depth"]

    stack = nn.Sequential(nn.Linear(6, 8), Block(8), nn.Linear(8, 3))
    assert notes(stack) == notes(stack, depth=False) == []
    assert notes(stack, keep=("1",)) == ["no block to leave out: kept"]
    (few,) = notes(stack, depth=(1.0,))
    assert "these shares leave none out" in few
    without = ["no block to leave out: no module adds its own input to its result"]
    assert notes(Positioned()) == without


class Attending(nn.Module):
    """PyTorch's attention, whose heads make up the width of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        return self.last(y + self.attend(y, y, y, need_weights=False)[0])


class Grouped(nn.Module):
    """A grouped convolution, whose weight makes its groups a factor of the width of its norm."""

    def __init__(self) -> None:
        super().__init__()
        self.cardinality = 4
        self.first, self.norm = nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)
        self.weight = nn.Parameter(torch.randn(16, 4, 3, 3))
        self.conv, self.last = nn.Conv2d(16, 16, 3, groups=4), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        y = self.conv(y) + nn.functional.conv2d(y, self.weight, groups=self.cardinality)
        return self.last(y)


def test_the_report_says_which_choices_only_the_code_ties() -> None:
    report = elastic(Attending(), torch.randn(INPUT)).report()
    (heads,) = [note.detail for note in report.elastic if note.name == "attend.num_heads"]
    tie = (
        ", times attend.head_dim the width of norm.weight, norm.bias: "
        "the code of MultiheadAttention ties them; free them with free=True"
    )
    assert heads.endswith(tie)
    for model, inputs in ((Rotated(), torch.randn(INPUT)), (Grouped(), torch.randn(1, 3, 8, 8))):
        assert not any("ties" in note.detail for note in elastic(model, inputs).report().elastic)


def perceptron() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def test_one_pattern_to_keep_may_stand_alone() -> None:
    """Its characters were once taken for patterns."""
    family = elastic(perceptron(), torch.zeros(1, 4), keep="0*")
    assert [choice.name for choice in family.space.choices] == ["2.width"]


def test_a_pattern_to_keep_that_fits_nothing_is_told() -> None:
    with pytest.raises(
        InputError, match=r"keep: the pattern '2\.widht' fits no module and no axis"
    ):
        elastic(perceptron(), torch.zeros(1, 4), keep=("0", "2.widht"))


def test_inputs_of_a_type_that_the_model_does_not_take_are_told() -> None:
    """The smallest member was once said to fail, and a report of the model asked for."""
    with pytest.raises(TraceError, match=r"Sequential does not run on .* \(int64 of \(1, 4\)\)"):
        elastic(perceptron(), torch.zeros(1, 4, dtype=torch.long))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_model_of_torch_jit_is_told() -> None:
    traced = torch.jit.trace(perceptron(), torch.zeros(1, 4))
    with pytest.raises(InputError, match=r"the model is compiled by torch\.jit"):
        elastic(traced, torch.zeros(1, 4))
