"""Language models from local files, with adapters and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import manynet as mn
from languages import save_model
from manynet.errors import InputError
from manynet.models import (
    add_adapters,
    has_adapters,
    kind_of,
    merge_adapters,
    tokenizer_of,
    without_adapters,
)

transformers = pytest.importorskip("transformers")
TOKENS = torch.randint(6, 30, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("models")
    return {kind: save_model(parent / kind, kind) for kind in ("llama", "bert", "gpt2")}


@pytest.mark.parametrize(
    ("kind", "cls", "task"),
    [
        ("llama", "LlamaForCausalLM", "causal"),
        ("gpt2", "GPT2LMHeadModel", "causal"),
        ("bert", "BertForMaskedLM", "masked"),
    ],
)
def test_the_config_names_the_class(
    folders: dict[str, Path], kind: str, cls: str, task: str
) -> None:
    model = mn.build(f"hf:{folders[kind]}")
    assert type(model).__name__ == cls
    assert kind_of(str(folders[kind])) == task
    assert not model(TOKENS).get("cache"), "a forward pass keeps no cache unasked"


def test_the_task_may_be_another(folders: dict[str, Path]) -> None:
    model = mn.build(f"hf:{folders['bert']}?task=classify&num_labels=3")
    assert model(TOKENS).logits.shape == (2, 3)


def test_tied_weights_are_one(folders: dict[str, Path]) -> None:
    model = mn.build(f"hf:{folders['llama']}")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_pickled_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders["llama"] / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model.bin, which may run code"):
        mn.build(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:no/such-model", "manynet downloads nothing"),
        ("hf:missing.gguf", "there is no file"),
        ("hf:{}?task=write", "task='write' is unknown"),
        ("hf:{}?dtype=int3", "dtype='int3' is unknown"),
        ("hf:{}?lora=0", "at least 1"),
        ("hf:{}?rank=3", "does not take these options"),
    ],
)
def test_a_wrong_name_says_what_to_try(folders: dict[str, Path], name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mn.build(name.format(folders["llama"]))


def test_a_folder_without_config_or_tokenizer_says_so(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"has no config\.json"):
        mn.build(f"hf:{tmp_path}")
    mn.build(f"hf:{folders['bert']}").save_pretrained(tmp_path)  # type: ignore[operator]
    with pytest.raises(InputError, match="has no tokenizer"):
        tokenizer_of(str(tmp_path))


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_adapters_begin_at_nothing_learn_alone_and_merge(
    folders: dict[str, Path], kind: str
) -> None:
    plain = mn.build(f"hf:{folders[kind]}").eval()
    model = mn.build(f"hf:{folders[kind]}?lora=2").eval()
    wanted = plain(TOKENS).logits
    torch.testing.assert_close(model(TOKENS).logits, wanted)
    model(TOKENS).logits.square().mean().backward()
    learning = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learning and all("lora_" in name for name in learning)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    changed = model(TOKENS).logits
    assert (changed - wanted).abs().max() > 1e-3
    with without_adapters(model):
        torch.testing.assert_close(model(TOKENS).logits, wanted)
    merged = merge_adapters(model)
    assert not has_adapters(merged)
    assert merged.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(merged(TOKENS).logits, changed, rtol=1e-4, atol=1e-5)


def test_members_of_an_adapted_family_merge_to_what_they_compute(
    folders: dict[str, Path],
) -> None:
    model = mn.build(f"hf:{folders['llama']}?lora=2")
    family = mn.elastic(model, TOKENS, width={"*.lora_A.*": (1.0,), "*": (0.5, 1.0)}).eval()
    with torch.no_grad():
        for name, parameter in family.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    member = family.extract(family.space.smallest)
    wanted = member(TOKENS).logits
    torch.testing.assert_close(merge_adapters(member)(TOKENS).logits, wanted, rtol=1e-4, atol=1e-5)


def test_checkpointing_changes_no_gradient(folders: dict[str, Path]) -> None:
    gradients = []
    for options in ("", "?checkpointing=true"):
        model = mn.build(f"hf:{folders['llama']}{options}").train()
        model(TOKENS).logits.square().mean().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_model_without_linear_layers_takes_no_adapter() -> None:
    with pytest.raises(InputError, match="has no linear layer"):
        add_adapters(nn.Conv2d(1, 1, 1), rank=2)


def test_a_damaged_tokenizer_is_told(tmp_path: Path) -> None:
    file = save_model(tmp_path, "llama") / "tokenizer.json"
    file.write_text(file.read_text().replace('"model"', '"modle"'))
    with pytest.raises(InputError, match=r"the tokenizer of hf:.* cannot be read by transformers"):
        tokenizer_of(str(tmp_path))
