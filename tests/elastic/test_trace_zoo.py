"""The trace on models of timm and torch_geometric: permuted axes change no output.

The models are those that `benchmarks/model_coverage.py` checks in full, one of every timm module.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import manynet
from manynet.elastic._trace import Attribute, Trace, trace_model

Verify = Callable[..., Trace]

pytest.importorskip("timm")
pytest.importorskip("torch_geometric")


def _zoo() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "_coverage_models.py"
    if not path.is_file():
        pytest.skip("needs the benchmarks of the repository", allow_module_level=True)
    spec = importlib.util.spec_from_file_location("_coverage_models", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


ZOO = _zoo()
FEW = ("edgenext_xx_small", "efficientformerv2_s0", "fasternet_t0", "mobilenetv3_small_050",
       "regnetx_002")  # fmt: skip
LOOSE = {"gemma4_vit_167m", "hardcorenas_b", "visformer_tiny"}
"""Models whose own rounding exceeds 1e-5 in single precision; in double precision they pass."""


def build(group: str, name: str) -> tuple[nn.Module, tuple[Any, ...]]:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model, inputs = ZOO.cases(group)[name].build()
    if name in LOOSE:
        return model.double(), tuple(x.double() for x in inputs)
    return model, inputs


@pytest.mark.parametrize("name", FEW)
def test_small_vision_networks(verify: Verify, name: str) -> None:
    assert not verify(*build("timm", name)).unknown


@pytest.mark.parametrize("name", list(ZOO.cases("geometric")))
def test_networks_on_graphs(verify: Verify, name: str) -> None:
    trace = verify(*build("geometric", name))
    assert not trace.unknown
    assert {axis.size for axis in trace.axes} >= {64} or "GAT" in name


def test_heads_of_graph_attention_are_an_axis() -> None:
    model, inputs = build("geometric", "GAT")
    trace = trace_model(model, inputs)
    heads, each = (trace.attributes[Attribute("convs.0", n)] for n in ("heads", "out_channels"))
    assert trace.tensors["convs.0.lin.weight"][0] == (*heads, *each)


def test_a_member_on_another_graph_equals_its_extraction() -> None:
    model, inputs = build("geometric", "GAT")
    family = manynet.elastic(model.eval(), inputs)
    x, edges = torch.randn(7, 16), torch.tensor([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6]])
    smallest = family.space.smallest
    assert family.extract(smallest)(x, edges).shape == (7, 4)
    assert torch.equal(family.at(smallest)(x, edges), family.extract(smallest)(x, edges))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*ZOO.TIMM.values()} - {*FEW}))
@pytest.mark.filterwarnings("ignore")
def test_one_network_of_every_timm_module(verify: Verify, name: str) -> None:
    assert not verify(*build("timm", name)).unknown
