"""Orders of channels by importance."""

import numpy as np
import pytest
import torch
from torch import nn

from manynet import elastic
from manynet.bindings.axes import Axis, Concat
from manynet.elastic.importance import calibration_for, l1, l2, orders
from manynet.errors import InputError


@pytest.mark.parametrize(("score", "power"), [(l1, 1), (l2, 2)])
@pytest.mark.parametrize("shape", [(5, 7), (5, 4, 3, 3), (130, 6)])
def test_scores_are_sums_over_the_other_dimensions(score, power, shape) -> None:
    weight = torch.randn(shape)
    for dim in range(len(shape)):
        others = [d for d in range(len(shape)) if d != dim]
        expected = weight.abs().pow(power).sum(others)
        assert torch.allclose(score(weight, dim), expected, rtol=1e-4)


def test_the_heaviest_position_comes_first() -> None:
    axis, fixed = Axis("a", 3), Axis("in", 2, "an input")
    weight = torch.tensor([[1.0, 1.0], [5.0, 5.0], [3.0, 3.0]])
    order = orders([axis], {"w": ((axis,), (fixed,))}, {"w": weight}, l2)
    assert order[axis].tolist() == [1, 2, 0]


def test_an_inner_axis_is_scored_over_all_its_places() -> None:
    heads, size, fixed = Axis("heads", 2), Axis("size", 2), Axis("in", 1, "an input")
    weight = torch.tensor([[1.0], [2.0], [1.0], [9.0]])  # rows: head 0, head 1
    order = orders([heads, size], {"w": ((heads, size), (fixed,))}, {"w": weight}, l1)
    assert order[heads].tolist() == [1, 0]
    assert order[size].tolist() == [1, 0]


def test_parts_of_a_concatenation_are_scored_apart() -> None:
    a, b, fixed = Axis("a", 2), Axis("b", 2), Axis("in", 1, "an input")
    weight = torch.tensor([[1.0], [2.0], [4.0], [3.0]])
    dims = ((Concat(((a,), (b,))),), (fixed,))
    order = orders([a, b], {"w": dims}, {"w": weight}, l1)
    assert order[a].tolist() == [1, 0]
    assert order[b].tolist() == [0, 1]


def test_norms_and_biases_have_no_say() -> None:
    axis, fixed = Axis("a", 2), Axis("in", 1, "an input")
    tensors = {"w": ((axis,), (fixed,)), "norm": ((axis,),)}
    values = {"w": torch.tensor([[1.0], [2.0]]), "norm": torch.tensor([100.0, 0.0])}
    assert orders([axis], tensors, values, l2)[axis].tolist() == [1, 0]


def test_ties_keep_the_models_own_order() -> None:
    axis, fixed = Axis("a", 4), Axis("in", 1, "an input")
    order = orders([axis], {"w": ((axis,), (fixed,))}, {"w": torch.ones(4, 1)}, l2)
    assert np.array_equal(order[axis], np.arange(4))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"importance='l3' is not known"):
        calibration_for(nn.Linear(1, 1), "l3", None, None, None)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [(lambda w, d: torch.ones(3), "must be 2 finite"), (lambda w, d: w[:, 0] / 0, "NaN or inf")],
)
def test_wrong_scores_are_refused(wrong, words) -> None:
    axis, fixed = Axis("a", 2), Axis("in", 1, "an input")
    with pytest.raises(InputError, match=words):
        orders([axis], {"w": ((axis,), (fixed,))}, {"w": torch.ones(2, 1)}, wrong)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"importance": 3}, r"importance is 3; name one \(l1, l2, taylor, activation\), pass a f"),
        (
            {"depth_importance": 3},
            r"depth_importance is 3; name one \(influence\), pass a function",
        ),
        (
            {"importance": lambda weight, dim: None},
            "dimension 0, must be a tensor of .*; it is None",
        ),
    ],
)
def test_what_is_no_importance_is_refused(settings: dict[str, object], words: str) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    with pytest.raises(InputError, match=words):
        elastic(net, torch.zeros(1, 4), **settings)
