"""Pull and push: values come in when a source has changed, gradients go back."""

import gc
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import nn

from manynet.bindings.leaf import Touched, bind
from manynet.bindings.protocol import Computed, Part

WHOLE = slice(None)


def leading(rows: int, columns: int) -> Part:
    return Part("w", (slice(0, rows), slice(0, columns)))


def scattered() -> Part:
    return Part("w", (np.array([0, 2, 3]), np.array([1, 4])))


PARTS = {
    "rows": Part("w", (slice(0, 2), WHOLE)),
    "block": leading(3, 4),
    "indices of rows": Part("w", (np.array([0, 3, 4]), WHOLE)),
    "indices of columns": Part("w", (slice(0, 3), np.array([0, 5]))),
    "indices of both": scattered(),
}


def value_of(source: torch.Tensor, part: Part) -> torch.Tensor:
    index = [np.arange(n)[i] for n, i in zip(source.shape, part.index, strict=True)]
    return source[np.ix_(*index)]


@pytest.fixture
def weight() -> nn.Parameter:
    return nn.Parameter(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))


def test_a_whole_part_is_the_shared_tensor_itself(weight: nn.Parameter) -> None:
    assert bind(Part("w", (WHOLE, WHOLE)), {"w": weight}, Touched()).tensor is weight


def test_leading_rows_share_storage(weight: nn.Parameter) -> None:
    leaf = bind(PARTS["rows"], {"w": weight}, Touched())
    assert leaf.pull is None
    assert leaf.tensor.data_ptr() == weight.data_ptr()
    with torch.no_grad():
        weight.add_(1)
    assert torch.equal(leaf.tensor, weight[:2])


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_values_follow_the_source(weight: nn.Parameter, part: Part) -> None:
    leaf = bind(part, {"w": weight}, Touched())
    assert leaf.tensor.is_contiguous()
    assert torch.equal(leaf.tensor, value_of(weight, part))
    with torch.no_grad():
        weight.mul_(2)
    storage = leaf.tensor.data_ptr()
    if leaf.pull is not None:
        with torch.no_grad():
            leaf.pull(leaf.tensor, False)
    assert torch.equal(leaf.tensor, value_of(weight, part))
    assert leaf.tensor.data_ptr() == storage


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS.keys())
def test_gradients_arrive_in_the_part_and_nowhere_else(weight: nn.Parameter, part: Part) -> None:
    touched = Touched()
    leaf = bind(part, {"w": weight}, touched)
    factor = torch.randn(leaf.tensor.shape)
    for _ in range(2):  # several backward passes add up
        (leaf.tensor * factor).sum().backward()
    twin = weight.detach().clone().requires_grad_()
    (value_of(twin, part) * factor * 2).sum().backward()
    assert weight.grad is not None and twin.grad is not None
    assert torch.allclose(weight.grad, twin.grad, atol=1e-6)
    assert leaf.tensor.grad is None
    assert touched.parts == {"w": {part}}


def test_clearing_gradients_between_forward_and_backward_loses_nothing(
    weight: nn.Parameter,
) -> None:
    leaf = bind(leading(3, 4), {"w": weight}, Touched())
    leaf.tensor.sum().backward()
    loss = leaf.tensor.sum()
    weight.grad = None
    loss.backward()
    assert weight.grad is not None
    assert weight.grad.sum() == 12


def test_a_frozen_parameter_stays_frozen(weight: nn.Parameter) -> None:
    weight.requires_grad_(False)
    assert not bind(leading(2, 2), {"w": weight}, Touched()).tensor.requires_grad


def double(tensors: "list[torch.Tensor]") -> torch.Tensor:
    return tensors[0] @ tensors[1]


def test_a_computed_value_pulls_and_pushes_through_its_function() -> None:
    a, b = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4, 2))
    parts = (Part("a", (WHOLE, WHOLE)), Part("b", (WHOLE, WHOLE)))
    touched = Touched()
    leaf = bind(Computed(("a", "b"), double, parts), {"a": a, "b": b}, touched)
    factor = torch.randn(3, 2)
    for _ in range(2):
        (leaf.tensor * factor).sum().backward()
    twins = [t.detach().clone().requires_grad_() for t in (a, b)]
    (double(twins) * factor * 2).sum().backward()
    for shared, twin in zip((a, b), twins, strict=True):
        assert torch.allclose(shared.grad, twin.grad, atol=1e-6)
    assert touched.parts == {"a": {parts[0]}, "b": {parts[1]}}
    with torch.no_grad():
        a.mul_(3)
        leaf.pull(leaf.tensor, True)
    assert torch.allclose(leaf.tensor, a @ b)


@pytest.mark.parametrize("kind", ["part", "computed"])
def test_a_leaf_is_freed_without_the_garbage_collector(weight: nn.Parameter, kind: str) -> None:
    reading = (
        leading(3, 4)
        if kind == "part"
        else Computed(("w", "w"), lambda t: t[0] * t[1], (leading(5, 6),))
    )
    gc.disable()
    try:
        leaf = bind(reading, {"w": weight}, Touched())
        gone = weakref.ref(leaf.tensor)
        del leaf
        assert gone() is None
    finally:
        gc.enable()


def test_gradients_that_a_binding_passes_on_share_no_memory() -> None:
    """A sum of views hands the same memory to each of its operands."""
    first, second = (nn.Parameter(torch.randn(2, 3)) for _ in range(2))
    reading = Computed(
        ("a", "b"),
        lambda tensors: tensors[0].view(6) + tensors[1].view(6),
        (Part("a", (WHOLE, WHOLE)), Part("b", (WHOLE, WHOLE))),
    )
    leaf = bind(reading, {"a": first, "b": second}, Touched())
    factor = torch.randn(6)
    for number in range(1, 3):
        (leaf.tensor * factor).sum().backward()
        for source in (first, second):
            assert source.grad is not None
            assert torch.allclose(source.grad, number * factor.view(2, 3))
    assert first.grad.data_ptr() != second.grad.data_ptr()  # type: ignore[union-attr]


def test_a_gradient_that_is_passed_on_as_it_is_is_not_copied() -> None:
    source = nn.Parameter(torch.randn(2, 3))
    reading = Computed(("w",), lambda tensors: tensors[0] + 1, (Part("w", (WHOLE, WHOLE)),))
    leaf = bind(reading, {"w": source}, Touched())
    arrived: list[int] = []
    leaf.tensor.register_hook(lambda grad: arrived.append(grad.data_ptr()))
    (leaf.tensor * torch.randn(2, 3)).sum().backward()
    assert source.grad is not None
    assert arrived == [source.grad.data_ptr()]


def test_what_is_computed_again_keeps_no_graph_and_gives_the_same_gradients() -> None:
    weight = nn.Parameter(torch.randn(2, 3))
    kept: list[weakref.ref[torch.Tensor]] = []

    def squared(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        inner = tensors[0].exp()
        kept.append(weakref.ref(inner))
        return inner * inner

    reading = Computed(("w",), squared, (Part("w", (WHOLE, WHOLE)),), again=True)
    leaf = bind(reading, {"w": weight}, Touched())
    assert leaf.pull is not None
    for number in range(1, 3):
        with torch.no_grad():
            leaf.pull(leaf.tensor, True)
        assert kept[-1]() is None
        leaf.tensor.sum().backward()
        assert weight.grad is not None
        assert torch.allclose(weight.grad, 2 * number * (2 * weight).exp())
    assert len(kept) == 5  # when it was bound, and twice a pass
