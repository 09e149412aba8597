"""Inputs on which a model of `transformers` runs, found by names of arguments and by trying.

Where a model says how many places its text has to leave for an image or a sound, the text is
written anew with as many.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

__all__ = ["NoInputs", "runnable"]

BATCH = 2
TRIALS = 36
Named = dict[str, Any]


class NoInputs(Exception):
    """A model runs on none of the inputs that are tried."""


def runnable(model: nn.Module, config: PreTrainedConfig) -> Named:
    """Return the first inputs by name on which a model runs, the richest tried first.

    Raises:
        NoInputs: it runs on none.
    """
    errors = []
    for given in itertools.islice(_candidates(model, config), TRIALS):
        try:
            return _adjusted(model, config, given)
        except Exception as error:  # the next may do
            errors.append(f"{', '.join(given)}: {type(error).__name__}: {str(error)[:160]}")
    raise NoInputs(errors[0] if errors else "no argument of a known name")


def _adjusted(model: nn.Module, config: PreTrainedConfig, given: Named) -> Named:
    """Run on `given`, with room for images and sounds made where the model asks for it."""
    for _ in range(3):
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                leaves = tree_leaves(model(**given))
            if not any(isinstance(x, Tensor) and x.is_floating_point() for x in leaves):
                raise ValueError("no tensor of numbers comes out")
            return given
        except Exception as error:
            places = _places(config, str(error))
            if places is None or "input_ids" not in given:
                raise
            given = {**given, "input_ids": places}
            if "mm_token_type_ids" in given:
                given["mm_token_type_ids"] = (places == _image_token(config)).long()
    raise ValueError("the text never has the places asked for")


def _image_token(config: PreTrainedConfig) -> int:
    return _number(_find(config, "image_token_id", "image_token_index"), -1)


def _places(config: PreTrainedConfig, message: str) -> Tensor | None:
    """Return a text with as many placeholders as an error message asks for."""
    counts = re.search(r"tokens\D{1,40}\d+.*?features\D{1,40}?(\d+)", message)
    if counts is None:
        return None
    kind = next((k for k in ("audio", "video") if k in message.lower()), "image")
    token = next(
        (t for name in (f"{kind}_token_id", f"{kind}_token_index", "image_token_id")
         if type(t := getattr(config, name, None)) is int), None
    )  # fmt: skip
    if token is None or int(counts[1]) % BATCH:
        return None
    row = torch.full((BATCH, int(counts[1]) // BATCH), token)
    edges = [
        torch.full((BATCH, 1), t)
        for name in ("vision_start_token_id", "vision_end_token_id")
        if type(t := getattr(config, name, None)) is int
    ]
    parts = [edges[0], row, edges[1]] if len(edges) == 2 else [row]
    return torch.cat([_ids(4), *parts, _ids(8)], 1)


def _candidates(model: nn.Module, config: PreTrainedConfig) -> Iterator[Named]:
    known = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in known.items() if p.kind in kinds]
    required = [n for n in names if known[n].default is inspect.Parameter.empty]
    makers = {n: list(make(config)) for n, make in _MAKERS.items() if n in names}
    for values, grid in _GRIDS.items():
        if values in makers and (grid in makers or "spatial_shapes" in makers):  # patches first
            makers[values].sort(key=lambda tensor: tensor.dim() != 2)
    main = model.main_input_name
    mains = [n for n in (main if isinstance(main, list) else [main]) if n in makers]
    texts = [n for n in ("input_ids", "decoder_input_ids", "bbox") if n in makers]
    sets = [
        [n for n in makers if n in required or n not in _EXTRA],
        [n for n in makers if n in required or n not in _EXTRA - _MASKS],
        [*required, *mains, *texts],
        [*required, *mains],
        [*required, *[n for n in makers if n.startswith("pixel_values")]],
        [*required, *[n for n in makers if n in ("input_features", "input_values")]],
        required,
        [*required, *[n for n in makers if n == "encoder_hidden_states"]],
        [*required, *texts],
    ]
    seen = set()
    for wanted in sets:
        chosen = [n for n in names if n in wanted]
        if not chosen or tuple(chosen) in seen or any(n not in makers for n in chosen):
            continue
        seen.add(tuple(chosen))
        options = [makers[n] for n in chosen]
        for values in itertools.islice(itertools.product(*options), 12):
            yield _consistent(config, dict(zip(chosen, values, strict=True)))


# -- sizes in a config and in the configs inside it ------------------------------------------


def _find(config: PreTrainedConfig, *names: str, default: Any = None) -> Any:
    """Return the first attribute of such a name, in the config or in one inside it."""
    inner = [v for v in vars(config).values() if isinstance(v, PreTrainedConfig)]
    for name in names:
        value = getattr(config, name, None)
        if value is not None:
            return value
    found = (_find(c, *names) for c in inner)
    return next((value for value in found if value is not None), default)


def _number(value: Any, default: int) -> int:
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if type(value) is int else default


def _ids(length: int = 12) -> Tensor:
    return torch.arange(BATCH * length).reshape(BATCH, length) % 50 + 5


def _patch(config: PreTrainedConfig) -> int:
    return _number(_find(config, "patch_size"), 8)


def _images(config: PreTrainedConfig) -> list[Tensor]:
    channels = _number(_find(config, "num_channels", "in_channels", "in_chans"), 3)
    if channels > 4:
        channels = 3
    patch = _patch(config)
    own = _number(_find(config, "image_size", "img_size", "input_size"), 64)
    sides = list(dict.fromkeys([own, 64, math.lcm(patch, 4) * 4, 128, 224]))
    plain = [torch.randn(BATCH, channels, s, s) for s in sides if s <= 256][:4]
    frames = _number(_find(config, "num_frames"), 4)
    several = [torch.randn(BATCH, n, channels, own, own) for n in dict.fromkeys((1, frames, 2))]
    return [*plain, *several, _patches(config)] if own <= 256 else [*plain, _patches(config)]


def _patches(config: PreTrainedConfig) -> Tensor:
    """Return images cut into patches: four by four of each, one row a patch."""
    times = _number(_find(config, "temporal_patch_size"), 1)
    return torch.randn(BATCH * 16, 3 * times * _patch(config) ** 2)


def _videos(config: PreTrainedConfig) -> list[Tensor]:
    own = _number(_find(config, "image_size", "img_size", "crop_size"), 64)
    frames = _number(_find(config, "num_frames", "frames_per_clip"), 4)
    return [torch.randn(BATCH, frames, 3, own, own), _patches(config)]


def _sounds(config: PreTrainedConfig) -> list[Tensor]:
    mels = _number(_find(config, "num_mel_bins", "n_mels"), 80)
    long = _number(_find(config, "max_length"), 100)
    waves = [torch.randn(BATCH, 4000), torch.randn(BATCH, 1, 4000), torch.randn(BATCH, 3840)]
    spectra = [torch.randn(BATCH, long, mels), torch.randn(BATCH, 100, mels)]
    mono = _number(_find(config, "hidden_size"), 64)
    return [*waves, *spectra, torch.randn(BATCH, 20, mono), torch.randn(BATCH, mono, 20)]


def _spectra(config: PreTrainedConfig) -> list[Tensor]:
    names = ("num_mel_bins", "n_mels", "input_feat_per_channel", "feature_projection_input_dim",
             "input_feat_size", "input_dim", "mel_bins", "input_size", "feature_size")  # fmt: skip
    mels, *others = list(dict.fromkeys(_number(_find(config, n), 80) for n in names))
    positions = _number(_find(config, "max_source_positions"), 50)
    return [
        torch.randn(BATCH, mels, 2 * positions),
        torch.randn(BATCH, 96, mels),
        *[torch.randn(BATCH, 96, size) for size in others],
        *[torch.randn(BATCH, size, 96) for size in others],
        torch.randn(BATCH, mels, 100),
        torch.randn(BATCH, 1, 96, mels),
        torch.randn(BATCH, 4000),
        torch.randn(BATCH, 1, 4000),
    ]


def _series(config: PreTrainedConfig) -> list[Tensor]:
    long = _number(_find(config, "context_length", "prediction_length"), 32)
    lags = max(_find(config, "lags_sequence", default=[0]))
    channels = _number(_find(config, "num_input_channels"), 1)
    flat = torch.randn(BATCH, long + lags)
    return [torch.randn(BATCH, long, channels), flat, torch.randn(BATCH, long + lags, 1)]


def _states(config: PreTrainedConfig) -> list[Tensor]:
    """Return hidden states that a part of a model takes: patches or positions by width."""
    width = _number(_find(config, "hidden_size", "embed_dim", "d_model"), 64)
    return [_patches(config), torch.randn(BATCH, 12, width), torch.randn(BATCH, width, 20),
            torch.randn(12, width)]  # fmt: skip


def _consistent(config: PreTrainedConfig, given: Named) -> Named:
    """Leave out the grid of patches where images are not cut into patches, and fit the masks."""
    for values, grid in _GRIDS.items():
        if values in given and grid in given and given[values].dim() != 2:
            del given[grid]
    if not {"image_grid_thw", "video_grid_thw"} & given.keys():
        given.pop("mm_token_type_ids", None)
    if "feature_attention_mask" in given and "input_features" in given:
        given["feature_attention_mask"] = torch.ones(
            BATCH, given["input_features"].shape[-1]
        ).long()
    if "input_features_mask" in given and "input_features" in given:
        steps = given["input_features"].shape[1]
        given["input_features_mask"] = torch.ones(BATCH, steps, dtype=torch.bool)
    if "target_sizes" in given:
        side = _patch(config)
        given["target_sizes"] = torch.tensor([[4, 4]] * BATCH)
        given["pixel_values"] = torch.randn(1, 3, side, 16 * BATCH * side)
    if "spatial_shapes" in given and given["pixel_values"].dim() == 2:
        given["pixel_values"] = given["pixel_values"].unflatten(0, (BATCH, 16))
    return given


_GRIDS = {
    "pixel_values": "image_grid_thw",
    "hidden_states": "grid_thw",
    "pixel_values_videos": "video_grid_thw",
}
"""Images cut into patches, and how many patches each has."""
_Maker = Callable[[PreTrainedConfig], Sequence[Any]]
_GRID = torch.tensor([[1, 4, 4]] * BATCH)


def _width(name: str, default: int) -> Callable[[PreTrainedConfig], int]:
    return lambda config: _number(_find(config, name), default)


def _steps(*names: str) -> _Maker:
    """Return a maker of 10 steps of vectors whose size the config has under one of the names."""
    return lambda config: [torch.randn(BATCH, 10, _number(_find(config, *names), 4))]


_MAKERS: dict[str, _Maker] = {
    "input_ids": lambda config: [
        _ids(),
        *[
            _ids()[..., None].repeat(1, 1, _number(_find(config, name), 1) + 1) % 32
            for name in ("num_codebooks", "n_q")
            if _find(config, name)
        ],
    ],
    "lang_ids": lambda _: [torch.zeros(BATCH, dtype=torch.long)],
    "freq": lambda _: [torch.zeros(BATCH, 1, dtype=torch.long)],
    "decoder_input_ids": lambda _: [_ids(7)],
    "pixel_values": _images,
    "image": lambda _: [torch.randn(BATCH, 3, 224, 224)],
    "pixel_values_videos": _videos,
    "image_grid_thw": lambda _: [_GRID],
    "video_grid_thw": lambda _: [_GRID],
    "mm_token_type_ids": lambda _: [torch.zeros_like(_ids())],
    "grid_thw": lambda _: [_GRID],
    "merge_sizes": lambda _: [torch.ones(BATCH, dtype=torch.long)],
    "hidden_states": _states,
    "input_values": _sounds,
    "decoder_input_values": lambda config: [
        torch.randn(BATCH, 8, _width("num_mel_bins", 80)(config))
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
    "pixel_attention_mask": lambda _: [torch.ones(BATCH, 16, dtype=torch.long)],
    "inputs_embeds": lambda config: [torch.randn(BATCH, 12, _width("hidden_size", 64)(config))],
    "inputs": lambda config: [torch.randn(BATCH, 20, _width("d_model", 64)(config))],
    "latents": lambda config: [
        torch.randn(BATCH, _width(name, 8)(config), 12) for name in ("latent_dim", "hidden_size")
    ],
    "query_embeds": lambda config: [torch.randn(BATCH, 8, _width("hidden_size", 64)(config))],
    "qformer_input_ids": lambda _: [_ids(6)],
    "encoder_hidden_states": lambda config: [
        torch.randn(BATCH, 6, _width("encoder_hidden_size", 64)(config))
    ],
}  # fmt: skip
_MASKS = {"pixel_attention_mask", "input_features_mask", "feature_attention_mask"}
_EXTRA = {"inputs_embeds", "video_grid_thw", "pixel_values_videos", "query_embeds",
          "pixel_attention_mask", "input_features_mask", "past_observed_mask",
          "hidden_states", "encoder_hidden_states"}  # fmt: skip
"""Arguments that are given only where the model demands them."""
