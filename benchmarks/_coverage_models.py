"""The models of `model_coverage.py`: one case each, built small enough for two cores.

Weights are random: what is checked holds for any. Sides of images are the smallest that the model
accepts.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from manynet._inputs import positional

__all__ = ["GROUPS", "Case", "cases"]


@dataclass(frozen=True)
class Case:
    """A model to check.

    Args:
        build: makes the model and its example inputs.
        part: what of the model is checked, where it is not the whole.
        deep: whether depth or heads have to be elastic beside widths.
    """

    build: Callable[[], tuple[nn.Module, tuple[Any, ...]]]
    part: str | None = None
    deep: bool = False


# -- torchvision -----------------------------------------------------------------------------

_SIDES = {"inception_v3": 299, "maxvit_t": 224, "vit_h_14": 56, "swin3d": 32}
"""The side of an image that a model accepts, where 64 pixels are not it."""
_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"image_size": 64} for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32")},
    "vit_h_14": {"image_size": 56},
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
}


def _classification(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    import torchvision

    side = _SIDES.get(name, 64)
    model = torchvision.models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    return model, (torch.randn(2, 3, side, side),)


def _segmentation(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    import torchvision

    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return model, (torch.randn(2, 3, 64, 64),)


class RawDetector(nn.Module):
    """A detector without the steps that pick boxes by their values: all layers, raw predictions.

    The second stage looks at three fixed boxes an image.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.regions = getattr(detector, "roi_heads", None)
        self.head = detector.head if self.regions is None else detector.rpn.head

    def forward(self, images: Tensor) -> Any:
        """Return the raw scores and offsets of every level, and those of the fixed boxes."""
        features = self.backbone(images)
        if isinstance(features, Tensor):
            features = {"0": features}
        dense = self.head(list(features.values()))
        if self.regions is None:
            return dense
        side = images.shape[-1]
        corners = [[0, 0, side // 4, side // 4], [side // 8, 0, side, side], [0, 0, side, side]]
        boxes = [images.new_tensor(corners) for _ in range(images.shape[0])]
        sides = [(side, side) for _ in boxes]
        return dense, [
            predictor(head(pool(features, boxes, sides))) for pool, head, predictor in self._heads()
        ]

    def _heads(self) -> Iterator[tuple[nn.Module, nn.Module, nn.Module]]:
        for kind in ("box", "mask", "keypoint"):
            parts = (f"{kind}_roi_pool", f"{kind}_head", f"{kind}_predictor")
            if getattr(self.regions, parts[0], None) is not None:
                pool, head, predictor = (getattr(self.regions, part) for part in parts)
                yield pool, head, predictor


def _detection(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    import torchvision

    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    side = 300 if name == "ssd300_vgg16" else 320 if name.startswith("ssdlite") else 64
    return RawDetector(model), (torch.randn(2, 3, side, side),)


def _torchvision_names(module: str) -> list[str]:
    import torchvision

    room = torchvision.models if module == "" else getattr(torchvision.models, module)
    names = torchvision.models.list_models(module=room)
    weights = torchvision.models.get_model_weights
    return sorted(names, key=lambda name: next(iter(weights(name))).meta["num_params"])


def torchvision_classification() -> Iterator[tuple[str, Case]]:
    for name in _torchvision_names(""):
        yield name, Case(partial(_classification, name))


def torchvision_segmentation() -> Iterator[tuple[str, Case]]:
    for name in _torchvision_names("segmentation"):
        yield name, Case(partial(_segmentation, name))


def torchvision_detection() -> Iterator[tuple[str, Case]]:
    for name in _torchvision_names("detection"):
        part = "every layer, with fixed boxes: which boxes are picked depends on their values"
        yield name, Case(partial(_detection, name), part)


# -- timm ------------------------------------------------------------------------------------

TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "mobileone_s1",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "convnext_zepto_rms",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "mobilenetv2_035",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "mambaout_femto",
    "maxxvit": "maxvit_pico_rw_256",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "nf_regnet_b0",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "resnet10t",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "vit_srelpos_small_patch16_224",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest model, by parameters, of each of timm 1.0.31's modules; its unit tests' aside."""
TIMM_MORE = (
    "bat_resnext26ts", "caformer_s18", "coatnet_nano_rw_224", "coatnext_nano_rw_224",
    "convformer_s18", "convnextv2_atto", "cspresnet50", "darknet53", "dm_nfnet_f0",
    "eca_botnext26ts_256", "eca_nfnet_l0", "ecaresnet26t", "fbnetc_100", "flexivit_small",
    "gcresnext26ts", "gernet_s", "lambda_resnet26t", "lcnet_035", "mixer_s32_224", "mixnet_s",
    "mnasnet_small", "mobilenetv4_conv_small", "mobilenetv4_hybrid_medium", "nfnet_l0",
    "regnety_002", "regnetz_b16", "repvgg_a0", "resmlp_12_224", "resnet26t", "resnetblur50",
    "resnetrs50", "resnetv2_50x1_bit", "seresnext26d_32x4d", "seresnext26ts", "spnasnet_100",
    "tf_efficientnetv2_b0", "tf_mobilenetv3_small_minimal_100", "twins_pcpvt_small",
    "vit_wee_patch16_reg1_gap_256",
)  # fmt: skip
"""Other families that share a module with one of the above; chosen before any was tried."""
_TIMM_OPTIONS: dict[str, dict[str, Any]] = {
    "deepseek_vit_412m": {"depth": 4},
    "vit_tiny_patch16_dinov3_qkvb": {"num_classes": 10},
}
"""Less depth for what is too large here, and a head for what has none: an output is never cut."""


def _timm(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    import timm

    model = timm.create_model(name, **_TIMM_OPTIONS.get(name, {}))
    side = _smallest_side(model)
    return model, (torch.randn(2, 3, side, side),)


def _smallest_side(model: nn.Module) -> int:
    """Return the side of the smallest square image that a timm model runs on."""
    config = model.default_cfg
    usual = config["input_size"][-1]
    if config.get("fixed_input_size"):
        return usual
    for side in (64, 96, 128, 192, 224, 256):
        try:
            with torch.no_grad():
                copy.deepcopy(model).eval()(torch.zeros(2, 3, side, side))
        except Exception:
            continue
        return side
    return usual


def timm_modules() -> Iterator[tuple[str, Case]]:
    for name in TIMM.values():
        yield name, Case(partial(_timm, name))


def timm_more() -> Iterator[tuple[str, Case]]:
    for name in TIMM_MORE:
        yield name, Case(partial(_timm, name))


# -- transformers ----------------------------------------------------------------------------

_ZOO = Path(__file__).parent.parent / "tests" / "elastic" / "transformers_zoo.py"


@cache
def _zoo() -> ModuleType:
    """Return the tiny models that the tests build as well."""
    spec = importlib.util.spec_from_file_location("transformers_zoo", _ZOO)
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    return zoo


def _transformer(name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    model, named = _zoo().build(name)
    return model, positional(model, named)


def transformers() -> Iterator[tuple[str, Case]]:
    for name in _zoo().NAMES:
        yield name, Case(partial(_transformer, name), "tiny, from a config", deep=True)


# -- graphs and sequences --------------------------------------------------------------------


def _graph_model(name: str, **options: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    from torch_geometric.nn import models

    model = getattr(models, name)(16, 64, num_layers=3, out_channels=4, **options)
    generator = torch.Generator().manual_seed(0)
    edges = torch.randint(0, 20, (2, 60), generator=generator)
    return model, (torch.randn(20, 16, generator=generator), edges)


def geometric() -> Iterator[tuple[str, Case]]:
    for label, name, options in (
        ("GCN", "GCN", {}),
        ("GCN with jumping knowledge", "GCN", {"jk": "cat", "norm": "batch"}),
        ("GraphSAGE", "GraphSAGE", {}),
        ("GraphSAGE with maximum", "GraphSAGE", {"aggr": "max"}),
        ("GIN", "GIN", {}),
        ("GAT", "GAT", {"heads": 4}),
        ("GATv2", "GAT", {"heads": 4, "v2": True}),
        ("PNA", "PNA", {"aggregators": ["mean", "max"], "scalers": ["identity"],
                        "deg": torch.tensor([1, 4, 8, 4])}),
        ("EdgeCNN", "EdgeCNN", {}),
    ):  # fmt: skip
        yield label, Case(partial(_graph_model, name, **options))


class Tagger(nn.Module):
    """A recurrent network over tokens."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 48)
        self.layers = kind(48, 64, num_layers=2, batch_first=True, **options)
        self.head = nn.Linear(64 * (2 if self.layers.bidirectional else 1), 9)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the scores of every token's tag."""
        return self.head(self.layers(self.embedding(tokens))[0])


class MixerBlock(nn.Module):
    """Mixes positions, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.channels = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` with both mixed in."""
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


def _mixer() -> tuple[nn.Module, tuple[Any, ...]]:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 8, 8), nn.Flatten(2), _Transpose(),
        *(MixerBlock(16, 64) for _ in range(4)), nn.LayerNorm(64), _Mean(), nn.Linear(64, 10),
    )  # fmt: skip
    return model, (torch.randn(2, 3, 32, 32),)


class _Transpose(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _tagger(kind: type[nn.RNNBase], **options: Any) -> tuple[nn.Module, tuple[Any, ...]]:
    return Tagger(kind, **options), (torch.randint(0, 100, (2, 12)),)


def small() -> Iterator[tuple[str, Case]]:
    yield "LSTM", Case(partial(_tagger, nn.LSTM))
    yield "LSTM in both directions", Case(partial(_tagger, nn.LSTM, bidirectional=True))
    yield "GRU", Case(partial(_tagger, nn.GRU))
    yield "MLP-Mixer", Case(_mixer)


GROUPS: dict[str, Callable[[], Iterator[tuple[str, Case]]]] = {
    "torchvision-classification": torchvision_classification,
    "torchvision-segmentation": torchvision_segmentation,
    "torchvision-detection": torchvision_detection,
    "timm": timm_modules,
    "timm-more": timm_more,
    "transformers": transformers,
    "geometric": geometric,
    "small": small,
}


def cases(group: str) -> dict[str, Case]:
    """Return the cases of a group by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(GROUPS[group]())
