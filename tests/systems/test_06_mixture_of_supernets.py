"""Mixture-of-Supernets: a translator with experts; the exact checks stand with `routed`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import manynet as mn
from manynet.errors import InputError
from manynet.models.translator import Translator
from manynet.systems.mixture_of_supernets import SYSTEM, mix_experts, six_archs, spread
from manynet.train import Sandwich, Task, token_loss, train

FEEDS = ["encoder.0.feed", "decoder.0.feed", "decoder.1.feed"]
GENERATOR = torch.Generator().manual_seed(0)
SOURCE = torch.randint(1, 20, (32, 5), generator=GENERATOR)
TARGET = torch.randint(1, 20, (32, 6), generator=GENERATOR)


def plain() -> mn.Family:
    torch.manual_seed(0)
    network = Translator(20, width=12, feed=16, layers=(1, 2), heads=2, positions=8)
    width = {"*.attn.*": (1.0,), "*.cross.*": (1.0,), "*": (0.5, 1.0)}
    return mn.elastic(network, (SOURCE[:2], TARGET[:2]), width=width)


@pytest.mark.parametrize("per", ["row", "layer"])
def test_a_member_of_a_translator_is_a_plain_network(per: str) -> None:
    wanted = plain()
    layers = [(f"{f}.fc1", f"{f}.fc2") for f in FEEDS] if per == "layer" else ["*.fc1", "*.fc2"]
    family = mix_experts(plain(), layers, per=per, hidden=8)  # type: ignore[arg-type]
    routers = sum(name.endswith("router_in_weight") for name, _ in family.named_parameters())
    assert routers == (3 if per == "layer" else 6)
    for arch in six_archs(family.space):
        alone = family.extract(arch).eval()
        found = family.eval().at(arch)(SOURCE, TARGET)
        torch.testing.assert_close(alone(SOURCE, TARGET), found, rtol=1e-5, atol=1e-5)
        sizes = {name: tensor.shape for name, tensor in alone.state_dict().items()}
        assert sizes == {n: t.shape for n, t in wanted.extract(arch).state_dict().items()}


def test_training_moves_the_routers_and_keeps_members_apart() -> None:
    family = mix_experts(plain(), ["*.fc1", "*.fc2"], hidden=8)
    before = {n: p.detach().clone() for n, p in family.named_parameters() if "router" in n}
    data = (SOURCE, TARGET, TARGET.roll(-1, 1))
    log = train(
        family,
        data,
        sampler=Sandwich(1),
        objective=Task(loss=token_loss),
        steps=30,
        optimizer="adamw",
        learning_rate=0.01,
        weight_decay=0.0,
        batch_size=16,
    )
    losses = [value for _, value in log.curve("largest")]
    assert losses[-1] < losses[0] - 0.3
    for name, parameter in family.named_parameters():
        if name in before and "out" in name:
            assert not torch.equal(parameter, before[name]), name


def test_routers_that_see_nothing_have_no_spread() -> None:
    seeing = mix_experts(plain(), ["*.fc1"], hidden=8)
    blind = mix_experts(plain(), ["*.fc1"], hidden=8, sees=())
    archs = six_archs(seeing.space)
    assert spread(seeing, archs) > 1e-3
    assert spread(blind, archs) == 0


def test_layers_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match=r"no layer fits '\*.fc7'; there are, for example"):
        mix_experts(plain(), ["*.fc7"])


def test_the_example_runs() -> None:
    names: dict[str, object] = {}
    exec(SYSTEM.example, names)
    assert isinstance(names["small"], nn.Module)
