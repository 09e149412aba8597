"""An extracted member's config says its sizes, where all layers agree on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import manynet

pytest.importorskip(
    "transformers", reason="needs transformers; try: pip install 'manynet[language]'"
)

import transformers
from transformers_zoo import GROUPED, PIXELS, TEXT, ids


def causal(**options: Any) -> nn.Module:
    model: nn.Module = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**{**GROUPED, "head_dim": None, **options})
    )
    return model.eval()


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def smallest(model: nn.Module, **options: Any) -> Any:
    family = manynet.elastic(model, ids(), **options)
    return family.extract(family.space.smallest)


def test_the_config_of_a_narrow_member_makes_a_model_of_its_shapes() -> None:
    member = smallest(causal(), uniform=True)
    config = member.config
    assert config.hidden_size == member.model.norm.weight.numel() < 32
    assert config.intermediate_size == member.model.layers[0].mlp.up_proj.out_features < 48
    assert config.num_key_value_heads * config.head_dim == (
        member.model.layers[0].self_attn.k_proj.out_features
    )
    assert config.num_hidden_layers == len(member.model.layers)
    plain = transformers.AutoModelForCausalLM.from_config(config)
    assert shapes(plain) == shapes(member)
    plain.load_state_dict(member.state_dict())
    with torch.no_grad():
        assert torch.allclose(plain.eval()(ids()).logits, member(ids()).logits, atol=1e-5)


def test_every_member_of_a_uniform_family_says_its_sizes() -> None:
    family = manynet.elastic(causal(), ids(), uniform=True)
    rng = torch.Generator().manual_seed(0)
    for _ in range(4):
        seed = int(torch.randint(1 << 30, (), generator=rng))
        member: Any = family.extract(family.space.sample(np.random.default_rng(seed)))
        plain = transformers.AutoModelForCausalLM.from_config(member.config)
        assert shapes(plain) == shapes(member)


def test_the_original_and_the_largest_keep_their_config() -> None:
    model: Any = causal()
    family = manynet.elastic(model, ids(), uniform=True)
    before = model.config.to_dict()
    member: Any = family.extract(family.space.smallest)
    assert model.config.to_dict() == family.shared.config.to_dict() == before
    assert member.config is not model.config
    largest: Any = family.extract(family.space.largest)
    assert largest.config.to_dict() == before


def test_layers_that_differ_leave_the_number_as_it_was() -> None:
    family = manynet.elastic(causal(), ids(), depth=False)
    arch = {**family.space.largest, "model.layers.0.mlp.gate_proj.width": 12}
    member: Any = family.extract(arch)
    assert member.model.layers[0].mlp.up_proj.out_features == 12
    assert member.config.intermediate_size == 48
    alike = {f"model.layers.{n}.mlp.gate_proj.width": 12 for n in range(3)}
    equal: Any = family.extract({**family.space.largest, **alike})
    assert equal.config.intermediate_size == 12 and equal.config.hidden_size == 32


def test_the_configs_of_the_parts_of_a_model_follow_too() -> None:
    config = transformers.CLIPConfig(
        text_config={**TEXT, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1},
        vision_config={**PIXELS, "projection_dim": 16},
        projection_dim=16,
    )
    model = transformers.CLIPModel(config).eval()
    given = {"input_ids": ids(), "pixel_values": torch.randn(2, 3, 32, 32)}
    family = manynet.elastic(model, given, uniform=True)
    member: Any = family.extract(family.space.smallest)
    text, vision = member.config.text_config, member.config.vision_config
    assert text.intermediate_size == member.text_model.encoder.layers[0].mlp.fc1.out_features < 48
    assert vision.intermediate_size < 48 and vision.hidden_size == 32


class Scaled(transformers.LlamaForCausalLM):
    """Reads its config's width while it runs, as some models do for a scale."""

    def forward(self, input_ids: torch.Tensor, **kwargs: Any) -> Any:
        return super().forward(input_ids, **kwargs).logits / self.config.hidden_size


def test_a_number_that_the_code_reads_as_it_runs_stays() -> None:
    model = Scaled(transformers.LlamaConfig(**GROUPED)).eval()
    family = manynet.elastic(model, ids(), uniform=True)
    arch = family.space.smallest
    member: Any = family.extract(arch)
    assert member.model.norm.weight.numel() < 32
    assert member.config.hidden_size == 32 and member.config.intermediate_size < 48
    with torch.no_grad():
        assert torch.allclose(member(ids()), family.eval().at(arch)(ids()), atol=1e-6)
