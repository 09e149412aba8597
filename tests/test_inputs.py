"""Arguments by position and by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet._inputs import batches, call, positional
from manynet.errors import InputError


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(
        self, x: Tensor, unused: None = None, mask: Tensor | None = None, *, loud: bool = False
    ) -> Tensor:
        return self.body(x if mask is None else x * mask)


NAMED = {"mask": torch.ones(6, 4), "x": torch.randn(6, 4)}


def test_names_are_put_in_the_order_of_the_signature() -> None:
    found = positional(Two(), NAMED)
    assert found[0] is NAMED["x"] and found[1] is None and found[2] is NAMED["mask"]
    assert positional(Two(), {"x": NAMED["x"]}) == (NAMED["x"],)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"y": torch.zeros(1, 4)}, "takes x, unused, mask by position, and the inputs are y"),
        ({"x": torch.zeros(1, 4), "loud": True}, "the inputs are x, loud"),
    ],
)
def test_names_that_do_not_fit_are_refused(inputs: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        positional(Two(), inputs)


def test_named_batches_go_through_training_metric_and_calibration() -> None:
    targets = torch.arange(6) % 3
    loader = [{**NAMED, "labels": targets}]
    ((inputs, labels),) = batches(loader)
    assert set(inputs) == {"x", "mask"} and labels is targets
    family = mn.elastic(Two(), NAMED, width=(0.5, 1.0))
    member = family.at(family.space.smallest)
    judged = mn.accuracy(loader)(member)
    assert judged == (call(member, NAMED).argmax(1) == targets).float().mean()
    assert mn.accuracy(loader, limit=2)(member) in (0.0, 0.5, 1.0)
    losses = mn.accumulate(family, (NAMED, targets), [family.space.largest], mn.Task())
    assert losses.shape == (1,)
    mn.calibrate(nn.Sequential(nn.BatchNorm1d(4)), [({"input": NAMED["x"]}, None)])
