"""Write `docs/concepts/binding-pairs.md`: every binding that reads through every other one.

Run it with `python docs/binding_pairs.py`; the tests check each pair, and that the page is current.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from manynet.bindings import (
    Axis,
    Binding,
    Compand,
    Generate,
    Hold,
    Mask,
    Mix,
    Pick,
    Power,
    Quantize,
    Route,
    Shard,
    Slice,
    Superpose,
    Tie,
    TopK,
    whole,
)
from manynet.bindings.derive import Block

ROWS, COLUMNS = 6, 4
Make = Callable[["Tensors", Binding], Binding]


class Tensors:
    """Shared tensors that bindings ask for."""

    def __init__(self) -> None:
        self.extra: dict[str, Tensor] = {}
        self.generator = torch.Generator().manual_seed(0)

    def parameter(self, *shape: int) -> Slice:
        value = torch.rand(shape, generator=self.generator) + 0.1
        return self._add(nn.Parameter(value))

    def buffer(self, values: Tensor) -> Slice:
        return self._add(values)

    def _add(self, value: Tensor) -> Slice:
        name = f"shared{len(self.extra)}"
        self.extra[name] = value
        return whole(name, value)


def _slice(tensors: Tensors, inner: Binding) -> Binding:
    return Pick(Pick(inner, 2, 0, (5, 1, 0, 2, 4, 3)), 2, 1, (3, 2, 1, 0))


def _generate(tensors: Tensors, inner: Binding) -> Binding:
    last = (inner, tensors.parameter(ROWS))
    return Generate(tensors.parameter(COLUMNS), last, (ROWS, COLUMNS), tensors.parameter(4, 0))


MAKES: dict[str, tuple[str, Make]] = {
    "slice": ("positions of it", _slice),
    "mask": ("the weight", lambda t, b: Mask(b, TopK(t.parameter(ROWS, COLUMNS), 0.5))),
    "hold": (
        "the weight",
        lambda t, b: Hold(b, t.buffer(torch.arange(ROWS * COLUMNS).view(ROWS, COLUMNS) % 3 > 0)),
    ),
    "tie": ("the weight", lambda t, b: Tie(b, t.parameter(ROWS, 1))),
    "mix": (
        "an atom",
        lambda t, b: Mix((b, t.parameter(ROWS - 1, COLUMNS)), t.parameter(2), softmax=True),
    ),
    "superpose": (
        "the weight",
        lambda t, b: Superpose(
            b,
            ((Axis("rows", ROWS),), (Axis("", COLUMNS, "whole"),)),
            ("rows",),
            ((3, ROWS),),
            (t.parameter(2),),
        ),
    ),
    "route": ("an option", lambda t, b: Route("task", (0, 1), (t.parameter(ROWS, COLUMNS), b))),
    "shard": (
        "the pool",
        lambda t, b: Shard(b, t.buffer(torch.tensor([5, 0, 0, 2, 4, 2])), (ROWS, COLUMNS)),
    ),
    "generate": ("the last layer", _generate),
    "quantize": ("the weight", lambda t, b: Quantize(b, 3)),
    "compand": (
        "the latent numbers",
        lambda t, b: Compand(b, t.parameter(1), t.parameter(1)),
    ),
    "power": ("the latent numbers", lambda t, b: Power(b, 1.5)),
}

OTHERS: dict[str, tuple[str, Make]] = {
    "mask, its mask": ("the mask", lambda t, b: Mask(t.parameter(ROWS, COLUMNS), b)),
    "hold, its free entries": ("what is free", lambda t, b: Hold(t.parameter(ROWS, COLUMNS), b)),
    "tie, its scale": (
        "the scale",
        lambda t, b: Tie(t.parameter(ROWS, COLUMNS), Block(b, 0, (ROWS, 1))),
    ),
    "mix, its coefficients": (
        "the coefficients",
        lambda t, b: Mix((t.parameter(2, ROWS, COLUMNS),), Block(b, 0, (2,))),
    ),
    "superpose, its shares": (
        "the shares",
        lambda t, b: Superpose(
            t.parameter(ROWS, COLUMNS),
            ((Axis("rows", ROWS),), (Axis("", COLUMNS, "whole"),)),
            ("rows",),
            ((3, ROWS),),
            (Block(b, 0, (2,)),),
        ),
    ),
    "generate, its code": (
        "the code",
        lambda t, b: Generate(
            Block(b, 0, (COLUMNS,)),
            (t.parameter(ROWS, COLUMNS), t.parameter(ROWS)),
            (ROWS, COLUMNS),
            t.parameter(4, 0),
        ),
    ),
    "quantize, its step": (
        "the step",
        lambda t, b: Quantize(t.parameter(ROWS, COLUMNS), 3, "tensor", True, Block(b, 1, (1,))),
    ),
    "compand, its height": (
        "the height",
        lambda t, b: Compand(
            t.parameter(ROWS, COLUMNS), Block(b, 1, (1,)), t.parameter(1), "tanh", True
        ),
    ),
    "compand, its width": (
        "the width",
        lambda t, b: Compand(
            t.parameter(ROWS, COLUMNS), t.parameter(1), Block(b, 1, (1,)), "tanh", True
        ),
    ),
}
"""Operands other than the weight: the binding, what of it is read, and how."""


def pair(outer: str, inner: str) -> tuple[Binding, dict[str, Tensor]]:
    """Return `outer` reading through `inner`, `(ROWS, COLUMNS)`, and the tensors they read."""
    tensors = Tensors()
    below = MAKES[inner][1](tensors, tensors.parameter(ROWS, COLUMNS))
    make = (MAKES | OTHERS)[outer][1]
    return make(tensors, below), tensors.extra


def _row(name: str, outer: str, role: str) -> str:
    counts = [len(pair(name, inner)[1]) for inner in MAKES]
    return f"| {outer} | {role} | " + " | ".join(map(str, counts)) + " |"


def page() -> str:
    """Return the page."""
    lines = [
        "# Pairs of bindings",
        "",
        "Any binding can read through any other one. Each row is a binding and what it takes from",
        "the one below; the tests build every pair in this table and check that member, extraction",
        "and saved family agree and that gradients are those of the composed function. Written by",
        "`python docs/binding_pairs.py`.",
        "",
        "| reads | of | " + " | ".join(MAKES) + " |",
        "|---|---|" + "---|" * len(MAKES),
    ]
    lines += [_row(outer, outer, role) for outer, (role, _) in MAKES.items()]
    other = "Other operands than the weight are read through any binding too:"
    lines += ["", other, "", *lines[7:9]]
    lines += [_row(name, name.partition(",")[0], role) for name, (role, _) in OTHERS.items()]
    lines += [
        "",
        "The numbers say how many shared tensors the pair reads, options of a route that the arch",
        f"leaves out included. {(len(MAKES) + len(OTHERS)) * len(MAKES)} pairs are checked.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "concepts" / "binding-pairs.md").write_text(page(), encoding="utf-8")
