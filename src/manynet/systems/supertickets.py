"""SuperTickets: one training searches the architecture and prunes the weights of a supernet.

Two reductions happen while the supernet trains, instead of search, training, pruning and training
again. An L1 on the scales of norms, weighted by what a channel costs, lets whole channels and
branches die, which are cut out of weights, masks and optimizer state for good. And single weights
are masked, the smallest of all layers together, more of them with every event; between events the
masks are lifted, so that a weight cut too early may come back. What comes out, the *ticket*, is an
architecture, a mask and weights: it is used as it is, trained further, or given another head for
another task.

Where we differ: masked weights restart from zero (the released code's zeroing has no effect);
the masks of the last event stay to the end; what dead channels still add is folded into the next
norm (the code has that switched off), but for tokens, which speak to each other; a shrink keeps the
masks of what stays. The scales of 12 epochs do not die by themselves as those of 350 do, so a share
of the MACs can be asked for: the last shrink then cuts the smallest scales down to it.

The paper's supernet is `manynet.models.parallel_cnn`, with up to four resolutions side by side and
a light transformer in each block (without its decoder); any other network will do.

The proof trains six blocks of two kernels on CIFAR-10, scaled to 24 by 24 pixels, after a stem of
stride 2. The budget thins the images of all arms alike; the twelve epochs stay, as the events hang
on them. Arms have equally many nonzero weights, exactly, and all that shrink the same MACs. The
table figures of the paper are not confirmed here, so only its abstract is quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from manynet.bindings.recipes import prunable
from manynet.cost import by_layer
from manynet.elastic import cut, elastic, replace_head
from manynet.family import Family
from manynet.family.apply import bind
from manynet.family.masks import fixed_masks
from manynet.models import fold_constants
from manynet.systems._condition import Condition
from manynet.systems._supertickets_proof import prove_with
from manynet.systems._system import System
from manynet.train import Fixed, Prune, ScaledL1, Shrink, Task, scales_of, steps_an_epoch, train

__all__ = ["SYSTEM", "rewind", "search_costs", "ticket_family", "train_supertickets", "transfer"]

PRUNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
UNITS, SCALES, AXIS = "*.branches.*.expand.width", "*.norm2.weight", ".expand.width"


def ticket_family(network: nn.Module, example_inputs: Any, *, units: str = UNITS) -> Family:
    """Return the family of a network whose units can be cut and whose weights have masks.

    Args:
        network: stays as it is; `manynet.models.atomic_cnn` or any other.
        example_inputs: what it takes.
        units: pattern of the names of the axes whose channels may go.
    """
    shares = {units: (0.25, 0.5, 0.75, 1.0)}
    family = elastic(network, example_inputs, width=shares, depth=False, importance=None)
    weights = {id(m.weight) for m in family.shared.modules() if isinstance(m, PRUNED)}
    names = [n for n, p in family.shared.named_parameters() if id(p) in weights]
    return bind(family, names, prunable())


def search_costs(family: Family, *, scales: str = SCALES) -> tuple[tuple[Any, ...], float]:
    """Return the scales of each branch with the MACs of one of its channels, and the MACs in all.

    Those of a branch are counted at its most and at its fewest channels: what does not grow in
    proportion to their number grows with its square, as attention between tokens does.

    Args:
        family: of `ticket_family`.
        scales: pattern of the scales' names; all modules beside them, such as `branch.expand` and
            `branch.project` beside `branch.norm2`, are the branch's.
    """
    shared, most = family.state_dict(), family.space.largest
    fewest = {c.name: c.values[0] for c in family.space.choices if c.name.endswith(AXIS)}
    ends = most, family.space.arch({**most, **fewest})
    counted = [by_layer(family.extract(arch), family.example_inputs) for arch in ends]
    macs = [{layer.path: layer.macs for layer in layers} for layers in counted]

    def cost(name: str) -> tuple[float, float]:
        branch = name.rpartition(".")[0].rpartition(".")[0]
        own = [sum(n for p, n in one.items() if p.startswith(f"{branch}.")) for one in macs]
        count = shared[name].numel()
        few = int(fewest.get(f"{branch}{AXIS}", count))
        one, other = own[0] / max(1, count), own[1] / max(1, few)
        pair = (one - other) / (count - few) if 0 < few < count else 0.0
        return one - count * pair, pair

    return scales_of(family, scales, cost), float(sum(macs[0].values()))


def train_supertickets(
    family: Family,
    data: Any,
    *,
    epochs: int,
    strength: float = 1.8e-4,
    shrink: Mapping[str, Any] | None = None,
    prune: Prune | None = None,
    **options: Any,
) -> float:
    """Train the largest member, shrink it and prune it on the way; it is the ticket then.

    Args:
        family: of `ticket_family`; it changes in place.
        data: what `manynet.train` takes.
        epochs: passes over it.
        strength: of the cost-weighted L1, after a rise over a fourteenth of the run.
        shrink: options of `manynet.train.Shrink` beside scales and costs; None shrinks nothing.
        prune: when and how single weights are masked; `Prune()` by default.
        **options: of `manynet.train`.

    Returns:
        the share of the MACs that is left.
    """
    scales, total = search_costs(family)
    events: list[Any] = [prune or Prune()]
    if shrink is not None:
        steps = epochs * steps_an_epoch(data, options.get("batch_size"))
        rule = Shrink(scales, total, **{"fold": _fold, **shrink})
        until = None if rule.last is None else rule.last * steps // epochs
        options["penalty"] = ScaledL1(scales, strength, round(steps / 14), until)
        events.insert(0, rule)
    recipe: dict[str, Any] = {"sampler": Fixed({}), "objective": Task(), "weight_decay": 1e-5}
    train(family, data, epochs=epochs, events=events, **{**recipe, **options})
    return search_costs(family)[1] / total


def _fold(member: nn.Module, dead: Mapping[str, Sequence[int]]) -> None:
    fold_constants(member, {axis.removesuffix(AXIS): places for axis, places in dead.items()})


def transfer(ticket: Family, head: nn.Module, *, path: str = "head") -> Family:
    """Return the ticket with a new head for another task; its mask stays, and so do its weights.

    Args:
        ticket: a trained family; it stays as it is.
        head: the new module.
        path: of the old one.
    """
    return replace_head(ticket, path, head)


def rewind(start: Family, ticket: Family) -> Family:
    """Cut and mask a family as a ticket is, in place, and return it: its weights are its own.

    Trained with `Fixed({})` and `Task()` it shows what the ticket is worth from the beginning, as
    for lottery tickets.

    Args:
        start: of `ticket_family`, of the network that the ticket began as.
        ticket: a trained family; it stays as it is.
    """
    cut(start, ticket.cuts)
    state, masks = start.state_dict(), ticket.state_dict()
    for keep in fixed_masks(ticket).values():
        state[keep].copy_(masks[keep])
    return start


SYSTEM = System(
    number=31,
    year=2022,
    reference="ECCV 2022, arXiv 2207.03677",
    claim="Tickets found by searching and pruning at once beat search followed by pruning, with or "
    "without retraining, and transfer between tasks.",
    parts=(
        "branches of kernels and of tokens, whose channels are atomic units",
        "cost-weighted L1 on scales, rising",
        "channels cut for good, with optimizer state and averages",
        "global magnitude masks in steps, lifted between events",
        "slices composed with masks",
        "new heads on old tickets",
        "sparse files, compact members",
    ),
    metric="accuracy on CIFAR-10 at equal nonzero weights and MACs, in percent",
    higher_is_better=True,
    margin=0.0,
    ours="supertickets",
    baseline="search, then prune",
    prove=lambda proof: prove_with(proof, ticket_family, train_supertickets, transfer),
    share=0.2,
    conditions=(
        Condition("supertickets", "sticky", -0.3),
        Condition("transfer", "transfer, random mask", 2.0),
    ),
    module=__name__,
    example="""\
import torch
import manynet as mn
from manynet.models import atomic_cnn
from manynet.systems.supertickets import ticket_family, train_supertickets
from manynet.train import Prune

data = mn.load_data("digits")
network = atomic_cnn(10, 1, widths=(8, 16), depths=(1, 1), stride=1)
family = ticket_family(network, data.example_inputs())
train_supertickets(
    family,
    data,
    epochs=6,
    shrink={"target": 0.7, "every": 1, "last": 4},
    prune=Prune(0.8, rise=0.2),
)
ticket = mn.compact(family.extract({}).eval(), data.example_inputs())
mn.export(ticket, "ticket.safetensors", data.example_inputs(), weights="sparse")
""",
)
