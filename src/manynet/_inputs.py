"""Inputs of a network and batches of data, in every form in which a user hands them over."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from manynet.errors import InputError

__all__ = [
    "Batch",
    "Example",
    "Inputs",
    "Named",
    "as_inputs",
    "batch_of",
    "batches",
    "call",
    "described",
    "device_of",
    "evaluating",
    "moved",
    "positional",
    "shapes",
    "tensors_in",
    "with_batch",
]

Inputs = tuple[Any, ...]
"""The positional arguments of a network."""
Named = Mapping[str, Any]
"""The arguments of a network by name, as the tokenizers of `transformers` return them."""
Example = Tensor | Sequence[Any] | Named
"""What users give as example inputs: a tensor, or a network's arguments in order or by name."""
Batch = tuple[Inputs | Named, Any]
"""The arguments of a forward pass on several samples, and their targets or None."""


Given = TypeVar("Given", Inputs, Named, Inputs | Named)


def as_inputs(example_inputs: Tensor | Sequence[object]) -> Inputs:
    """Return the positional arguments of one forward pass as a tuple.

    Args:
        example_inputs: a tensor, or a tuple or list of a network's arguments.

    Raises:
        InputError: it holds no tensor.

    Example:
        >>> [tuple(tensor.shape) for tensor in as_inputs(torch.zeros(2, 3))]
        [(2, 3)]
    """
    inputs = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if not any(isinstance(value, Tensor) for value in inputs):
        raise InputError(
            f"example inputs should be a tensor or a tuple of a network's arguments; found "
            f"{type(example_inputs).__name__}; try (torch.zeros(1, 3, 32, 32),)"
        )
    return tuple(inputs)


def positional(model: nn.Module, inputs: Example) -> Inputs:
    """Return the arguments of a forward pass as a tuple, also where they come by name.

    Args:
        model: the network that takes them; its signature puts names in order.
        inputs: a tensor, a tuple or list of arguments, or a mapping of arguments by name.

    Raises:
        InputError: the network takes no argument of such a name, or there is no tensor.

    Example:
        >>> positional(nn.Linear(3, 2), {"input": torch.zeros(1, 3)})[0].shape
        torch.Size([1, 3])
    """
    if not isinstance(inputs, Mapping):
        return as_inputs(inputs)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    known = inspect.signature(model.forward).parameters
    order = [name for name, parameter in known.items() if parameter.kind in kinds]
    wrong = [name for name in inputs if name not in order]
    if wrong or not inputs:
        raise InputError(
            f"{type(model).__name__} takes {', '.join(order)} by position, and the inputs are "
            f"{', '.join(inputs) or 'none'}; give those that it takes"
        )
    last = max(order.index(name) for name in inputs)
    return as_inputs([inputs.get(name, _default(known[name])) for name in order[: last + 1]])


def _default(parameter: inspect.Parameter) -> object:
    return None if parameter.default is inspect.Parameter.empty else parameter.default


def call(member: nn.Module, inputs: Tensor | Inputs | Named) -> Any:
    """Return what `member` makes of one tensor, of several, or of named ones."""
    if isinstance(inputs, Mapping):
        return member(**inputs)
    return member(*inputs) if isinstance(inputs, tuple) else member(inputs)


def batch_of(inputs: Inputs) -> int:
    """Return the size of the first dimension of the first tensor that has one, else 1."""
    return next((len(v) for v in inputs if isinstance(v, Tensor) and v.dim()), 1)


