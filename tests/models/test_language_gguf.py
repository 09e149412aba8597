"""Language models of `.gguf` files: the weights are those of the file, and members are plain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import manynet as mn
from languages import TEXT
from manynet.config import resolve
from manynet.errors import InputError
from manynet.models import kind_of, language_model, tokenizer_of
from manynet.run import run_config

EXTRA = "needs transformers and gguf; try: pip install 'manynet[language]'"
transformers = pytest.importorskip("transformers", reason=EXTRA)
gguf = pytest.importorskip("gguf", reason=EXTRA)

HEADS, KEYS = 4, 2
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def llama(vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        initializer_range=0.2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def rotated(weight: Tensor, heads: int) -> Tensor:
    """Put the rows of a projection in the order in which llama.cpp rotates them."""
    pairs = weight.view(heads, 2, -1, weight.shape[1])
    return pairs.transpose(1, 2).reshape(weight.shape)


def write(path: Path) -> Any:
    """Write a tiny LLaMA as a `.gguf` file with a tokenizer of single bytes, and return it."""
    alphabet = sorted(set(TEXT) - set(" \n"))
    tokens = ["<unk>", "<s>", "</s>", "\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}", *alphabet]
    tokens.append(alphabet[0] + alphabet[1])
    model = llama(len(tokens))
    file = gguf.GGUFWriter(path, "llama")
    file.add_context_length(64)
    file.add_block_count(2)
    file.add_embedding_length(32)
    file.add_feed_forward_length(64)
    file.add_head_count(HEADS)
    file.add_head_count_kv(KEYS)
    file.add_rope_dimension_count(32 // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_vocab_size(len(tokens))
    file.add_tokenizer_model("gpt2")
    file.add_token_list(tokens)
    file.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    file.add_token_merges([f"{alphabet[0]} {alphabet[1]}"])
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_unk_token_id(0)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        new = name.replace("model.layers.", "blk.")
        for old, short in NAMES.items():
            new = new.replace(old, short)
        if "attn_q" in new or "attn_k" in new:
            file.add_tensor(new, rotated(weight, HEADS if "attn_q" in new else KEYS).numpy())
        else:
            file.add_tensor(new, weight.numpy())
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write(path)


def test_the_weights_are_those_of_the_file(made: tuple[Path, Any]) -> None:
    path, model = made
    found = language_model(str(path))
    assert kind_of(str(path)) == "causal"
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(found(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-5)
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert len(tokenizer_of(str(path))("cat")["input_ids"]) >= 3


def test_a_run_ends_in_models_that_plain_transformers_loads(
    made: tuple[Path, Any], tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    values = {
        "model": f"hf:{made[0]}",
        "data": {"name": f"text:{tmp_path / 'text.txt'}", "length": 32},
        "search": {"evaluations": 2},
        "deploy": {"members": 1},
    }
    run_config(resolve(values), folder=tmp_path / "run")
    (folder,) = (tmp_path / "run" / "members").iterdir()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = transformers.AutoTokenizer.from_pretrained(folder)("cat", return_tensors="pt")
    written = model.generate(**ids, min_new_tokens=3, max_new_tokens=3)
    assert written.shape[1] == ids["input_ids"].shape[1] + 3


@pytest.mark.parametrize("kept", [10, 2_000, 20_000])
def test_a_file_that_was_cut_off_is_told(made: tuple[Path, Any], tmp_path: Path, kept: int) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(made[0].read_bytes()[:kept])
    with pytest.raises(InputError, match=r"cut\.gguf cannot be read by transformers"):
        mn.build(f"hf:{cut}")
    with pytest.raises(InputError, match=r"cut\.gguf cannot be read by transformers"):
        tokenizer_of(str(cut))
