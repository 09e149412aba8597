"""The loss of each member of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from manynet.data import Batch
from manynet.errors import InputError

__all__ = [
    "Distill",
    "DistillOutputs",
    "Loss",
    "Objective",
    "Task",
    "logits_of",
    "squared_error",
]

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function of outputs and targets that returns one number, such as `cross_entropy`."""


class Objective(Protocol):
    """The loss of one member. Any function of these four arguments will do."""

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss.

        Args:
            outputs: what the member returned for the batch.
            batch: inputs and targets.
            teacher: what the largest member returned in this step, without its graph; None when
                the step has no largest member, and for that member itself. Where the objective
                has an attribute `chained` that is true: what the member before it returned.
            is_teacher: whether this is the largest member.
        """


def logits_of(outputs: object) -> Tensor:
    """Return the logits among a network's outputs: themselves, or their `logits`.

    Raises:
        InputError: there are none; the message says what the network returned.
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if found is None:
        found = getattr(outputs, "logits", None)
    if isinstance(found, Tensor):
        return found
    keys = f" with the keys {', '.join(map(str, outputs))}" if isinstance(outputs, Mapping) else ""
    raise InputError(
        f"the network returned {type(outputs).__name__}{keys}, and the loss needs one tensor; "
        "say where it is, as in Task(logits=lambda outputs: outputs['out'])"
    )


@dataclass(frozen=True)
class Task:
    """Every member learns from the labels.

    Args:
        loss: a function of logits and targets; cross-entropy by default.
        logits: finds the logits in what the network returns.

    Example:
        >>> import torch
        >>> Task()(torch.zeros(2, 4), (torch.zeros(2, 1), torch.tensor([0, 3])), None, False)
        tensor(1.3863)
    """

    loss: Loss = functional.cross_entropy
    logits: Callable[[object], Tensor] = logits_of

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss of `outputs` against the batch's targets."""
        return self.loss(self.logits(outputs), batch[1])


@dataclass(frozen=True)
class Distill:
    """In-place distillation: the largest member learns the labels, the others what it says.

    The others minimize the Kullback-Leibler divergence from the largest member's class
    probabilities to theirs. In a step without the largest member all learn from the labels.

    Args:
        temperature: divides the logits of both; the loss is multiplied by its square, so that
            gradients keep their size.
        labels: share of the label loss in what the others learn; 0 is distillation alone.
        label_smoothing: of the largest member's cross-entropy.
        loss: the label loss.
        logits: finds the logits in what the network returns.
        dim: the dimension of the classes.
        chained: each member learns what the one before it in the step says, not the largest.

    Reference: Yu et al., "BigNAS", 2020, arXiv 2003.11142; the temperature is Hinton et al.'s,
        2015, arXiv 1503.02531, and BigNAS uses 1.

    Example:
        >>> import torch
        >>> logits, batch = torch.zeros(2, 4), (torch.zeros(2, 1), torch.tensor([0, 3]))
        >>> float(Distill()(logits, batch, logits, False))
        0.0
    """

    temperature: float = 1.0
    labels: float = 0.0
    label_smoothing: float = 0.0
    loss: Loss = functional.cross_entropy
    logits: Callable[[object], Tensor] = logits_of
    dim: int = 1
    chained: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(f"Distill(temperature={self.temperature}): it must be above 0")
        for name, share in (("labels", self.labels), ("label_smoothing", self.label_smoothing)):
            if not 0 <= share <= 1:
                raise InputError(f"Distill({name}={share}): it is a share between 0 and 1")
        if self.label_smoothing and self.loss is not functional.cross_entropy:
            raise InputError(
                "Distill(label_smoothing=…) belongs to cross-entropy; smooth inside your own loss"
            )

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the label loss of the largest member, the distillation loss of another."""
        logits, targets = self.logits(outputs), batch[1]
        if is_teacher and self.label_smoothing:
            return functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        if is_teacher or teacher is None:
            return self.loss(logits, targets)
        soft = self._divergence(logits, self.logits(teacher).detach(), targets)
        if not self.labels:
            return soft
        return self.labels * self.loss(logits, targets) + (1 - self.labels) * soft

    def _divergence(self, logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        own = functional.log_softmax(logits / self.temperature, dim=self.dim)
        wanted = functional.log_softmax(teacher / self.temperature, dim=self.dim)
        total = functional.kl_div(own, wanted, reduction="sum", log_target=True)
        distributions = logits.numel() // logits.shape[self.dim]
        return total * (self.temperature**2 / distributions)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean squared error of numbers.

    A target of one number may come without the dimension that the output has for it: `(N,)` is
    compared with `(N, 1)` number by number, where PyTorch's own loss would broadcast them.

    Raises:
        InputError: outputs and targets have different shapes.

    Example:
        >>> import torch
        >>> squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 0.0]))
        tensor(2.)
    """
    if outputs.dim() == targets.dim() + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    if outputs.shape != targets.shape:
        raise InputError(
            f"the network returns {tuple(outputs.shape)} for targets {tuple(targets.shape)}; they "
            "should be of one shape, or give a loss of your own"
        )
    return functional.mse_loss(outputs, targets)


@dataclass(frozen=True)
class DistillOutputs(Distill):
    """In-place distillation of numbers: the others learn what the largest member returns.

    Its outputs take the place of the targets in the same loss, so this serves regression, dense
    maps of numbers, and every loss that takes outputs for targets.

    Args:
        loss: of outputs against targets; the squared error by default.

    Example:
        >>> import torch
        >>> outputs, batch = torch.ones(2, 3), (torch.zeros(2, 1), torch.zeros(2, 3))
        >>> float(DistillOutputs()(outputs, batch, torch.zeros(2, 3), False))
        1.0
    """

    loss: Loss = squared_error

    def __post_init__(self) -> None:
        if self.temperature != 1:
            raise InputError("DistillOutputs has no temperature; it belongs to probabilities")
        super().__post_init__()

    def _divergence(self, logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
        if teacher.numel() == targets.numel():  # (N, 1) for targets (N,)
            teacher = teacher.reshape(targets.shape)
        return self.loss(logits, teacher)
