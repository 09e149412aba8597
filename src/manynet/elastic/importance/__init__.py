"""How much channels, heads, neurons and blocks matter: the leading part must be the best part.

Widths and depths are ordered by a name or by a function of the user's own; what looks at data runs
the network on a few batches of it, in evaluation mode, and leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from manynet.bindings.axes import Axis, Dim
from manynet.elastic.importance._activation import activation_scores
from manynet.elastic.importance._blocks import (
    NAMED,
    BlockImportance,
    JointImportance,
    KnownImportance,
    block_scores,
    influence,
    order_blocks,
)
from manynet.elastic.importance._calibration import Calibration, Loss, calibration
from manynet.elastic.importance._gates import Gates, gate, gated
from manynet.elastic.importance._orders import Order, order_axes
from manynet.elastic.importance._scores import Importance, Scores, l1, l2, taylor, weight_scores
from manynet.errors import InputError, did_you_mean

__all__ = [
    "BlockImportance",
    "Calibration",
    "Gates",
    "Importance",
    "JointImportance",
    "KnownImportance",
    "Loss",
    "block_scores",
    "calibration",
    "calibration_for",
    "depth_importances",
    "gate",
    "gated",
    "importances",
    "influence",
    "l1",
    "l2",
    "needs_data",
    "order_blocks",
    "orders",
    "taylor",
]

_WEIGHTS: Mapping[str, Importance] = {"l1": l1, "l2": l2, "taylor": taylor}
_WITH_DATA = ("taylor", "activation", "influence")

importances = ("l1", "l2", "taylor", "activation")
"""The names that `elastic(importance=…)` knows."""
depth_importances = tuple(NAMED)
"""The names that `elastic(depth_importance=…)` knows."""

Width = str | Importance | None
Blocks = str | BlockImportance | JointImportance | None


def needs_data(importance: Width, depth_importance: Blocks) -> bool:
    """Whether one of the two cannot do without calibration data.

    Raises:
        InputError: there is no importance of that name.
    """
    _check("importance", importance, importances)
    _check("depth_importance", depth_importance, depth_importances, JointImportance)
    known = isinstance(depth_importance, KnownImportance)
    return importance in _WITH_DATA or not (depth_importance is None or known)


def _check(argument: str, given: object, names: Sequence[str], kind: type | None = None) -> None:
    known = given is None or isinstance(given, str) or callable(given)
    if not known and (kind is None or not isinstance(given, kind)):
        raise InputError(
            f"{argument} is {given!r}; name one ({', '.join(names)}), pass a function, or None to "
            "keep the model's own order"
        )
    if isinstance(given, str) and given not in names:
        raise InputError(
            f"{argument}={given!r} is not known{did_you_mean(given, names)}; "
            f"name one ({', '.join(names)}), pass a function, or None to keep the model's own order"
        )


def calibration_for(
    model: nn.Module, importance: Width, depth_importance: Blocks, data: object, loss: Loss | None
) -> Calibration | None:
    """Return the network with its calibration data, or None where no importance looks at any.

    Raises:
        InputError: a name is unknown, needs data and there is none, or there is data for nothing.
    """
    wanted = needs_data(importance, depth_importance)
    if data is None and wanted:
        by = (
            f"importance={importance!r}"
            if importance in _WITH_DATA
            else f"depth_importance={depth_importance!r}"
        )
        raise InputError(
            f"{by} looks at data, and none is given; pass data=batches, such as a DataLoader, a "
            "list of (inputs, targets) or of mappings of arguments"
        )
    if data is None and isinstance(depth_importance, KnownImportance):
        return Calibration(model, ())
    if data is None:
        if loss is not None:
            raise InputError("loss is given without data; pass data=batches along with it")
        return None
    if not wanted and not callable(importance):
        raise InputError(
            f"data is given, but importance={importance!r} looks at the weights alone; "
            "name importance='taylor' or 'activation', or depth_importance='influence'"
        )
    return calibration(model, data, loss)


def orders(
    axes: Sequence[Axis],
    tensors: Mapping[str, tuple[Dim, ...]],
    values: Mapping[str, Tensor],
    importance: Width,
    *,
    data: Calibration | None = None,
) -> dict[Axis, Order]:
    """Return for each of the `axes` its positions, most important first.

    An axis that calibration data does not reach is ordered by magnitude.

    Args:
        axes: the axes to order.
        tensors: what the dimensions of each parameter are made of.
        values: the parameters.
        importance: scores the positions; None leaves every order as it is.
        data: calibration data, for an importance that looks at it.

    Raises:
        InputError: the importance returned scores of a wrong shape, or not finite.
    """
    found: dict[Axis, Order] = {}
    if importance is None:
        return found
    for scores in _scores(axes, tensors, values, importance, data):
        left = [axis for axis in axes if axis not in found]
        found |= order_axes(left, tensors, scores())
        if len(found) == len(axes):
            break
    return found


def _scores(
    axes: Sequence[Axis],
    tensors: Mapping[str, tuple[Dim, ...]],
    values: Mapping[str, Tensor],
    importance: str | Importance,
    data: Calibration | None,
) -> list[Callable[[], Scores]]:
    """Return the scores to order by, each for the axes that those before it do not reach."""

    def by_magnitude() -> Scores:
        return weight_scores(axes, tensors, values, l2)

    if importance == "activation":
        assert data is not None
        entering, leaving = activation_scores(data)
        return [lambda: entering, lambda: leaving, by_magnitude]
    function = _WEIGHTS[importance] if isinstance(importance, str) else importance
    if data is None or function in (l1, l2):
        return [lambda: weight_scores(axes, tensors, values, function)]
    return [lambda: _over_batches(axes, tensors, data, function), by_magnitude]


def _over_batches(
    axes: Sequence[Axis],
    tensors: Mapping[str, tuple[Dim, ...]],
    data: Calibration,
    function: Importance,
) -> Scores:
    total: Scores = {}
    for parameters in data.gradients():
        for place, scores in weight_scores(axes, tensors, parameters, function).items():
            total[place] = total[place] + scores if place in total else scores
    return total
