"""Small versions of the configs of `transformers`, made by names and sizes alone.

Widths, heads and sizes of heads are divided by powers of two, the same everywhere in a config and
the configs inside it, so that what has to fit together still does; depths, vocabularies, images
and positions are cut. What a config derives from the rest is left to it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

__all__ = ["Shrink", "shrinks", "shrunk"]

VOCABULARY = 128
FIRST_SPECIAL = 100
"""Numbers of special tokens that are too large for the vocabulary are given new ones from here."""
LAYERS = 4
POSITIONS = 128
WINDOW = 8

_ID = re.compile(r"(.*_)?(token_ids?|token_index|token_idx|pad_id|start_id|end_id)$")
_VOCABULARY = re.compile(r".*vocab_size.*|.*_vocab|codebook_size|n_codes_total|num_hash_buckets")
_HEADS = re.compile(
    r"(.*_)?(num_heads|n_heads?|num_.*_heads|.*attention_heads|n_mamba_heads|heads|num_head"
    r"|num_query_groups|num_kv_heads|n_kv_heads|num_attention_heads_per_.*)$"
)
_RESIDUAL = ("hidden_size", "d_model", "n_embd", "embed_dim")
_SHARED = re.compile(r"key_value|kv")
"""Heads that several heads share: few, so that one may be left."""
_HOLDING_HEADS = re.compile("[qkv]_groups")
"""Groups that heads lie in: as many stay, and so does what they divide."""
_EACH = re.compile(r"(.*_)?(head_dim|headdim|d_head|d_kv|kv_channels|dim_head"
                   r"|rotary_dim|head_size|query_pre_attn_scalar)$")  # fmt: skip
_WIDTH = re.compile(
    r"(?!.*(image|patch_size|kernel|window|stride|chunk|state|max|freq|crop|pool_size|mask_s))"
    r"(?!model_in_dim|feature_size)"  # what a spectrum has
    r"(?!pos_emb_width)"  # positions, as its height
    r"(.*_)?((hidden|intermediate|embedding|embeddings|embed|embd|emb|projection|proj|ffn|mlp"
    r"|feature|features|codebook|lru|adapter|pooler|hid|model|in|out|output|bottleneck|conv|tdnn"
    r"|codevector|descriptor|latent|condition|prompt|query|text|visual|feedforward|expert|quantization)"
    r"_(size|sizes|dim|dims|width|units|per_stage)|hidden_size.*|intermediate_size.*"
    r"|d_model|d_ff|dff|d_inner|d_latents|n_embd|n_inner|dim|dims|dim_ff|dim_feedforward|dim_model_base"
    r"|.*_?channels|num_filters|filters|.*_rank|embed_dims?|embed_dim_per_stage|coordinate_size|shape_size"
    r"|mamba_d_ssm|mlp_dim|upsample_groups|inplanes|backbone_channel_list|num_pos_feats"
    r"|embed_dims|upsample_initial_channel|ffn_dim|.*_units|groups_width)$"
)
_INNER = re.compile(r".*(intermediate_size|ffn_dim|mlp_dim|ffn_size)")
"""Widths that nothing else has to fit: multiples of 16, as some kernels demand of a quarter."""
_DEPTH = re.compile(
    r"(?!max_window|moe_layers|no_rope|num_kv_shared|num_dense)"
    r"(.*_)?(num_hidden_layers|num_layers|n_layers?|layers|depth|depths|num_blocks"
    r"|blocks_per_stage|num_block_repeats|stage_num_blocks|stage_numb_of_layers|n_blocks"
    r"|num_.*_layers|num_self_attends_per_block|encoder_blocks|block_sizes)$"
)
_EXPERTS = re.compile(r"(.*_)?(num_experts|n_routed_experts|num_local_experts|moe_num_experts)$")
_TOP = re.compile(
    r"(.*_)?(num_experts_per_tok(en)?|moe_k|moe_topk|top_k|moe_top_k|n_group|num_expert_group)$"
    r"|(mamba_)?n_?groups"
)
_POSITIONS = re.compile(
    r"(.*_)?(max_ep_len|max_num_patches|max_.*position_embeddings|max_position_embeddings|n_positions|n_ctx|max_.*_positions|max_seq_len(gth)?"
    r"|model_max_length)$"
)
_QUERIES = re.compile(
    r"(.*_)?(num_queries|num_query_tokens|latent_query_num|num_latents|num_denoising)$"
)
_PLACES = re.compile(r"ind(ic|ex)|idxs|layers$|blocks$|hook_ids")
"""Lists of numbers of layers."""
_IMAGE = re.compile(r"(.*_)?(image_size|img_size)$|crop_size")
_PIXELS = re.compile(r"visual_prompt_size|.*feature_sizes")
"""Sizes that are a share of the image's."""


