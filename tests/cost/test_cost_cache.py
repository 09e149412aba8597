"""What writing text costs: counted on caches of known size, measured with the clock."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import manynet as mn
from languages import save_model
from manynet.errors import InputError

TOKENS = (torch.randint(6, 30, (2, 12), generator=torch.Generator().manual_seed(0)),)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("models")
    return {kind: save_model(parent / kind, kind) for kind in ("llama", "bert", "gpt2")}


def test_cache_is_that_of_the_members_own_heads_and_layers(folders: dict[str, Path]) -> None:
    model = mn.build(f"hf:{folders['llama']}")
    cost = mn.kv_cache_bytes(tokens=100)
    # keys and values of 3 layers, 2 heads, head size 8, in float32
    assert cost(model, TOKENS) == 2 * 3 * 2 * 8 * 4 * 100
    assert cost(model.bfloat16(), TOKENS) == 2 * 3 * 2 * 8 * 2 * 100
    family = mn.elastic(model.float(), TOKENS, width=(0.5, 1.0), uniform=True)
    smallest = family.space.smallest
    layers = smallest["model.layers.depth"]
    assert layers == 1
    assert cost.of_arch(family, smallest) == 2 * layers * 1 * 8 * 4 * 100


def test_settings_tell_stored_values_apart() -> None:
    assert repr(mn.kv_cache_bytes(tokens=10)) != repr(mn.kv_cache_bytes(tokens=20))
    assert repr(mn.token_latency(tokens=10)) != repr(mn.token_latency(tokens=20))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_one_token_is_decoded_at_a_time_after_the_same_cache(
    folders: dict[str, Path], kind: str
) -> None:
    model = mn.build(f"hf:{folders[kind]}").eval()
    seen = []
    embedding = model.get_input_embeddings()  # type: ignore[operator]
    embedding.register_forward_hook(lambda m, args, out: seen.append(tuple(args[0].shape)))
    clock = mn.token_latency(tokens=20, repeats=5, warmup=1, time_limit_s=0.05)
    read = clock.measure(model, TOKENS)
    assert read.median_ms > 0
    assert seen[0] == (1, 20) and set(seen[1:]) == {(1, 1)}
    with torch.inference_mode():
        run = clock.prepared(model, TOKENS)
        run()
        run()
    assert seen[-3:] == [(1, 20), (1, 1), (1, 1)]


def test_what_writes_nothing_says_so(folders: dict[str, Path]) -> None:
    bert = mn.build(f"hf:{folders['bert']}")
    for cost in (mn.kv_cache_bytes(), mn.token_latency(tokens=4)):
        with pytest.raises(InputError, match="keeps no key-value cache"):
            cost(bert, TOKENS)
        with pytest.raises(InputError, match="needs tokens of shape"):
            cost(nn.Linear(3, 3), torch.zeros(1, 3))
    with pytest.raises(InputError, match="ask for fewer tokens"):
        mn.token_latency(tokens=100)(mn.build(f"hf:{folders['gpt2']}"), TOKENS)
    for make in (mn.kv_cache_bytes, mn.token_latency):
        with pytest.raises(InputError, match="at least 1"):
            make(tokens=0)  # type: ignore[operator]
