"""Batches of calibration data: how to run a network on each, and what its loss is."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from manynet._inputs import as_inputs, batches, device_of, evaluating
from manynet.errors import InputError

__all__ = ["LIMIT", "Batch", "Calibration", "Loss", "calibration"]

LIMIT = 32
"""How many batches are used, however many there are."""

Loss = Callable[[Any, Any], Tensor]
"""Takes what the network returns and the targets of a batch; returns one number."""


@dataclass(frozen=True)
class Batch:
    """One call of the network.

    Args:
        args: the positional arguments.
        kwargs: the keyword arguments.
        targets: what the loss takes beside the outputs; of a mapping its `labels`, else all of it.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    targets: object = None


@dataclass(frozen=True)
class Calibration:
    """A network in evaluation mode, batches of data, and a loss.

    Args:
        model: the network; its weights, statistics and gradients stay as they are.
        batches: the batches.
        loss: the loss; None to find out from what the network returns.
    """

    model: nn.Module
    batches: Sequence[Batch]
    loss: Loss | None = None

    def run(self) -> None:
        """Run the network on every batch, for those who watch it."""
        with torch.no_grad(), evaluating(self.model):
            for number in range(len(self.batches)):
                self._outputs(number)

    def objective(self, number: int) -> Tensor:
        """Return the loss on a batch, differentiable."""
        with evaluating(self.model):
            return self._loss(self._outputs(number), self.batches[number])

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Let no parameter require a gradient for a while."""
        wanted = {parameter: parameter.requires_grad for parameter in self.model.parameters()}
        try:
            for parameter in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, before in wanted.items():
                parameter.requires_grad_(before)

    def gradients(self) -> Iterator[dict[str, nn.Parameter]]:
        """Yield for each batch the parameters that the loss reaches, their gradient in `grad`.

        They share the storage of the network's own parameters, whose gradients are not touched.
        """
        named = {n: p for n, p in self.model.named_parameters() if p.is_floating_point()}
        wanted = {name: parameter.requires_grad for name, parameter in named.items()}
        try:
            for parameter in named.values():
                parameter.requires_grad_(True)
            for number in range(len(self.batches)):
                yield self._gradients(number, named)
        finally:
            for name, parameter in named.items():
                parameter.requires_grad_(wanted[name])

    def _gradients(self, number: int, named: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        with torch.inference_mode(False), torch.enable_grad():
            loss = self.objective(number)
            grads = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        found = {}
        for (name, parameter), grad in zip(named.items(), grads, strict=True):
            if grad is not None:
                found[name] = nn.Parameter(parameter.detach())
                found[name].grad = grad.detach()
        return found

    def _outputs(self, number: int) -> Any:
        batch, device = self.batches[number], device_of(self.model)
        args, kwargs = tree_map_only(Tensor, lambda x: x.to(device), (batch.args, batch.kwargs))
        try:
            return self.model(*args, **kwargs)
        except Exception as error:
            raise InputError(
                f"{type(self.model).__name__} fails on batch {number} of the calibration data: "
                f"{error}; a batch is a tensor, (inputs, targets) or a mapping of arguments"
            ) from error

    def _loss(self, outputs: Any, batch: Batch) -> Tensor:
        targets = tree_map_only(Tensor, lambda x: x.to(device_of(self.model)), batch.targets)
        value = _own_loss(outputs, targets) if self.loss is None else self.loss(outputs, targets)
        shape = tuple(getattr(value, "shape", (-1,)))
        if math.prod(shape) != 1 or not value.requires_grad:
            raise InputError(
                "the loss of calibration data must be a tensor of one number that hangs on the "
                f"outputs; it is {type(value).__name__} of shape {shape}"
            )
        return value.reshape(())


def _own_loss(outputs: Any, targets: object) -> Tensor:
    """Return the loss that the network returns itself, or the cross-entropy of class numbers."""
    own = outputs.get("loss") if isinstance(outputs, Mapping) else getattr(outputs, "loss", None)
    if isinstance(own, Tensor):
        return own
    logits = getattr(outputs, "logits", outputs)
    classes = isinstance(targets, Tensor) and not targets.is_floating_point()
    if isinstance(logits, Tensor) and isinstance(targets, Tensor) and classes:
        if targets.shape == logits.shape[:-1]:  # one class for each token
            return functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
        return functional.cross_entropy(logits, targets)
    kind = "none" if targets is None else type(targets).__name__
    raise InputError(
        f"gradients need a loss: the model returns {type(outputs).__name__} without one, and the "
        f"targets are not class numbers ({kind}); pass loss=a function of (outputs, targets), or "
        "batches that hold the targets"
    )


def calibration(model: nn.Module, data: object, loss: Loss | None) -> Calibration:
    """Return the network with the first batches of `data`.

    Args:
        model: the network.
        data: what `manynet.elastic` takes.
        loss: the loss; None to find out from what the network returns.

    Raises:
        InputError: the data holds no batch, or is something else.
    """
    found = tuple(itertools.islice(_batches(data), LIMIT))
    if not found:
        raise InputError("data for the importance holds no batch; give at least one")
    return Calibration(model, found, loss)


def _batches(data: Any) -> Iterator[Batch]:
    if isinstance(data, Mapping):
        yield _batch(data)
    elif isinstance(data, Tensor | tuple | Dataset) or not isinstance(data, Iterable):
        yield from map(_batch, batches(data))
    else:
        yield from map(_batch, data)


def _batch(batch: Any) -> Batch:
    if isinstance(batch, Mapping):
        return Batch((), dict(batch), batch.get("labels", dict(batch)))
    if isinstance(batch, Tensor):
        return Batch((batch,))
    if isinstance(batch, tuple | list) and batch:
        inputs, targets = batch[0], (batch[1] if len(batch) > 1 else None)
        if isinstance(inputs, Mapping):
            return Batch((), dict(inputs), targets)
        return Batch(as_inputs(inputs), targets=targets)
    raise InputError(
        "a batch of data for the importance should be a tensor, (inputs, targets) or a mapping of "
        f"arguments; found {type(batch).__name__}"
    )
