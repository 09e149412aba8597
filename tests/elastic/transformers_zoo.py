"""Tiny models of `transformers`, built offline from their configs, each with inputs by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

WIDTHS = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
WORDS = {"vocab_size": 64, "max_position_embeddings": 32}
TEXT = {**WIDTHS, **WORDS}
GROUPED = {**TEXT, "num_key_value_heads": 2, "head_dim": 8}
PIXELS = {**WIDTHS, "image_size": 32, "patch_size": 8}
SOUND = {
    **WIDTHS,
    "vocab_size": 32,
    "conv_dim": [16, 16, 16],
    "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 2, 2],
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 16,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def ids(length: int = 12) -> Tensor:
    return torch.arange(2 * length).reshape(2, length) % 50 + 3


def _causal(name: str, **options: Any) -> nn.Module:
    config = getattr(transformers, f"{name}Config")(**options)
    cls = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM", None)
    model: nn.Module = (cls or transformers.GPT2LMHeadModel)(config)
    return model


def _of(cls: str, config: str, **options: Any) -> nn.Module:
    model: nn.Module = getattr(transformers, cls)(getattr(transformers, config)(**options))
    return model


def _clip() -> nn.Module:
    text = {**TEXT, "projection_dim": 16, "eos_token_id": 2, "bos_token_id": 1}
    return _of(
        "CLIPModel",
        "CLIPConfig",
        text_config=text,
        vision_config={**PIXELS, "projection_dim": 16},
        projection_dim=16,
    )


Build = Callable[[], nn.Module]
TEXTS: dict[str, Build] = {
    "bert": lambda: _of("BertForSequenceClassification", "BertConfig", **TEXT),
    "bert-tied": lambda: _of("BertForMaskedLM", "BertConfig", **TEXT),
    "roberta": lambda: _of("RobertaForMaskedLM", "RobertaConfig", **TEXT),
    "distilbert": lambda: _of(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        **{**WORDS, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48},
    ),
}
CAUSAL: dict[str, Build] = {
    "gpt2": lambda: _of(
        "GPT2LMHeadModel",
        "GPT2Config",
        **{"vocab_size": 64, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 32},
        bos_token_id=1,
        eos_token_id=2,
    ),
    "llama": lambda: _causal("Llama", **GROUPED),
    "qwen2": lambda: _causal("Qwen2", **GROUPED),
    "qwen3": lambda: _causal("Qwen3", **GROUPED),
    "mistral": lambda: _causal("Mistral", **GROUPED),
    "gemma": lambda: _causal("Gemma", **GROUPED),
    "gemma2": lambda: _causal("Gemma2", **GROUPED),
    "gemma3": lambda: _causal("Gemma3Text", **GROUPED),
    "mixtral": lambda: _causal("Mixtral", **GROUPED, num_local_experts=4),
}
IMAGES: dict[str, Build] = {
    "vit": lambda: _of("ViTForImageClassification", "ViTConfig", **PIXELS),
    "deit": lambda: _of("DeiTForImageClassification", "DeiTConfig", **PIXELS),
    "swin": lambda: _of(
        "SwinForImageClassification",
        "SwinConfig",
        **{"image_size": 32, "patch_size": 4, "embed_dim": 16, "window_size": 4},
        depths=[2, 2],
        num_heads=[2, 4],
    ),
}
SOUNDS: dict[str, Build] = {
    "hubert": lambda: _of("HubertForSequenceClassification", "HubertConfig", **SOUND),
    "wav2vec2": lambda: _of("Wav2Vec2ForCTC", "Wav2Vec2Config", **SOUND),
    "wav2vec2-stable": lambda: _of(
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        **SOUND,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    ),
}
PAIRS: dict[str, Build] = {
    "t5": lambda: _of(
        "T5ForConditionalGeneration",
        "T5Config",
        **{"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3},
        num_heads=4,
        decoder_start_token_id=0,
    ),
    "whisper": lambda: _of(
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        **{"vocab_size": 64, "d_model": 32, "num_mel_bins": 8, "encoder_layers": 3},
        **{"decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4},
        **{"encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_source_positions": 10},
        max_target_positions=32,
        decoder_start_token_id=1,
        **TOKENS,
    ),
    "clip": _clip,
}
NAMES = [*TEXTS, *CAUSAL, *IMAGES, *SOUNDS, *PAIRS]


def build(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model and its inputs by name; no key-value cache is asked for."""
    torch.manual_seed(0)
    model = {**TEXTS, **CAUSAL, **IMAGES, **SOUNDS, **PAIRS}[name]().eval()
    pixels = {"pixel_values": torch.randn(2, 3, 32, 32)}
    decoded = {"decoder_input_ids": ids(7), "use_cache": False}
    inputs: dict[str, Any] = {
        **{key: {"input_ids": ids(), "attention_mask": torch.ones_like(ids())} for key in TEXTS},
        **{key: {"input_ids": ids(), "use_cache": False} for key in CAUSAL},
        **dict.fromkeys(IMAGES, pixels),
        **{key: {"input_values": torch.randn(2, 400)} for key in SOUNDS},
        "clip": {"input_ids": ids(), **pixels},
        "t5": {"input_ids": ids(), **decoded},
        "whisper": {"input_features": torch.randn(2, 8, 20), **decoded},
    }[name]
    return model, inputs
