"""The translator: it never looks ahead or at padding, and becomes a family."""

from __future__ import annotations

import torch

import manynet as mn
from manynet.models.translator import Translator


def make() -> Translator:
    torch.manual_seed(0)
    return Translator(20, width=12, feed=16, layers=(1, 2), heads=2, positions=8).eval()


def test_later_pieces_and_padding_change_nothing() -> None:
    network = make()
    source, target = torch.randint(1, 20, (2, 5)), torch.randint(1, 20, (2, 6))
    logits = network(source, target)
    assert logits.shape == (2, 6, 20)
    changed = target.clone()
    changed[:, 4:] = 7
    torch.testing.assert_close(network(source, changed)[:, :4], logits[:, :4])
    padded = torch.cat([source, torch.zeros(2, 3, dtype=torch.long)], 1)
    torch.testing.assert_close(network(padded, target), logits)


def test_widths_of_both_sides_and_the_decoders_depth_are_elastic() -> None:
    inputs = (torch.randint(1, 20, (2, 5)), torch.randint(1, 20, (2, 6)))
    width = {"*.attn.*": (1.0,), "*.cross.*": (1.0,), "*": (0.5, 1.0)}
    family = mn.elastic(make(), inputs, width=width)
    names = family.space.names
    assert "decoder.depth" in names and sum(name.endswith("fc1.width") for name in names) == 3
    small = family.extract(family.space.smallest)
    assert small.source.embedding_dim == small.target.embedding_dim == 6
    torch.testing.assert_close(small(*inputs), family.at(family.space.smallest)(*inputs))