@dataclass(frozen=True)
class Shrink:
    """How much smaller a config becomes.

    Args:
        heads: what numbers of heads are divided by.
        each: what sizes of heads are divided by; widths by both.
        cut: whether images and positions are cut too.
        depth: whether depths are cut too.
        patch: the largest patch of an image.
        sections: how a head's rotation is cut where only the code says it.
    """

    heads: int = 1
    each: int = 1
    cut: bool = True
    depth: bool = True
    patch: int | None = None
    sections: tuple[int, ...] = ()


def shrinks(config: PreTrainedConfig, model: type) -> Iterator[Shrink]:
    """Yield how to make the config of a model smaller, the most first."""
    heads, each, widths = [], [], []
    for inner in _configs(config):
        for name, value in _own(inner):
            for size in _sizes(value):
                own = _HEADS.fullmatch(name) and size > 1 and not _SHARED.search(name)
                if own or _HOLDING_HEADS.fullmatch(name):
                    heads.append(size)
                elif _EACH.fullmatch(name):
                    each.append(size)
                elif name in _RESIDUAL:
                    widths.append(size)
        each += _derived(inner)
    fewest = math.gcd(*heads) if heads else 1
    by_heads = _power(min(fewest & -fewest, min(heads, default=4) // 4))
    least = min(widths, default=64) / max(1, by_heads)
    shared = math.gcd(*each) if each else 64
    by_each = _power(min(least / 24, min(each, default=64) / 8, (shared & -shared) / 4))
    found = [
        Shrink(by_heads, by_each, patch=8),
        Shrink(by_heads, by_each),
        Shrink(by_heads, by_each, depth=False),
        Shrink(1, by_each),
        Shrink(by_heads, 1),
        Shrink(),
        Shrink(cut=False, depth=False),
    ]
    sections = _sections_of(model, config)
    yield from (replace(by, sections=sections) for by in dict.fromkeys(found))


def _derived(config: PreTrainedConfig) -> list[int]:
    """Return the size of a head that follows from a width and a number of heads."""
    width = next((v for n in _RESIDUAL if type(v := _get(config, n)) is int), 0)
    heads = (_get(config, n) for n in ("num_attention_heads", "num_heads", "n_head"))
    count = next((v for v in heads if type(v) is int and v), 0)
    whole = [width // count] if count and width and width % count == 0 else []
    size = _get(config, "head_dim") or (width // count if count and width else 0)
    share = _rotated(config)
    return [*whole, int(size * share)] if type(size) is int and size and share < 1 else whole


def _rotated(config: PreTrainedConfig) -> float:
    """Return which share of each head is rotated."""
    rotation = _get(config, "rope_parameters")
    own = [rotation.get("partial_rotary_factor")] if isinstance(rotation, dict) else []
    own += [_get(config, name) for name in ("partial_rotary_factor", "rotary_pct")]
    return next((v for v in own if isinstance(v, float) and v > 0), 1.0)


def _sections_of(model: type, config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the sections of a rotation that the code falls back to.

    Where it has nothing to fall back to and no config says more, there are four of equal size.
    """
    files = [Path(inspect.getfile(type(inner))) for inner in _configs(config)]
    near = [f.with_name(f.name.replace("configuration", "modeling", 1)) for f in files]
    own = [Path(inspect.getfile(model))] if model.__module__ in sys.modules else []
    code = "".join(f.read_text() for f in dict.fromkeys([*own, *near]) if f.is_file())
    found = re.search(r'get\("mrope_section", \[([\d, ]+)\]', code)
    if found:
        return tuple(map(int, found[1].split(",")))
    return (1, 1, 1, 1) if "len(self.mrope_section)" in code else ()


def _power(size: float) -> int:
    return 2 ** max(0, int(math.log2(max(1, size))))


def _configs(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _configs(value)


def _own(config: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    for name, value in vars(config).items():
        if not name.startswith("_"):
            yield name, value


def _sizes(value: object) -> list[int]:
    if type(value) is int:
        return [value]
    return [v for v in value if type(v) is int] if isinstance(value, list | tuple) else []


def shrunk(config: PreTrainedConfig, by: Shrink, ids: dict[int, int] | None = None) -> Any:
    """Return a smaller config of the same type.

    Args:
        config: a default one.
        by: how much smaller.
        ids: the new numbers of special tokens so far, shared by the configs inside each other.
    """
    ids = {} if ids is None else ids
    given = {}
    for field in dataclasses.fields(config):
        value = None if field.name.startswith("_") else _of_field(config, field, by, ids)
        if value is not None:
            given[field.name] = value
    _fit_together(config, given)
    derived = _derived(config)
    if derived and "head_dim" in {f.name for f in dataclasses.fields(config)} - given.keys():
        given["head_dim"] = derived[0] // by.each  # where a config leaves it to the code
    if getattr(config, "out_indices", None) is not None:  # of a backbone: no field of it
        given["out_indices"] = _value(
            "out_indices", list(config.out_indices), by, ids, _depth_of(config)
        )
    return type(config)(**{k: v for k, v in given.items() if k not in _BASE})


def _of_field(
    config: PreTrainedConfig, field: dataclasses.Field[Any], by: Shrink, ids: dict[int, int]
) -> Any:
    """Return what a smaller config is given for a field; None to leave it to the config."""
    name, value = field.name, _get(config, field.name)
    if value is None:
        return _demanded(config, name)
    if isinstance(value, PreTrainedConfig):
        return shrunk(value, by, ids)
    if name == "width_coefficient":  # all widths go through it, and are rounded after it
        return 0.25
    if value and _PIXELS.fullmatch(name):
        return _scaled(value, _share_of_image(config, by))
    if name == "rope_parameters" and value and isinstance(value, dict):
        return _rotation(config, value, by)
    given = field.default is not None or _given_always(name, value)
    return _value(name, value, by, ids, _depth_of(config)) if given else None


def _fit_together(config: PreTrainedConfig, given: dict[str, Any]) -> None:
    """Set what follows from other parts of the smaller config."""
    if "width_coefficient" in given:
        given |= {n: v for n, v in _own(config) if n in given and _WIDTH.fullmatch(n)}
        if "hidden_dim" in given:  # but this one: it is the last of them, after the coefficient
            given["hidden_dim"] = int(config.hidden_dim * 0.25 / config.width_coefficient)
    text = given.get("text_config")
    for part in given.values() if text is not None else ():
        if type(getattr(part, "out_hidden_size", None)) is int:
            part.out_hidden_size = text.hidden_size  # it hands its results to the text


def _demanded(config: PreTrainedConfig, name: str) -> int | None:
    """Return what a config leaves to its user: sizes, tokens, the window of its layers."""
    types = _get(config, "layer_types") or ()
    slides = "sliding_attention" in types or hasattr(config, "num_sliding_attention_heads")
    return WINDOW if name == "sliding_window" and slides else _MISSING.get(name)


def _share_of_image(config: PreTrainedConfig, by: Shrink) -> float:
    """Return which share is left of the patches on an image's side, or of its pixels."""
    found: dict[str, int] = {}
    for inner in _configs(config):
        for name in ("image_size", "max_img_size", "patch_size"):
            sizes = _sizes(_get(inner, name))
            if sizes:
                found.setdefault(name.replace("max_img", "image"), sizes[0])
    side, patch = found.get("image_size", 0), found.get("patch_size", 1)
    if not side or not by.cut:
        return 1.0
    smaller = _count("patch_size", patch, by, LAYERS)
    return _count("image_size", side, by, LAYERS) / smaller / (side / patch)


def _scaled(value: Any, share: float) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_scaled(item, share) for item in value)
    return max(1, round(value * share))


_MISSING = {
    "vocab_size": VOCABULARY,
    "prediction_length": 8,
    "pad_token_id": 1,
    "mask_token_id": 2,
    "image_token_id": VOCABULARY - 1,
    "image_token_index": VOCABULARY - 1,
    "audio_token_id": VOCABULARY - 2,
    "audio_token_index": VOCABULARY - 2,
    "video_token_id": VOCABULARY - 3,
    "video_token_index": VOCABULARY - 3,
    "num_experts_per_tok": 2,
}
"""What a config demands of its user."""
_BASE = {"transformers_version", "id2label", "label2id", "dtype", "architectures"}


def _given_always(name: str, value: object) -> bool:
    """Return whether a value is handed on though the config would find one by itself."""
    sizes = isinstance(value, list | tuple) and bool(_sizes(value))
    known = (_ID, _WIDTH, _HEADS, _DEPTH) if sizes else (_ID,)
    return isinstance(value, str | dict) or any(names.fullmatch(name) for names in known)


def _get(config: PreTrainedConfig, name: str) -> Any:
    """Return an attribute; None where there is none, or one for each layer instead."""
    try:
        return getattr(config, name, None)
    except Exception:  # of a type of its own: there are several values
        return vars(config).get(name)


def _depth_of(config: PreTrainedConfig) -> int:
    for name in ("num_hidden_layers", "depth", "n_layer", "num_layers", "encoder_layers"):
        count = getattr(config, name, None)
        if type(count) is int and count > LAYERS:
            return count
    return LAYERS


def _value(name: str, value: Any, by: Shrink, ids: dict[int, int], depth: int) -> Any:
    """Return the value of one attribute in the smaller config."""
    if isinstance(value, list | tuple):
        return _list(name, value, by, ids, depth)
    if type(value) is not int:
        return value
    if _ID.fullmatch(name):
        return value if value < FIRST_SPECIAL else ids.setdefault(value, FIRST_SPECIAL + len(ids))
    smaller = next((fit for names, fit in _SIZES if names.fullmatch(name)), None)
    if smaller is not None:
        return smaller(value, by)
    return _count(name, value, by, depth) if by.cut else value


def _list(name: str, value: Any, by: Shrink, ids: dict[int, int], depth: int) -> Any:
    """Return a list with an entry less for each layer less, its numbers of layers moved along."""
    if by.depth and depth > LAYERS and len(value) in (depth, depth + 1):
        value = value[: len(value) - depth + LAYERS]
    if name == "subsampling_conv_channels":  # they fit the bands of a spectrum
        return value
    if by.cut and _IMAGE.fullmatch(name) and len(value) == 2 and max(value) % min(value) == 0:
        smaller = _count(name, min(value), by, depth)
        return type(value)(side * smaller // min(value) for side in value)
    numbers = _sizes(value) == list(value) and LAYERS < max(value, default=0) <= depth
    if by.depth and numbers and _PLACES.search(name) and not _DEPTH.fullmatch(name):
        return type(value)(number * LAYERS // depth for number in value)
    return type(value)(_value(name, item, by, ids, depth) for item in value)


def _width(value: int, by: Shrink) -> int:
    return max(2, value // (by.heads * by.each)) if value >= 16 else value


def _inner(value: int, by: Shrink) -> int:
    smaller = _width(value, by)
    return -(-smaller // 16) * 16 if smaller < value else value


_SIZES: tuple[tuple[re.Pattern[str], Callable[[int, Shrink], int]], ...] = (
    (_VOCABULARY, lambda value, by: min(value, VOCABULARY)),
    (_HEADS, lambda value, by: max(1, value // by.heads)),
    (_EACH, lambda value, by: max(1, value // by.each)),
    (_INNER, _inner),
    (_WIDTH, _width),
)
"""What becomes of a size, by the name that it has."""
_COUNTS = (
    (_EXPERTS, 8),
    (_TOP, 2),
    (re.compile("topk_group"), 1),
    (_POSITIONS, POSITIONS),
    (_QUERIES, 8),
    (re.compile("attention_window"), WINDOW),
    (re.compile("frames_per_clip"), 8),
)
"""How many there may be."""


def _count(name: str, value: int, by: Shrink, depth: int) -> int:
    """Return a number of layers, of positions or of other things in the smaller config."""
    most = next((most for names, most in _COUNTS if names.fullmatch(name)), None)
    if most is not None:
        return min(value, most)
    if _IMAGE.fullmatch(name):
        return min(value, 32) if by.patch else _image(value)
    if name == "patch_size" and by.patch:
        return min(value, by.patch)
    if by.depth and _DEPTH.fullmatch(name):
        return min(value, LAYERS if value > 3 else 2)
    return (
        value * LAYERS // depth
        if by.depth and "layer" in name and LAYERS < value <= depth
        else value
    )


def _rotation(config: PreTrainedConfig, value: dict[str, Any], by: Shrink) -> dict[str, Any]:
    """Return the settings of a rotation, its sections as long as half of what is left of a head."""
    sections = value.get("mrope_section", by.sections)
    if not sections or value.get("rope_type", "default") != "default":
        return value
    heads = getattr(config, "num_attention_heads", 1)
    head = _get(config, "head_dim") or getattr(config, "hidden_size", 0) // heads
    rotated = int(head * value.get("partial_rotary_factor", 1.0)) // by.each
    half = (rotated + 1) // 2
    smaller = [max(1, half * size // sum(sections)) for size in sections]
    alike = len(sections) > 2 and sections[0] == sections[1] != sections[-1]
    smaller[-1 if alike else 0] += half - sum(smaller)  # height and width stay as they are
    return {**value, "mrope_section": smaller}


def _image(side: int) -> int:
    """Return a smaller side that the usual patches divide."""
    if side <= 64:
        return side
    return next((s for s in (64, 56, 96) if s % _patch_of(side) == 0), 64)


def _patch_of(side: int) -> int:
    return next((p for p in (32, 16, 14) if side % p == 0), 8)
