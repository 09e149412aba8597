"""What each argument of a model of `transformers` may be given, found by its name.

Sizes are read from the config, or from the configs inside it, by the names that they have there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

__all__ = ["BATCH", "MAKERS", "find", "number", "patch_of", "some_ids"]

BATCH = 2


def find(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """Return the first attribute of such a name, in the config or in one inside it."""
    inner = [v for v in vars(config).values() if isinstance(v, PreTrainedConfig)]
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    found = (find(c, *names) for c in inner)
    return next((value for value in found if value is not None), default)


def number(value: Any, default: int) -> int:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if type(value) is int else default


def some_ids(length: int = 12) -> Tensor:
    return torch.arange(BATCH * length).reshape(BATCH, length) % 50 + 5


def patch_of(config: PreTrainedConfig) -> int:
    return number(find(config, "patch_size"), 8)


def _images(config: PreTrainedConfig) -> list[Tensor]:
    channels = number(find(config, "num_channels", "in_channels", "in_chans"), 3)
    if channels > 4:
        channels = 3
    patch = patch_of(config)
    size = find(config, "image_size", "img_size", "input_size", "max_img_size")
    own = number(size, 64)
    sides = list(dict.fromkeys([own, 64, math.lcm(patch, 4) * 4, 128, 224]))
    plain = [torch.randn(BATCH, channels, s, s) for s in sides if s <= 256][:4]
    if isinstance(size, list | tuple) and len(set(size)) == 2:
        plain.append(torch.randn(BATCH, channels, *size))
    frames = number(find(config, "num_frames"), 4)
    several = [torch.randn(BATCH, n, channels, own, own) for n in dict.fromkeys((1, frames, 2))]
    pieces = torch.randn(BATCH * 16, channels, patch, patch)
    cut = [_patches(config), _blocks(config), pieces, pieces[None]]
    return [*plain, *several, *cut] if own <= 256 else [*plain, *cut]


def _patches(config: PreTrainedConfig) -> Tensor:
    """Return images cut into patches: four by four of each, one row a patch."""
    times = number(find(config, "temporal_patch_size", "patch_temporal"), 1)
    return torch.randn(BATCH * 16, 3 * times * patch_of(config) ** 2)


def _blocks(config: PreTrainedConfig) -> Tensor:
    """Return images cut into blocks of patches that are merged later: four by four of each."""
    side = patch_of(config) * number(find(config, "spatial_merge_size"), 1)
    return torch.randn(BATCH * 16, side, side, 3)


def _places() -> Tensor:
    """Return row and column of the patches of an image, four by four."""
    return torch.cartesian_prod(torch.arange(4), torch.arange(4)).repeat(BATCH, 1, 1)


def _videos(config: PreTrainedConfig) -> list[Tensor]:
    own = number(find(config, "image_size", "img_size", "crop_size"), 64)
    frames = number(find(config, "num_frames", "frames_per_clip"), 4)
    return [torch.randn(BATCH, frames, 3, own, own), _patches(config)]


def _sounds(config: PreTrainedConfig) -> list[Tensor]:
    mels = number(find(config, "num_mel_bins", "n_mels"), 80)
    long = number(find(config, "max_length"), 100)
    waves = [torch.randn(BATCH, 4000), torch.randn(BATCH, 1, 4000), torch.randn(BATCH, 3840)]
    spectra = [torch.randn(BATCH, long, mels), torch.randn(BATCH, 100, mels)]
    mono = number(find(config, "hidden_size"), 64)
    return [*waves, *spectra, torch.randn(BATCH, 20, mono), torch.randn(BATCH, mono, 20)]


def _spectra(config: PreTrainedConfig) -> list[Tensor]:
    names = ("num_mel_bins", "n_mels", "input_feat_per_channel", "feature_projection_input_dim",
             "input_feat_size", "input_dim", "mel_bins", "input_size", "feature_size")  # fmt: skip
    mels, *others = list(dict.fromkeys(number(find(config, n), 80) for n in names))
    positions = number(find(config, "max_source_positions"), 50)
    return [
        torch.randn(BATCH, mels, 2 * positions),
        torch.randn(BATCH, 96, mels),
        *[torch.randn(BATCH, 96, size) for size in others],
        *[torch.randn(BATCH, size, 96) for size in others],
        torch.randn(BATCH, mels, 100),
        torch.randn(BATCH, 1, 96, mels),
        torch.randn(BATCH, 4000),
        torch.randn(BATCH, 1, 4000),
        torch.randn(BATCH, mels, 96),
        torch.randn(BATCH, 96, 4 * mels),  # four frames at a time
        torch.randn(BATCH, 96, 128),
    ]


def _series(config: PreTrainedConfig) -> list[Tensor]:
    long = number(find(config, "context_length", "prediction_length"), 32)
    lags = max(find(config, "lags_sequence", default=[0]))
    channels = number(find(config, "num_input_channels"), 1)
    flat = torch.randn(BATCH, long + lags)
    return [torch.randn(BATCH, long, channels), flat, torch.randn(BATCH, long + lags, 1)]


def _states(config: PreTrainedConfig) -> list[Tensor]:
    """Return hidden states that a part of a model takes: patches or positions by width."""
    width = number(find(config, "hidden_size", "embed_dim", "d_model"), 64)
    return [_patches(config), torch.randn(BATCH, 12, width), torch.randn(BATCH, width, 20),
            torch.randn(12, width), torch.randn(BATCH, 1, 6400)]  # fmt: skip


_Maker = Callable[[PreTrainedConfig], Sequence[Any]]
_GRID = torch.tensor([[1, 4, 4]] * BATCH)


def _width(name: str, default: int) -> Callable[[PreTrainedConfig], int]:
    return lambda config: number(find(config, name), default)


def _steps(*names: str) -> _Maker:
    """Return a maker of 10 steps of vectors whose size the config has under one of the names."""
    return lambda config: [torch.randn(BATCH, 10, number(find(config, *names), 4))]


MAKERS: dict[str, _Maker] = {
    "input_ids": lambda config: [
        some_ids(),
        *[
            some_ids()[..., None].repeat(1, 1, number(find(config, name), 1) + 1) % 32
            for name in ("num_codebooks", "n_q")
            if find(config, name)
        ],
    ],
    "lang_ids": lambda _: [torch.zeros(BATCH, dtype=torch.long)],
    "freq": lambda _: [torch.zeros(BATCH, 1, dtype=torch.long)],
    "decoder_input_ids": lambda _: [some_ids(7)],
    "pixel_values": _images,
    "image": lambda _: [torch.randn(BATCH, 3, 224, 224)],
    "pixel_values_videos": _videos,
    "image_grid_thw": lambda _: [_GRID, _GRID[[0, 1, 1]]],  # the last may be one to be drawn
    "video_grid_thw": lambda _: [_GRID],
    "mm_token_type_ids": lambda _: [torch.zeros_like(some_ids())],
    "grid_thw": lambda _: [_GRID],
    "merge_sizes": lambda _: [torch.ones(BATCH, dtype=torch.long)],
    "hidden_states": _states,
    "input_values": _sounds,
    "decoder_input_values": lambda config: [
        torch.randn(BATCH, 8, _width(name, 80)(config)) for name in ("num_mel_bins", "hidden_size")
    ],
    "input_features": _spectra,
    "audio_mel": lambda config: [torch.randn(BATCH, 96, _width("input_feat_size", 128)(config))],
    "audio_mel_mask": lambda _: [torch.zeros(BATCH, 96, dtype=torch.bool)],
    "input_features_mask": lambda _: [torch.ones(BATCH, 96, dtype=torch.bool)],
    "feature_attention_mask": lambda _: [torch.ones(BATCH, 100, dtype=torch.long)],
    "past_values": _series,
    "past_values_padding": lambda _: [torch.zeros(BATCH, 32)],
    "past_time_features": lambda config: [
        torch.randn(*_series(config)[1].shape, n) for n in (_width("num_time_features", 0)(config),)
    ],
    "future_values": lambda config: [torch.randn(BATCH, _width("prediction_length", 8)(config))],
    "future_time_features": lambda config: [
        torch.randn(BATCH, _width("prediction_length", 8)(config), n)
        for n in (_width("num_time_features", 0)(config),)
    ],
    "past_observed_mask": lambda config: [torch.ones_like(x) for x in _series(config)],
    "bbox": lambda _: [torch.tensor([[[1, 2, 9, 8]] * 12] * BATCH)],
    "visual_feats": lambda config: [torch.randn(BATCH, 6, _width("visual_feat_dim", 64)(config))],
    "visual_pos": lambda _: [torch.rand(BATCH, 6, 4)],
    "states": _steps("state_dim"),
    "actions": _steps("act_dim"),
    "rewards": lambda _: [torch.randn(BATCH, 10, 1)],
    "returns_to_go": lambda _: [torch.randn(BATCH, 10, 1)],
    "timesteps": lambda _: [torch.arange(10).repeat(BATCH, 1)],
    "task_inputs": lambda config: [torch.ones(BATCH, _width("task_seq_len", 77)(config)).long()],
    "target_sizes": lambda _: [_GRID],
    "spatial_shapes": lambda _: [torch.tensor([[4, 4]] * BATCH)],
    "pixel_attention_mask": lambda _: [
        torch.ones(BATCH, 16, dtype=torch.long),
        torch.ones(BATCH, 1, dtype=torch.long),
        torch.ones(BATCH, 1, dtype=torch.bool),
    ],
    "inputs_embeds": lambda config: [torch.randn(BATCH, 12, _width("hidden_size", 64)(config))],
    "inputs": lambda config: [torch.randn(BATCH, 20, _width("d_model", 64)(config))],
    "latents": lambda config: [
        torch.randn(BATCH, _width(name, 8)(config), 12) for name in ("latent_dim", "hidden_size")
    ],
    "query_embeds": lambda config: [torch.randn(BATCH, 8, _width("hidden_size", 64)(config))],
    "qformer_input_ids": lambda _: [some_ids(6)],
    "image_sizes": lambda _: [torch.tensor([[64, 64]] * BATCH)],
    "image_attention_mask": lambda _: [torch.ones(BATCH, 12, 1, dtype=torch.long)],
    "image_embeds_position_mask": lambda config: [
        (torch.arange(12) < _width("latent_query_num", 8)(config)).long().repeat(BATCH, 1)
    ],
    "flattened_patches": lambda config: [
        torch.cat([_places() + 1.0, torch.randn(BATCH, 16, size)], -1)
        for size in [_width("patch_embed_hidden_size", 192)(config)]
    ],
    "pixel_position_ids": lambda _: [_places()],
    "prompt_pixel_values": lambda _: [torch.randn(BATCH, 3, 64, 64)],
    "prompt_masks": lambda _: [torch.rand(BATCH, 3, 64, 64)],
    "classes_input_ids": lambda _: [some_ids()],
    "classes_attention_mask": lambda _: [torch.ones_like(some_ids())],
    "classes_structure": lambda _: [torch.ones(BATCH, dtype=torch.long)],
    "tasks_input_ids": lambda _: [some_ids(7)],
    "tasks_attention_mask": lambda _: [torch.ones_like(some_ids(7))],
    "noise_embeds": lambda config: [torch.randn(BATCH, 4, _width("hidden_size", 64)(config))],
    "context_hidden_states": lambda config: [
        torch.randn(BATCH, 6, len(layers) * _width("hidden_size", 64)(config))
        for layers in [find(config, "target_layer_ids", default=[0])]
    ],
    "action_embeds": lambda config: [
        torch.randn(BATCH, 5, number(getattr(part, "hidden_size", None), 64))
        for part in [getattr(config, "dit_config", config)]
    ],
    "encoder_hidden_states": lambda config: [
        torch.randn(BATCH, 6, _width("encoder_hidden_size", 64)(config))
    ],
}  # fmt: skip
