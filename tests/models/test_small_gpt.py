"""The small decoder."""

from __future__ import annotations

import pytest
import torch

import manynet as mn
from manynet.errors import InputError
from manynet.models import small_gpt


def test_no_token_sees_what_comes_behind_it() -> None:
    torch.manual_seed(0)
    model = small_gpt(9, width=8, depth=2, heads=2, length=6).eval()
    tokens = torch.randint(0, 9, (2, 6))
    changed = tokens.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 9
    one, other = model(tokens), model(changed)
    assert torch.allclose(one[:, :4], other[:, :4], atol=1e-6)
    assert not torch.allclose(one[:, 4:], other[:, 4:], atol=1e-3)


def test_it_is_elastic_in_width_and_depth() -> None:
    model = small_gpt(9, width=8, depth=2, heads=2, length=6)
    tokens = torch.randint(0, 9, (2, 6))
    family = mn.elastic(model, (tokens,), width=(0.5, 1.0), depth=True)
    small = family.at(family.space.smallest)
    assert small(tokens).shape == (2, 6, 9)
    assert any(name.endswith("depth") for name in family.space.names)


def test_sizes_that_cannot_be_are_told() -> None:
    with pytest.raises(InputError, match="heads that divide the width"):
        small_gpt(9, width=10, heads=4)
