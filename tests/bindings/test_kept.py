"""What computed bindings keep from the pull of a value until the push of its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import manynet as mn
from manynet.bindings import recipes
from manynet.bindings.operation import evaluate
from manynet.bindings.protocol import Computed

KEPT = {
    "a mask": recipes.masked(),
    "a mask of a task": recipes.masked(tasks=2),
    "a fixed mask": recipes.prunable(),
    "companding": recipes.companded(),
    "companding with learned curves": recipes.companded(learned=True, per="channel"),
    "rounding": recipes.quantized(8),
    "rounding without symmetry": recipes.quantized(8, symmetric=False),
    "a dictionary": recipes.mixed(2),
    "a pool": recipes.sharded(40, 40),
    "a tie with a scale": recipes.tied(scale=True),
}


def kept_bytes(family: mn.Family, name: str) -> int:
    """Return the bytes that a graph of a weight keeps beside the shared tensors themselves."""
    reading = family.blueprint.bindings[name].at(family.space.largest, {})
    assert isinstance(reading, Computed)
    if reading.again:  # the graph goes at once
        return 0
    leaves = {
        key: tensor.detach().requires_grad_(tensor.requires_grad)
        for key, tensor in family.state_dict().items()
    }
    known = {tensor.untyped_storage().data_ptr() for tensor in leaves.values()}
    found: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = evaluate(reading, leaves)
        assert value.requires_grad
    return sum(found.values())


@pytest.mark.parametrize("recipe", KEPT.values(), ids=KEPT)
def test_hardly_anything_is_kept_between_pull_and_push(recipe: recipes.Recipe) -> None:
    torch.manual_seed(0)
    family = mn.bind(nn.Sequential(nn.Linear(40, 40), nn.Linear(40, 40)), "*weight", recipe)
    few = 8 * 40  # numbers of rows, such as scales
    assert kept_bytes(family, "1.weight") <= few
