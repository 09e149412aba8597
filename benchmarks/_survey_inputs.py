"""Inputs on which a model of `transformers` runs, found by names of arguments and by trying.

Where a model says how many places its text has to leave for an image or a sound, the text is
written anew with as many.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedConfig

from _survey_makers import BATCH, MAKERS, find, number, patch_of, some_ids

__all__ = ["NoInputs", "runnable"]

TRIALS = 60
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
    places: dict[int, int] = {}
    for _ in range(5):
        torch.manual_seed(0)
        try:
            with torch.no_grad():
                leaves = tree_leaves(model(**given))
            if not any(isinstance(x, Tensor) and x.is_floating_point() for x in leaves):
                raise ValueError("no tensor of numbers comes out")
            return given
        except Exception as error:
            wanted = _places(config, str(error), places)
            if wanted is None or "input_ids" not in given:
                raise
            places |= wanted
            text = _text(config, places)
            given = {**given, "input_ids": text}
            if "mm_token_type_ids" in given:
                given["mm_token_type_ids"] = (text == _image_token(config)).long()
    raise ValueError("the text never has the places asked for")


def _image_token(config: PreTrainedConfig) -> int:
    return number(find(config, "image_token_id", "image_token_index"), -1)


def _places(
    config: PreTrainedConfig, message: str, before: dict[int, int]
) -> dict[int, int] | None:
    """Return how many places of which token an error message asks for.

    Some messages count the numbers in the places: a text that had as many was not right either.
    """
    counts = re.search(r"tokens\D{1,40}\d+.*?(?:features|tokens from)\D{1,40}?(\d+)", message)
    if counts is None:
        return None
    kind = next((k for k in ("audio", "video") if k in message.lower()), "image")
    token = next(
        (t for name in (f"{kind}_token_id", f"{kind}_token_index", "image_token_id")
         if type(t := getattr(config, name, None)) is int), None
    )  # fmt: skip
    count = int(counts[1])
    if token is not None and before.get(token) == count:
        text = getattr(config, "text_config", config)
        count //= number(getattr(text, "hidden_size", None), count)
    return None if token is None or not count or count % BATCH else {token: count}


def _text(config: PreTrainedConfig, places: dict[int, int]) -> Tensor:
    """Return a text with so many places of each token."""
    edges = [
        torch.full((BATCH, 1), t)
        for name in ("vision_start_token_id", "vision_end_token_id")
        if type(t := getattr(config, name, None)) is int
    ]
    parts = [some_ids(4)]
    for token, count in places.items():
        row = torch.full((BATCH, count // BATCH), token)
        parts += [edges[0], row, edges[1]] if len(edges) == 2 else [row]
    return torch.cat([*parts, some_ids(8)], 1)


def _candidates(model: nn.Module, config: PreTrainedConfig) -> Iterator[Named]:
    known = inspect.signature(model.forward).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [n for n, p in known.items() if p.kind in kinds]
    required = [n for n in names if known[n].default is inspect.Parameter.empty]
    makers = {n: list(make(config)) for n, make in MAKERS.items() if n in names}
    for values, grid in _GRIDS.items():
        others = {grid, "grid_thw", "spatial_shapes", "pixel_position_ids"}
        if values in makers and others & makers.keys():  # patches first
            makers[values].sort(key=lambda tensor: tensor.dim() != 2)
    main = model.main_input_name
    mains = [n for n in (main if isinstance(main, list) else [main]) if n in makers]
    texts = [n for n in ("input_ids", "decoder_input_ids", "bbox") if n in makers]
    sets = [
        [n for n in makers if n in required or n not in _EXTRA],
        [n for n in makers if n in required or n not in _EXTRA - _SIZES],
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
        for values in itertools.islice(itertools.product(*options), 24):
            yield _consistent(config, dict(zip(chosen, values, strict=True)))


def _consistent(config: PreTrainedConfig, given: Named) -> Named:
    """Leave out the grid of patches where images are not cut into patches, and fit the masks."""
    for values, grid in _GRIDS.items():
        if values in given and grid in given and not _is_cut(given[values]):
            del given[grid]
    if not {"image_grid_thw", "video_grid_thw"} & given.keys():
        given.pop("mm_token_type_ids", None)
    if "feature_attention_mask" in given and "input_features" in given:
        given["feature_attention_mask"] = torch.ones(
            BATCH, given["input_features"].shape[-1]
        ).long()
    if "input_features_mask" in given and "input_features" in given:
        mels = number(find(config, "num_mel_bins"), 0)
        axis = -1 if given["input_features"].shape[1] == mels else 1
        steps = given["input_features"].shape[axis]
        given["input_features_mask"] = torch.ones(BATCH, steps, dtype=torch.bool)
    hop = find(config, "hop_length")
    twice = hop and {"input_features", "input_values"} <= given.keys()
    if twice and given["input_values"].dim() == 3:  # one sound, as it is and as its spectrum
        samples = given["input_features"].shape[1] * hop
        given["input_values"] = torch.randn(BATCH, 1, samples)
    if "image_sizes" in given and given["pixel_values"].dim() == 4:
        side = given["pixel_values"].shape[-1]
        given["image_sizes"] = torch.tensor([[side, side]] * BATCH)
    if "target_sizes" in given:
        side = patch_of(config)
        given["target_sizes"] = torch.tensor([[4, 4]] * BATCH)
        given["pixel_values"] = torch.randn(1, 3, side, 16 * BATCH * side)
    one_by_one = {"spatial_shapes", "pixel_position_ids"} & given.keys()
    if one_by_one and given["pixel_values"].dim() == 2:
        given["pixel_values"] = given["pixel_values"].unflatten(0, (BATCH, 16))
    return given


def _is_cut(values: Tensor) -> bool:
    """Return whether images are cut into patches, or blocks of them: a grid says how many."""
    shape = values.shape
    return len(shape) == 2 or (len(shape) == 4 and shape[-1] == 3) or shape[0] in (1, 16 * BATCH)


_GRIDS = {
    "pixel_values": "image_grid_thw",
    "hidden_states": "grid_thw",
    "pixel_values_videos": "video_grid_thw",
}
"""Images cut into patches, and how many patches each has."""
_MASKS = {"pixel_attention_mask", "input_features_mask", "feature_attention_mask"}
_SIZES = {"image_sizes", "image_attention_mask"}
_EXTRA = {"inputs_embeds", "video_grid_thw", "pixel_values_videos", "query_embeds",
          "pixel_attention_mask", "input_features_mask", "past_observed_mask",
          "hidden_states", "encoder_hidden_states", "image_sizes",
          "image_attention_mask"}  # fmt: skip
"""Arguments that are given only where the model demands them."""
