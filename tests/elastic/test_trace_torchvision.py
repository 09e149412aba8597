"""The trace on torchvision's classification networks: permuted axes change no output."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from manynet.elastic._trace import Trace

models = pytest.importorskip("torchvision.models")

Verify = Callable[..., Trace]

BLOCKS = {
    "convnext_tiny": 18,
    "densenet121": 0,
    "efficientnet_b0": 9,
    "maxvit_t": 21,
    "mobilenet_v2": 10,
    "mobilenet_v3_small": 6,
    "regnet_x_400mf": 18,
    "regnet_y_400mf": 12,
    "resnet18": 5,
    "resnet50": 12,
    "shufflenet_v2_x0_5": 0,
    "swin_t": 12,
    "vit_b_16": 12,
}
SIDES = {"maxvit": 224, "vit": 224, "googlenet": 64, "inception": 96}
HUGE = {"regnet_y_128gf", "vit_h_14", "vit_l_16", "vit_l_32", "convnext_large"}  # gigabytes each


def build(name: str) -> tuple[nn.Module, tuple[torch.Tensor]]:
    kwargs: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        kwargs["init_weights"] = False
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = models.get_model(name, weights=None, **kwargs)
    side = next((side for prefix, side in SIDES.items() if name.startswith(prefix)), 64)
    return model, (torch.randn(1, 3, side, side),)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "resnet18", "shufflenet_v2_x0_5"])
def test_small_networks(verify: Verify, name: str) -> None:
    trace = verify(*build(name))
    assert len(trace.blocks) == BLOCKS[name]
    assert not trace.unknown


def test_a_small_vision_transformer(verify: Verify) -> None:
    model = models.VisionTransformer(32, 8, 2, 3, 12, 20, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    trace = verify(model, (torch.randn(2, 3, 32, 32),))
    assert [block.path for block in trace.blocks] == [
        "encoder.layers.encoder_layer_0",
        "encoder.layers.encoder_layer_1",
    ]
    names = {axis.name for axis in trace.axes}
    assert "encoder.layers.encoder_layer_0.self_attention.num_heads" in names


def test_a_small_swin(verify: Verify) -> None:
    model = models.SwinTransformer([2, 2], 8, [2, 2], [2, 4], [4, 4], num_classes=5)
    trace = verify(model, (torch.randn(1, 3, 32, 32),))
    assert len(trace.blocks) == 4
    assert any(axis.name.endswith("num_heads") for axis in trace.axes)


def test_a_resnet_names_its_axes_after_what_brings_them_forth() -> None:
    from manynet.elastic._trace import trace_model

    model, inputs = build("resnet18")
    trace = trace_model(model, inputs)
    assert [axis.name for axis in trace.axes][:4] == [
        "conv1.width",
        "layer1.0.conv1.width",
        "layer1.1.conv1.width",
        "layer2.0.conv1.width",
    ]
    assert [block.path for block in trace.blocks] == [
        "layer1.0",
        "layer1.1",
        "layer2.1",
        "layer3.1",
        "layer4.1",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*models.list_models(module=models)} - HUGE))
def test_every_network(verify: Verify, name: str) -> None:
    trace = verify(*build(name))
    assert len(trace.blocks) == BLOCKS.get(name, len(trace.blocks))
    assert not trace.unknown
    assert trace.fallback is None
