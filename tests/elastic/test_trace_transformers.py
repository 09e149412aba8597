"""The named models of `transformers` become correct families, widths, heads and depth."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import manynet
from manynet._inputs import positional
from manynet.elastic._reorder import permute_axes
from manynet.elastic._trace import trace_model

pytest.importorskip("transformers")

from transformers_zoo import NAMES, build, ids

TOLERANCE = 1e-5
QUICK = ["bert", "gpt2", "llama", "mixtral", "t5", "vit", "wav2vec2"]


def settle(model: nn.Module) -> None:
    """Give everything that starts as a constant random values: constants hide errors."""
    for parameter in model.parameters():
        if bool((parameter == parameter.flatten()[0]).all()):
            nn.init.uniform_(parameter, 0.5, 1.5)


def outputs(model: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    leaves = tree_leaves(model(*inputs))
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    assert [x.shape for x in left] == [x.shape for x in right]
    return max(
        float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
        for a, b in zip(left, right, strict=True)
    )


def made(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    model, named = build(name)
    settle(model)
    return model, positional(model, named)


def check_family(model: nn.Module, inputs: tuple[Any, ...]) -> manynet.Family:
    """Check that permuted axes change nothing, and that the largest member is the original."""
    with torch.no_grad():
        whole = outputs(model, inputs)
        trace = trace_model(model, inputs)
        shuffled = permute_axes(model, trace, np.random.default_rng(0))
        assert distance(outputs(shuffled, inputs), whole) <= TOLERANCE
        family = manynet.elastic(model, inputs)
        largest = family.at(family.space.largest)
        assert distance(outputs(largest, inputs), whole) <= TOLERANCE
    assert not trace.unknown
    return family


def check_useful(family: manynet.Family, model: nn.Module) -> None:
    names = [choice.name for choice in family.space.choices]
    assert any(name.endswith(".depth") for name in names)
    assert any(not name.endswith(".depth") for name in names)
    left = sum(p.numel() for p in family.extract(family.space.smallest).parameters())
    assert left <= 0.5 * sum(p.numel() for p in model.parameters())


def check_members(family: manynet.Family, inputs: tuple[Any, ...], count: int = 5) -> nn.Module:
    """Check random members against their extraction, outputs and gradients; return the last."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        arch = family.space.sample(rng, by="choice")
        alone = family.extract(arch)
        with torch.no_grad():
            assert distance(outputs(family.at(arch), inputs), outputs(alone, inputs)) <= TOLERANCE
        family.zero_grad()
        norms = []
        for member, owner in ((alone, alone), (family.at(arch), family)):
            sum(x.square().mean() for x in outputs(member, inputs) if x.requires_grad).backward()
            grads = [p.grad.norm() for p in owner.parameters() if p.grad is not None]
            norms.append(float(torch.stack(grads).norm()))
        assert norms[0] == pytest.approx(norms[1], rel=TOLERANCE)
    return alone


def check_round_trip(member: nn.Module, inputs: tuple[Any, ...]) -> None:
    with torch.no_grad():
        own = outputs(member, inputs)
        other = copy.deepcopy(member)
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(member.state_dict())
        assert distance(outputs(other, inputs), own) == 0
        exported = torch.export.export(member, inputs).module()
        assert distance(outputs(exported, inputs), own) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_a_model_becomes_a_correct_family(name: str) -> None:
    model, inputs = made(name)
    family = check_family(model, inputs)
    check_useful(family, model)
    member = check_members(family, inputs)
    check_round_trip(member, inputs)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3"])
def test_a_shallower_member_generates_with_its_cache_as_without(name: str) -> None:
    model, inputs = made(name)
    family = manynet.elastic(model, inputs)
    depth = next(c.name for c in family.space.choices if c.name.endswith(".depth"))
    member: Any = family.extract({**family.space.smallest, depth: 2})
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad():
        cached = member.generate(ids(5), use_cache=True, **options)
        plain = member.generate(ids(5), use_cache=False, **options)
    assert torch.equal(cached, plain)
    assert member.config.num_hidden_layers == 2
    assert model.config.num_hidden_layers == 3  # the original has a config of its own


def test_blocks_are_numbered_anew_and_counted() -> None:
    model, inputs = made("gemma3")
    family = manynet.elastic(model, inputs, keep=("model.layers.0",))
    depth = family.blueprint.depths[0]
    assert depth.blocks == ("model.layers.1", "model.layers.2")
    member: Any = family.extract({depth.choice: 1})
    assert [layer.self_attn.layer_idx for layer in member.model.layers] == [0, 1]
    assert member.config.layer_types == model.config.layer_types[:2]
    assert member.config is member.model.config


def test_an_encoder_and_a_decoder_count_their_own_layers() -> None:
    model, inputs = made("whisper")
    family = manynet.elastic(model, inputs)
    depths = {d.container: d.choice for d in family.blueprint.depths}
    member: Any = family.extract({depths["model.encoder.layers"]: 2})
    assert (member.config.encoder_layers, member.config.decoder_layers) == (2, 3)
    member = family.extract({depths["model.decoder.layers"]: 1})
    assert (member.config.encoder_layers, member.config.decoder_layers) == (3, 1)


def test_the_groups_of_queries_follow_their_heads() -> None:
    model, inputs = made("llama")
    family = manynet.elastic(model, inputs, width=(0.5, 1.0))
    attention: Any = family.at(family.space.smallest).model.layers[0].self_attn
    keys = attention.k_proj.out_features // attention.head_dim
    assert attention.num_key_value_groups == 1
    assert attention.q_proj.out_features == keys * attention.head_dim


def test_the_first_block_of_t5_stays_since_it_makes_the_positions_of_the_others() -> None:
    model, inputs = made("t5")
    blocks = {block.path for block in trace_model(model, inputs).blocks}
    assert {"encoder.block.1", "encoder.block.2", "decoder.block.1"} <= blocks
    assert not {"encoder.block.0", "decoder.block.0"} & blocks


def test_a_normalized_weight_is_cut_with_its_groups() -> None:
    model, inputs = made("wav2vec2")
    family = manynet.elastic(model, inputs, width=(0.5, 1.0))
    member: Any = family.extract(family.space.smallest)
    convolution = member.wav2vec2.encoder.pos_conv_embed.conv
    assert convolution.groups * convolution.weight.shape[1] == convolution.in_channels
    assert convolution.weight.shape[0] == convolution.out_channels < 32


def test_labels_give_a_loss_in_a_member() -> None:
    model, inputs = made("llama")
    family = manynet.elastic(model, inputs)
    member = family.at(family.space.smallest)
    member(input_ids=ids(), labels=ids()).loss.backward()
    assert any(p.grad is not None for p in family.parameters())
