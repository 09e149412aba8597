"""Members with computed weights as models of `transformers`, and under adapters of `peft`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bound import gradients
from torch import Tensor

import manynet
from manynet.bindings import recipes
from manynet.bindings.hyper import hypernetwork
from manynet.family import Family
from manynet.models.lora import merge_adapters

transformers = pytest.importorskip("transformers")

# `peft` asks `transformers` in a way that the latter has renamed
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is:FutureWarning")

MLP = "model.layers.*.mlp.*.weight"
IDS = torch.arange(12).view(2, 6)
BOUND: dict[str, Callable[[], recipes.Recipe]] = {
    "mask": lambda: recipes.masked(0.5, tasks=2),
    "tie": recipes.tied,
    "scaled tie": lambda: recipes.tied(scale=True),
    "mix": lambda: recipes.mixed(2),
    "route": lambda: recipes.separated("task", (0, 1)),
    "shard": lambda: recipes.sharded(128, 32),
    "generate": lambda: recipes.generated(chunk=64),
    "generate once": lambda: hypernetwork(hidden=(10,)),
    "quantize": lambda: recipes.quantized((4, 8)),
    "compand": recipes.companded,
}


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(params=BOUND)
def family(request: pytest.FixtureRequest) -> Family:
    return manynet.bind(llama(), MLP, BOUND[request.param]())


def logits(model: Any) -> Tensor:
    found: Tensor = model(IDS).logits
    return found


def test_members_and_extractions_are_saved_and_loaded(family: Family, tmp_path: Path) -> None:
    """The files hold plain weights; a class that knows of no tie is given a copy for each layer."""
    for arch in (family.space.largest, family.space.smallest):
        wanted = logits(family.at(arch))
        for name, model in (("member", family.at(arch)), ("alone", family.extract(arch))):
            folder = tmp_path / name
            state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
            del state["lm_head.weight"]  # this tie the class knows
            model.save_pretrained(folder, state_dict=state if _tied(model) else None)
            again, report = transformers.LlamaForCausalLM.from_pretrained(
                folder, output_loading_info=True
            )
            assert not report["missing_keys"], name
            assert not report["unexpected_keys"], name
            assert torch.allclose(logits(again.eval()), wanted, atol=1e-5), name


def _tied(model: torch.nn.Module) -> bool:
    """Whether layers share a tensor; `transformers` refuses to guess how it should be loaded."""
    up = [layer.mlp.up_proj.weight for layer in model.model.layers]  # type: ignore[union-attr]
    return up[0] is up[1]


def test_layers_that_share_a_tensor_are_refused_or_copied(tmp_path: Path) -> None:
    family = manynet.bind(llama(), MLP, recipes.tied())
    alone: Any = family.extract({})
    assert _tied(alone)
    with pytest.raises(RuntimeError, match="shared tensors"):
        alone.save_pretrained(tmp_path / "refused")
    manynet.export_member(alone, tmp_path / "copied", (IDS,), formats=("transformers",))
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "copied").eval()
    assert not _tied(again)
    assert torch.allclose(logits(again), logits(alone), atol=1e-5)


def test_text_is_written_as_without_the_family(family: Family) -> None:
    """With the cache of keys and values, which is the member's own."""
    arch = family.space.largest
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    found = [
        model.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
        for model in (family.at(arch), family.extract(arch))
    ]
    assert torch.equal(found[0], found[1])


def test_adapters_of_peft_learn_on_an_extraction(family: Family, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["up_proj", "down_proj", "q_proj"])
    alone = family.extract(family.space.smallest)
    before = logits(alone)
    adapted = peft.get_peft_model(copy.deepcopy(alone), config)
    optimizer = torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], 1.0)
    adapted(IDS, labels=IDS).loss.backward()
    optimizer.step()
    after = logits(adapted)
    assert not torch.allclose(after, before, atol=1e-4)
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(alone, tmp_path)
    assert torch.allclose(logits(again), after, atol=1e-6)
    merged = merge_adapters(again.get_base_model())  # `merge_and_unload` takes ties apart wrongly
    assert torch.allclose(logits(merged), after, atol=1e-4)


def test_adapters_of_peft_learn_on_a_member(family: Family) -> None:
    """A member under adapters still reads the family: its weights follow, and only adapters learn.

    `peft` freezes the weights that it adapts; the family's own stay trainable."""
    peft = pytest.importorskip("peft")
    arch = family.space.smallest
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    member = family.at(arch)
    before = logits(member)
    adapted = peft.get_peft_model(member, config)
    assert torch.allclose(logits(adapted), before, atol=1e-6)
    adapted(IDS, labels=IDS).loss.backward()
    assert not gradients(family)
    learned = [p for p in adapted.parameters() if p.requires_grad]
    assert learned
    assert all(p.grad is not None for p in learned)
    with torch.no_grad():
        for parameter in family.parameters():
            parameter.mul_(1.05)
    plain = family.extract(arch)
    assert torch.allclose(logits(adapted), logits(plain), atol=1e-5)
    adapted.unload()


def test_a_model_with_adapters_becomes_a_family(family: Family) -> None:
    """Rounded, tied or generated weights below, adapters above: only these learn, and are seen."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    alone = family.extract(family.space.largest)
    adapted = peft.get_peft_model(alone, config)
    wanted = logits(adapted)
    mine = manynet.bind(adapted, "*.lora_A.default.weight", recipes.tied(scale=True))
    assert mine.at({}) is mine.at({})
    loss = mine.at({})(IDS, labels=IDS).loss
    loss.backward()
    assert gradients(mine)
    assert all("lora" in name for name in gradients(mine))
    again = manynet.bind(adapted, "*.mlp.*.weight", recipes.quantized(8))
    assert torch.allclose(logits(again.at({})), wanted, atol=0.2)
