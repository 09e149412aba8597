"""ExSSNeT: one network learns task after task, and no task changes what an earlier one uses.

Each task first learns which entries it uses: a binary mask over weights that stay as they are, the
largest share of learned scores in every layer, the classifier included. Then it trains those
entries of its mask that no earlier mask contains, so that earlier tasks keep their outputs bit for
bit, while their weights may still serve later ones. A new task's scores may start from those of the
earlier task whose features tell its classes apart best. With no weight epochs it is SupSup; with
`exclusive=False` it is SSNeT, which overwrites and so forgets.

Where we differ from the reference code: epochs are chosen on validation data, never on test data;
averaging scores changes no source; the mask stage has a learning rate of its own. Biases and the
scales of norms belong to no task and are frozen, as the paper has none; statistics of norms are one
set a task. The paper's table figures are not confirmed here, so only its abstract is quoted.

The proof learns ten tasks of permuted MNIST from the 10,000-image set. A smaller budget thins the
images and the epochs of all arms alike, both by its root. Two learning rates are chosen from two
each, on the validation accuracy of the first two tasks: that of the masks for SupSup, which all
masked arms take, then that of the weights for ExSSNeT and SSNeT.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from manynet.bindings import overlap
from manynet.bindings.recipes import masked, separated
from manynet.errors import InputError
from manynet.family import Family
from manynet.family.apply import bind
from manynet.family.masks import hold, mask_scores, masks_of, own_and_shared
from manynet.search import accuracy, features_of, neighbor_accuracy
from manynet.systems._condition import Condition
from manynet.systems._exssnet_proof import prove_with
from manynet.systems._system import System
from manynet.train import train_stage

__all__ = ["SYSTEM", "Learned", "Transfer", "learn_task", "task_masks", "transfer_scores"]

Transfer = Literal["best", "all", "always"]
"""Which earlier scores a task starts from: the best above chance, the mean of all above chance, or
the best in any case."""

MASKED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Learned:
    """How a task was learned.

    Args:
        values: validation accuracy at the start and after each epoch of the mask stage.
        weight_values: after each epoch of the weight stage.
        overlap: the share of the mask that earlier masks had.
        sources: the tasks whose scores it started from.
    """

    values: tuple[float, ...]
    weight_values: tuple[float, ...]
    overlap: float
    sources: tuple[int, ...]


def task_masks(
    model: nn.Module, tasks: int, *, density: float = 0.1, fresh: bool = True, seed: int = 0
) -> Family:
    """Return the family of a model with a mask, and statistics of norms, for each task.

    Args:
        model: stays as it is. All its linear and convolutional weights are masked.
        tasks: how many there will be.
        density: the share of entries in a mask, by layer.
        fresh: start from weights of one size a layer with random signs, and biases of zero, as
            the paper does; False keeps the model's.
        seed: of the scores and the signs.

    Raises:
        InputError: the model has no such weight.
    """
    network = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    names: list[str] = []
    for path, module in network.named_modules():
        if isinstance(module, MASKED):
            names.append(f"{path}.weight".lstrip("."))
            if fresh:
                _signed_constant(module, generator)
    names = [name for name, _ in network.named_parameters() if name in set(names)]
    if not names:
        raise InputError("the model has no linear or convolutional weight to mask")
    family = bind(network, names, masked(density, tasks=tasks, seed=seed, hold=True))
    statistics = [n for n, _ in network.named_buffers() if ".running_" in n or "_tracked" in n]
    if statistics:
        family = bind(family, statistics, separated("task", range(tasks)))
    bound = {name for binding in family.blueprint.bindings.values() for name in binding.reads}
    for name, parameter in family.named_parameters():
        parameter.requires_grad_(name in bound)
    family.clear()
    return family


@torch.no_grad()
def _signed_constant(module: nn.Module, generator: torch.Generator) -> None:
    weight = module.weight
    assert isinstance(weight, Tensor)
    signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
    weight.copy_(signs * math.sqrt(2 / weight[0].numel()))
    if isinstance(module.bias, Tensor):
        module.bias.zero_()


def learn_task(
    family: Family,
    task: int,
    data: Any,
    *,
    val: Any,
    mask_epochs: int = 4,
    weight_epochs: int = 4,
    mask_rate: float = 1e-2,
    weight_rate: float = 1e-3,
    exclusive: bool = True,
    transfer: Transfer | None = None,
    **options: Any,
) -> Learned:
    """Learn one task: its mask, then those of its weights that no earlier task uses.

    Args:
        family: of `task_masks`; the tasks before this one have been learned.
        task: its number, from 0.
        data: what `manynet.train` takes.
        val: what `manynet.accuracy` takes; each stage ends as it was at its best epoch.
        mask_epochs: of the mask stage; Adam, with a cosine to zero.
        weight_epochs: of the weight stage, likewise; 0 leaves the weights as they are (SupSup).
        mask_rate: learning rate of the scores.
        weight_rate: learning rate of the weights.
        exclusive: train only what no earlier mask has; False overwrites (SSNeT).
        transfer: start from the scores of earlier tasks.
        **options: of `manynet.train`, for both stages.
    """
    arch, judge = {"task": task}, accuracy(val)
    earlier = [{"task": number} for number in range(task)]
    later = [{"task": n} for n in _task_choice(family) if n > task]
    sources = transfer_scores(family, task, data, mode=transfer) if transfer and task else ()
    own, shared = own_and_shared(family, arch, earlier + later)
    first = {"epochs": mask_epochs, "learning_rate": mask_rate, **options}
    values = train_stage(family, data, arch=arch, names=own, judge=judge, **first)
    masks = [masks_of(family, one) for one in [*earlier, arch]]
    hold(family, earlier if exclusive else [])
    names = (own | shared) - set(mask_scores(family, arch).values())
    second = {"epochs": weight_epochs, "learning_rate": weight_rate, **options}
    after = train_stage(family, data, arch=arch, names=names, judge=judge, **second)
    joined = [torch.cat([mask.flatten() for mask in one.values()]) for one in masks]
    return Learned(values, after[1:], overlap(joined), sources)


def _task_choice(family: Family) -> tuple[Any, ...]:
    return next(choice.values for choice in family.space.choices if choice.name == "task")


def transfer_scores(
    family: Family, task: int, data: Any, *, mode: Transfer = "best", share: float = 0.2
) -> tuple[int, ...]:
    """Start a task's scores from those of earlier tasks whose features suit its classes.

    Args:
        family: of `task_masks`.
        task: the new task's number.
        data: its training data: tensors, a data set, or a loader of one.
        mode: which earlier tasks.
        share: of the data that is looked at, drawn at random.

    Returns:
        the tasks whose scores were taken; none where no task's features are better than chance.
    """
    samples: Any = TensorDataset(*data) if isinstance(data, tuple) else getattr(data, "train", data)
    samples = getattr(samples, "dataset", samples)
    drawn = torch.randperm(len(samples), generator=torch.Generator().manual_seed(task))
    part = Subset(samples, drawn[: max(6, round(share * len(samples)))].tolist())
    training, found, chance = family.training, {}, 0.0
    for number in range(task):
        features, targets = features_of(family.eval().at({"task": number}), part)
        found[number] = neighbor_accuracy(features, targets)
        chance = 1 / len(targets.unique())
    family.train(training)
    good = [n for n, value in found.items() if value > chance or mode == "always"]
    if mode != "all":
        good = [max(good, key=lambda n: found[n])] if good else []
    shared, names = family.state_dict(), [mask_scores(family, {"task": n}) for n in good]
    with torch.no_grad():
        for site, own in mask_scores(family, {"task": task}).items() if good else ():
            shared[own].copy_(torch.stack([shared[one[site]] for one in names]).mean(0))
    return tuple(good)


SYSTEM = System(
    number=12,
    year=2023,
    reference="Findings of ACL 2023, arXiv 2210.10209",
    claim="With 2 to 10 % of the entries in a mask, 8.3 points above SupSup on average, and "
    "nothing is forgotten.",
    parts=(
        "a mask of learned scores for each task",
        "held weights",
        "statistics of norms for each task",
        "one task at a time",
        "best epoch by validation",
        "transfer of scores by nearest neighbors",
        "masks as bits",
    ),
    metric="mean accuracy of ten tasks of permuted MNIST after the last, in percent",
    higher_is_better=True,
    margin=1.0,
    ours="exssnet",
    baseline="supsup",
    prove=lambda proof: prove_with(proof, task_masks, learn_task),
    share=0.4,
    conditions=tuple(Condition(arm, 0, 0.0, "worst forgetting") for arm in ("exssnet", "supsup")),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.systems.exssnet import learn_task, task_masks

data = mn.load_data("digits")
network = mn.build("manynet:small_cnn")
family = task_masks(network, 2, density=0.2)
images, labels = data.train.tensors
for task in range(2):  # the digits, and the digits turned by a quarter
    turned = (images.rot90(task, (2, 3)), labels)
    learn_task(family, task, turned, val=turned, mask_epochs=2, weight_epochs=1, transfer="best")
family = mn.pack_masks(family)  # one bit an entry and task
turner = family.extract({"task": 1})
""",
)
