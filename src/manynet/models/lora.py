"""Low-rank adapters through `peft`: the weights of a model stay, two thin matrices learn."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from torch import nn

from manynet.errors import InputError
from manynet.models.language import library

__all__ = ["add_adapters", "has_adapters", "merge_adapters", "without_adapters"]


def add_adapters(model: nn.Module, *, rank: int) -> nn.Module:
    """Put a low-rank adapter on every linear layer but the output's, in place, and freeze the rest.

    The adapters begin at zero, so the model computes what it did. An elastic family slices them
    along with the weights that they belong to.

    Args:
        model: a language model, or any module with linear layers.
        rank: of the adapters.

    Returns:
        The same model.

    Raises:
        InputError: the rank is below 1, or the model has no linear layer.
        MissingExtraError: `peft` is not installed.

    Reference: Hu et al., "LoRA", 2021, arXiv 2106.09685. The scale is `alpha / rank = 2`.
    """
    if rank < 1:
        raise InputError(f"lora={rank}: the rank of the adapters is at least 1")
    peft = library("peft")
    head = getattr(model, "get_output_embeddings", lambda: None)()
    targets = [
        path
        for path, module in model.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and module is not head
    ]
    if not targets:
        raise InputError(f"{type(model).__name__} has no linear layer that an adapter could go on")
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=targets,
        fan_in_fan_out=type(model.get_submodule(targets[0])).__name__ == "Conv1D",
    )
    peft.inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return model


def has_adapters(model: nn.Module) -> bool:
    """Return whether any layer of `model` has an adapter, by any method of `peft`."""
    return any(_is_adapted(module) for module in model.modules())


def merge_adapters(model: nn.Module) -> nn.Module:
    """Add the adapters to the weights that they belong to, in place, and take them off.

    A weight that several layers share is copied first for each that has an adapter, since what
    the adapters add to it differs.

    Returns:
        The same model, with its plain layers, whose weights learn again.
    """
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    found = [(path, module) for path, module in model.named_modules() if _is_adapted(module)]
    for path, module in found:
        layer: Any = module
        base = layer.get_base_layer()
        if uses[id(base.weight)] > 1:
            base.weight = nn.Parameter(base.weight.detach().clone())
        layer.merge()
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, base)
    if found:
        model.requires_grad_(True)
    return model


@contextlib.contextmanager
def without_adapters(model: nn.Module) -> Iterator[nn.Module]:
    """Let the model compute as if it had no adapters, for a while."""
    layers: list[Any] = [module for module in model.modules() if _is_adapted(module)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield model
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "merged_adapters") and hasattr(module, "get_base_layer")
