"""Tiny language models with random weights, saved as real ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "".join(
    f"The {a} {b} sat on the {c}, and {number} {a}s saw the {b} {c} again.\n"
    for number, (a, b, c) in enumerate(
        (a, b, c)
        for a in ("cat", "dog", "owl", "fox")
        for b in ("red", "old", "shy", "big")
        for c in ("mat", "log", "hill", "road", "roof")
    )
)
SPECIAL = {
    "unk_token": "[unk]",
    "pad_token": "[pad]",
    "cls_token": "[cls]",
    "sep_token": "[sep]",
    "mask_token": "[mask]",
    "eos_token": "[end]",
}


def save_tokenizer(folder: Path, *, ends: bool = False) -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token="[unk]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = tokenizers.trainers.WordLevelTrainer(special_tokens=list(SPECIAL.values()))
    made.train_from_iterator([TEXT], trainer)
    if ends:
        made.post_processor = tokenizers.processors.BertProcessing(("[sep]", 3), ("[cls]", 2))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=made, **SPECIAL)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _numbers(vocabulary: int) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    }


def save_model(folder: Path, kind: str) -> Path:
    """Save a `llama`, `gpt2` or `bert` with its tokenizer, and return the folder."""
    tokenizer = save_tokenizer(folder, ends=kind == "bert")
    numbers = _numbers(len(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "llama":
            config = transformers.LlamaConfig(
                **numbers,
                num_key_value_heads=2,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=5,
                initializer_range=0.2,
            )
            model = transformers.LlamaForCausalLM(config)
        elif kind == "bert":
            config = transformers.BertConfig(**numbers, initializer_range=0.2)
            model = transformers.BertForMaskedLM(config)
        else:
            config = transformers.GPT2Config(
                vocab_size=len(tokenizer),
                n_embd=32,
                n_layer=3,
                n_head=4,
                n_positions=64,
                bos_token_id=5,
                eos_token_id=5,
                initializer_range=0.2,
            )
            model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    return folder