def with_batch(inputs: Inputs, size: int) -> Inputs:
    """Return the inputs with `size` samples: the first ones, repeated where there are too few.

    Tensors whose first dimension is as long as the first tensor's hold one sample a row; the
    others (a table, an edge list) stay as they are.

    Raises:
        InputError: there is no sample to repeat.

    Example:
        >>> [tuple(x.shape) for x in with_batch((torch.zeros(4, 3), torch.zeros(2, 9)), 6)]
        [(6, 3), (2, 9)]
    """
    found = batch_of(inputs)
    if found == 0:
        raise InputError(f"example inputs {shapes(inputs)} hold no sample; give at least one")

    def resized(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != found:
            return value
        if size <= found:
            return value[:size]
        return value.repeat(-(-size // found), *[1] * (value.dim() - 1))[:size]

    return tuple(resized(value) for value in inputs)


def shapes(inputs: Inputs | Named) -> str:
    """Return the shapes of the inputs in words, for messages."""
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return ", ".join(
        str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value) for value in values
    )


def described(inputs: Inputs | Named) -> str:
    """Return types and shapes of the inputs in words, where the type may be what is wrong.

    Example:
        >>> described((torch.zeros(2, 3), torch.zeros(4, dtype=torch.long), None))
        'float32 of (2, 3), int64 of (4,), None'
    """
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    return ", ".join(
        f"{str(value.dtype).removeprefix('torch.')} of {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else repr(value)
        for value in values
    )


def moved(inputs: Given, device: torch.device) -> Given:
    """Return the inputs with their tensors on `device`."""

    def there(value: Any) -> Any:
        return value.to(device) if isinstance(value, Tensor) else value

    if isinstance(inputs, Mapping):
        return cast("Given", {name: there(value) for name, value in inputs.items()})
    return tuple(there(value) for value in inputs)


def device_of(member: nn.Module) -> torch.device:
    """Return the device of a network's first parameter or buffer; the CPU where it has none."""
    tensor = next(itertools.chain(member.parameters(), member.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def tensors_in(outputs: object) -> list[Tensor]:
    """Return the tensors of a network's outputs in order, from tuples, lists and mappings too."""
    from torch.utils import _pytree

    return [leaf for leaf in _pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


@contextlib.contextmanager
def evaluating(member: nn.Module) -> Iterator[nn.Module]:
    """Put a network in eval mode for a while; afterwards each module is as it was."""
    modes = [(module, module.training) for module in member.modules()]
    try:
        yield member.eval()
    finally:
        for module, training in modes:
            module.training = training


def batches(data: Any, *, batch_size: int = 64) -> Iterator[Batch]:
    """Yield (inputs, targets) of the data, batch after batch; targets may be None.

    Args:
        data: a tensor of samples; a tuple (inputs, targets) of tensors; a `torch` data set; or an
            iterable of batches such as a `DataLoader`, each a tensor, (inputs, targets), or a
            mapping of named inputs with their `labels`; the inputs of a network with several
            arguments are a tuple, a list or a mapping.
        batch_size: samples a batch where the data does not come in batches.

    Raises:
        InputError: the data is none of these, or inputs and targets differ in length.
    """
    if isinstance(data, Tensor):
        yield from (((part,), None) for part in data.split(batch_size))
    elif isinstance(data, tuple):
        yield from _pairs(data, batch_size)
    elif isinstance(data, Dataset):
        from manynet.data import batches as batches_of_set

        yield from (_batch(batch) for batch in batches_of_set(data, batch_size))
    elif isinstance(data, Iterable):
        yield from (_batch(batch) for batch in data)
    else:
        raise InputError(
            f"data should be tensors, a data set or an iterable of batches; found "
            f"{type(data).__name__}"
        )


def _pairs(data: tuple[Any, ...], batch_size: int) -> Iterator[Batch]:
    """Yield the batches of a tuple (inputs, targets) of tensors."""
    if len(data) != 2 or not all(isinstance(part, Tensor) for part in data):
        found = ", ".join(type(part).__name__ for part in data)
        raise InputError(f"a tuple of data should be (inputs, targets), two tensors; found {found}")
    inputs, targets = data
    if len(inputs) != len(targets):
        raise InputError(f"there are {len(inputs)} inputs and {len(targets)} targets")
    for part, wanted in zip(inputs.split(batch_size), targets.split(batch_size), strict=True):
        yield (part,), wanted


def _batch(batch: Any) -> Batch:
    """Return one batch of a loader as (inputs, targets)."""
    if isinstance(batch, Tensor):
        return (batch,), None
    if isinstance(batch, tuple | list) and batch:
        inputs, targets = batch[0], (batch[1] if len(batch) > 1 else None)
        return (inputs if isinstance(inputs, Mapping) else as_inputs(inputs)), targets
    if isinstance(batch, Mapping) and any(isinstance(v, Tensor) for v in batch.values()):
        named = {name: value for name, value in batch.items() if name != "labels"}
        return named, batch.get("labels")
    raise InputError(
        "a batch should be a tensor, (inputs, targets) or named inputs with labels; found "
        f"{type(batch).__name__}"
    )
