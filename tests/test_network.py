"""The network of a run: read once, copied, or as a form without values."""

from __future__ import annotations

import torch
from torch import nn

from manynet.run._network import Network


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    model[1].register_buffer("scale", torch.arange(3.0), persistent=False)
    return model


def counted() -> tuple[Network, list[nn.Module]]:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(tied())
        return made[-1]

    return Network(make), made


def test_a_form_has_ties_and_buffers_but_nothing_of_the_weights() -> None:
    network, made = counted()
    network()
    form = network.form()
    assert form[1].weight is form[0].weight
    assert form[0].weight is not made[0][0].weight
    assert form[0].weight.device.type == "cpu" and form[0].weight.shape == (6, 4)
    assert torch.equal(form[1].scale, torch.arange(3.0))
    assert len(made) == 1


def test_forms_do_not_share() -> None:
    network, made = counted()
    first, second = network.form(), network.form()
    assert first[0].weight is not second[0].weight
    assert len(made) == 1


def test_a_copy_of_the_original_trains_as_the_network_does() -> None:
    network, made = counted()
    original = network.original().eval().requires_grad_(False)
    again = network()
    assert again is not original and network.original() is original
    assert torch.equal(again[0].weight, original[0].weight)
    assert again[1].weight is again[0].weight
    assert again.training and again[0].weight.requires_grad
    assert not original.training and not original[0].weight.requires_grad
    assert len(made) == 1
