"""What goes in, what each block would say, and where the stack is cut."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from manynet.errors import InputError
from manynet.fit import blocks_of, drift, input_grams, projections, runs
from manynet.fit._sites import embedding_parameters
from manynet.models import small_gpt

TOKENS = torch.randint(0, 11, (5, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return small_gpt(11, width=12, depth=4, heads=2, length=7)


def test_grams_are_those_of_all_rows_and_queries_share_them_with_keys(model: nn.Module) -> None:
    names = [n for n, p in model.named_parameters() if ".attention." in n]
    grams = input_grams(model, TOKENS, names, batch_size=2)
    seen: list[Tensor] = []
    layer = model.get_submodule("blocks.1.attention.key")
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(TOKENS)
    handle.remove()
    rows = seen[0].flatten(0, 1)
    assert torch.allclose(grams["blocks.1.attention.key.weight"].float(), rows.T @ rows, atol=1e-3)
    first = grams["blocks.1.attention.query.weight"]
    assert first is grams["blocks.1.attention.value.weight"]
    assert first is not grams["blocks.1.attention.out.weight"]
    assert first is not grams["blocks.2.attention.query.weight"]


def test_a_layer_that_is_not_run_is_named(model: nn.Module) -> None:
    model.add_module("spare", nn.Linear(3, 3))
    with pytest.raises(InputError, match=r"spare\.weight takes no part"):
        input_grams(model, TOKENS, ["spare.weight"])
    with pytest.raises(InputError, match="holds no batch"):
        input_grams(model, [], ["blocks.0.attention.key.weight"])


def test_the_drift_is_that_of_the_averaged_outputs_through_norm_and_head(model: nn.Module) -> None:
    x = (model.embedding(TOKENS) + model.positions.weight).detach()
    guesses = []
    for block in model.blocks:
        x = block(x)
        mean = x.flatten(0, 1).mean(0)
        guesses.append(model.head(model.norm(mean)).detach().double().log_softmax(-1))
    expected = [float((a.exp() * (a - b)).sum()) for a, b in itertools.pairwise(guesses)]
    found = drift(model, TOKENS, batch_size=2)
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert not any(block._forward_hooks for block in model.blocks)


def test_blocks_that_do_nothing_do_not_drift(model: nn.Module) -> None:
    for name, parameter in model.blocks[2].named_parameters():
        if name.startswith(("attention.out", "feed.2")):
            nn.init.zeros_(parameter)
    found = drift(model, TOKENS)
    assert found[1] == pytest.approx(0.0, abs=1e-9)
    assert min(found[0], found[2]) > 1e-7
    assert runs([0.5, 0.0, 0.4], 3, smallest=1) == [range(1), range(1, 3), range(3, 4)]


def test_runs_keep_their_least_size() -> None:
    assert runs([9.0, 8.0, 0.1, 0.1, 7.0], 2, smallest=2) == [range(2), range(2, 6)]
    assert runs([9.0, 8.0, 0.1, 0.2, 7.0], 9, smallest=2) == [range(2), range(2, 4), range(4, 6)]
    assert runs([], 3) == [range(1)]
    with pytest.raises(InputError, match="0 groups"):
        runs([1.0], 0)


def test_places_are_found_by_name_and_shape(model: nn.Module) -> None:
    assert blocks_of(model) == "blocks"
    found = projections(model)
    assert list(found)[:4] == [f"attention.{n}.weight" for n in ("query", "key", "value", "out")]
    assert found["feed.2.weight"][3] == "blocks.3.feed.2.weight"
    assert embedding_parameters(model) == {"embedding.weight", "positions.weight", "head.weight"}
    with pytest.raises(InputError, match=r"matches '\*conv\*'; there are, for example, blocks\.0"):
        projections(model, "*conv*")
    with pytest.raises(InputError, match="has no list of two or more blocks"):
        blocks_of(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
