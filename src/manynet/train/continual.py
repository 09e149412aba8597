"""Objectives that keep what was learned before while something else is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from manynet.data import Batch
from manynet.errors import InputError
from manynet.family import Family
from manynet.space import Arch, Value
from manynet.train.objectives import Objective, Task, logits_of

__all__ = ["ElasticWeights", "OutputRegulariser"]


class OutputRegulariser:
    """An objective, and `beta` times how far the weights of earlier members have moved.

    For families whose members' weights are computed, by a hypernetwork above all: a member is kept
    by keeping its weights where they were, while the numbers that they are computed of may change.

    Args:
        family: whose members are kept.
        objective: of the member that learns; the labels by default.
        beta: weight of the mean over the members of the summed squares of the differences.
        drawn: of how many members, drawn anew, each step looks; None: of all.

    Reference: von Oswald et al., "Continual learning with hypernetworks", ICLR 2020, arXiv
        1906.00695. Their look-ahead by the planned step is left out, as in most of their own runs.

    Example:
        >>> import manynet
        >>> from manynet.bindings.hyper import hypernetwork
        >>> from manynet.space import Choice
        >>> recipe = hypernetwork(condition=Choice("task", (0, 1)), hidden=(8,))
        >>> family = manynet.bind(torch.nn.Linear(4, 2), "*", recipe, together=True)
        >>> objective = OutputRegulariser(family)
        >>> objective.arm([{"task": 0}])
        >>> float(objective.penalty().detach())
        0.0
    """

    def __init__(
        self,
        family: Family,
        objective: Objective | None = None,
        *,
        beta: float = 0.01,
        drawn: int | None = None,
    ) -> None:
        if beta < 0 or (drawn is not None and drawn < 1):
            raise InputError(f"beta={beta} is 0 or more, and drawn={drawn} at least 1")
        self.family, self.objective = family, objective or Task()
        self.beta, self.drawn = beta, drawn
        self.kept: dict[Arch, dict[str, Tensor]] = {}

    def arm(self, archs: Sequence[Mapping[str, Value]]) -> None:
        """Keep these members as they are now, and no others."""
        space = self.family.space
        with torch.no_grad():
            self.kept = {
                arch: {name: p.detach().clone() for name, p in self._computed(arch).items()}
                for arch in map(space.arch, archs)
            }

    def _computed(self, arch: Arch) -> dict[str, Tensor]:
        """Return the weights of a member that are computed."""
        bound = self.family.blueprint.bindings
        member = self.family.at(arch)
        return {name: p for name, p in member.named_parameters() if name in bound}

    def penalty(self) -> Tensor:
        """Return the mean over the members of the summed squares of how far they have moved."""
        archs = list(self.kept)
        if self.drawn is not None and self.drawn < len(archs):
            archs = [archs[int(n)] for n in torch.randperm(len(archs))[: self.drawn]]
        total = torch.zeros((), device=self.family.device)
        for arch in archs:
            kept = self.kept[arch]
            for name, now in self._computed(arch).items():
                total = total + (now - kept[name].to(now.device)).square().sum()
        return total / max(1, len(archs))

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss."""
        loss = self.objective(outputs, batch, teacher, is_teacher)
        return loss + self.beta * self.penalty() if self.kept and self.beta else loss


class ElasticWeights:
    """Elastic weight consolidation: an objective, and a spring on every weight that mattered.

    Args:
        family: whose shared weights are held.
        strength: of the springs, `lambda` in the paper.
        objective: of the member that learns; set anew it for each task where tasks have heads.

    Reference: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", 2017,
        arXiv 1612.00796. The Fisher information is that of the labels, a spring for each task.
    """

    def __init__(
        self, family: Family, *, strength: float, objective: Objective | None = None
    ) -> None:
        self.family, self.strength, self.objective = family, strength, objective or Task()
        self.springs: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    def hold(self, arch: Mapping[str, Value], inputs: Tensor, targets: Tensor) -> None:
        """Hold the weights where they are, each by the Fisher information that these samples give.

        Args:
            arch: of the member that has learned.
            inputs: samples `(B, ...)`.
            targets: their labels `(B,)`.
        """
        member = self.family.extract(arch).eval()
        names = {name: p for name, p in self.family.named_parameters() if p.requires_grad}
        own = {name: p.detach() for name, p in member.named_parameters()}
        if own.keys() != names.keys():
            raise InputError("springs hold families whose members read their weights as they are")

        def loss(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            outputs = functional_call(member, values, (x[None],))
            return self.objective(logits_of(outputs), ((x[None],), y[None]), None, False)

        each = vmap(grad(loss), in_dims=(None, 0, 0))(own, inputs, targets)
        fisher = {name: found.square().mean(0) for name, found in each.items()}
        self.springs.append((own, fisher))

    def __call__(
        self, outputs: object, batch: Batch, teacher: object | None, is_teacher: bool
    ) -> Tensor:
        """Return the loss."""
        loss = self.objective(outputs, batch, teacher, is_teacher)
        weights = dict(self.family.named_parameters())
        for own, fisher in self.springs:
            for name, spring in fisher.items():
                moved = (weights[name] - own[name]).square()
                loss = loss + self.strength / 2 * (spring * moved).sum()
        return loss
