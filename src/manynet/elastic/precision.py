"""Bits as choices: each layer's weight and input, rounded in a form that the arch decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from manynet._inputs import evaluating, positional
from manynet.bindings.axes import Axis, Dim
from manynet.bindings.forms import Per, level_tables, quantized
from manynet.bindings.rounding import best_levels, learned_round
from manynet.bindings.site import Group
from manynet.errors import InputError
from manynet.family import Family, Follow, Note
from manynet.family.apply import bind
from manynet.space import Arch, Choice, Space, Value

__all__ = [
    "InputQuantizer",
    "add_input_quantizers",
    "elastic_bits",
    "mean_bits",
    "uniform_arch",
]

BITS = (2, 3, 4, 5, 6, 7, 8)
LAYERS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_WHOLE = 16  # so many bits and more leave the inputs as they are
_SAMPLE = 16_384  # entries of a layer's inputs that its levels are fitted to


class InputQuantizer(nn.Module):
    """Rounds what a layer takes, with a learned step and, where not symmetric, a learned offset.

    Attributes:
        bits: of the integers; 16 and more leave the inputs as they are.
        symmetric: whether zero is one of the levels; else they begin where the offset says.
        signed: whether the integers reach below zero; else all of them are for what is above.

    Shapes: any to the same.

    Reference: Esser et al. 2020, arXiv 1902.08153; Bhalgat et al. 2020, arXiv 2004.09576.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bits = 32
        self.symmetric = True
        self.signed = True
        self.step = nn.Parameter(torch.ones(1))
        self.offset = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the rounded inputs."""
        if self.bits >= _WHOLE:
            return inputs
        low = -(2 ** (self.bits - 1)) if self.signed else 0
        high = low + 2**self.bits - 1
        offset = None if self.symmetric else self.offset
        return learned_round(inputs, self.step, low, high, offset).to(inputs.dtype)

    def extra_repr(self) -> str:
        """Return the form in words."""
        return f"bits={self.bits}, symmetric={bool(self.symmetric)}"


def _round_inputs(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Round the first argument of a layer: a forward pre-hook."""
    quantizer: Any = module._modules["input_quantizer"]
    return (quantizer(args[0]), *args[1:])


def add_input_quantizers(
    model: nn.Module, layers: tuple[type[nn.Module], ...] = LAYERS
) -> nn.Module:
    """Put a quantizer before each layer of some types, in place; none rounds until it is told to.

    The layers keep their names and their classes. A family of `elastic_bits` is loaded with such
    a model: `manynet.load(folder, model=add_input_quantizers(model))`.

    Returns:
        The same model.

    Example:
        >>> add_input_quantizers(nn.Linear(4, 2)).input_quantizer
        InputQuantizer(bits=32, symmetric=True)
    """
    for module in list(model.modules()):
        if isinstance(module, layers) and "input_quantizer" not in module._modules:
            weight = module._parameters.get("weight")
            module.add_module("input_quantizer", InputQuantizer().to(weight).train(module.training))
            module.register_forward_pre_hook(_round_inputs)
    return model


def elastic_bits(
    target: nn.Module | Family,
    example_inputs: Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    bits: int | Sequence[int] = BITS,
    input_bits: int | Sequence[int] | None = BITS,
    per: Per | Sequence[Per] = ("tensor", "channel"),
    symmetric: bool | Sequence[bool] = (True, False),
    input_symmetric: bool | Sequence[bool] = (True, False),
    edges: int | None = 8,
    layers: tuple[type[nn.Module], ...] = LAYERS,
) -> Family:
    """Return a family whose members round weights and inputs of their layers, each in its own form.

    All forms read one set of weights; each has a step of its own (and an offset, where it is not
    symmetric), a row of a table that is trained with the weights. Steps start where rounding loses
    least: those of the inputs on `example_inputs`, which should be a batch of real data. Choices
    are called `LAYER.weight.bits`, `.per` and `.symmetric`, `LAYER.input.bits` and `.symmetric`.

    Args:
        target: a trained model, which stays as it is, or a family, whose choices stay too.
        example_inputs: a batch of what its forward takes.
        bits: of the weights, from 2 to 8; 32 leaves them as they are. One value is no choice.
        input_bits: of the layers' inputs; None leaves all inputs as they are.
        per: what of a weight has a step of its own: the `"tensor"` or each `"channel"`.
        symmetric: forms of the weights.
        input_symmetric: forms of the inputs.
        edges: the bits of the first and the last layer, weight and input, in place of the others.
        layers: the types of layers.

    Raises:
        InputError: no such layer runs on the example inputs.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> family = elastic_bits(model, torch.randn(16, 4), bits=(4, 8), edges=None)
        >>> family.space.names[0], len(family.space)
        ('0.weight.bits', 10)

    Reference: Xu et al. 2023, arXiv 2308.07650 (EQ-Net).
    """
    model = target.shared if isinstance(target, Family) else target
    inputs = positional(model, example_inputs)
    largest = target.extract(target.space.largest) if isinstance(target, Family) else target
    seen = _inputs_of(largest, inputs, layers)
    if not seen:
        names = ", ".join(kind.__name__ for kind in layers)
        raise InputError(f"no {names} of {type(model).__name__} runs on the example inputs")
    order = list(seen)
    ends = {order[0], order[-1]} if edges is not None else set()
    bound = target
    outer = _weights(largest, [path for path in order if path in ends])
    inner = [name for name in _weights(largest, order) if name not in outer]
    for weights, own in ((inner, bits), (outer, edges)):
        if weights and own is not None:
            recipe = quantized(own, per=per, symmetric=symmetric, learned=True)
            bound = bind(bound, weights, recipe, example_inputs=inputs)
    assert isinstance(bound, Family)
    if input_bits is None:
        return bound
    forms = {path: edges if path in ends and edges is not None else input_bits for path in order}
    return _with_inputs(bound, seen, forms, input_symmetric, layers)


def _weights(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Return the weights of layers; one that several share by its first name, once."""
    first = {id(tensor): name for name, tensor in model.named_parameters()}
    found = [model.get_submodule(path)._parameters.get("weight") for path in paths]
    return list(dict.fromkeys(first[id(weight)] for weight in found if weight is not None))


def _inputs_of(
    model: nn.Module, inputs: tuple[Any, ...], layers: tuple[type[nn.Module], ...]
) -> dict[str, Tensor]:
    """Return a sample of what each layer takes, as a row, in the order of their first calls."""
    seen: dict[str, Tensor] = {}

    def look(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and path not in seen:
                flat = args[0].detach().flatten().float()
                seen[path] = flat[:: max(1, len(flat) // _SAMPLE)].view(1, -1)

        return hook

    handles = [
        module.register_forward_pre_hook(look(path))
        for path, module in model.named_modules()
        if isinstance(module, layers)
    ]
    try:
        with evaluating(model), torch.no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _with_inputs(
    family: Family,
    seen: Mapping[str, Tensor],
    forms: Mapping[str, int | Sequence[int]],
    symmetric: bool | Sequence[bool],
    layers: tuple[type[nn.Module], ...],
) -> Family:
    """Return the family with quantizers before its layers, whose forms are choices."""
    shared = add_input_quantizers(family.shared, layers)
    group, bindings, follows, notes = Group(), dict(family.blueprint.bindings), [], []
    modules = dict(shared.named_modules())
    for path, sample in seen.items():
        quantizer: Any = modules[path]._modules["input_quantizer"]
        signed = bool((sample < 0).any())
        where = f"{path}.input" if path else "input"
        module = f"{path}.input_quantizer" if path else "input_quantizer"
        values: dict[str, tuple[Value, ...]] = {
            "bits": _tuple(forms[path]),
            "symmetric": _tuple(symmetric),
        }
        tables = level_tables(
            group,
            f"{where}.{{role}}",
            _Levels(sample, signed),
            _tuple(forms[path]),
            _tuple(symmetric),
            dim=(),
            like=quantizer.step,
            choices=where,
        )
        for role, table in zip(("step", "offset"), tables, strict=True):
            if table is not None:
                bindings[f"{module}.{role}"] = table
        follows.append(Follow(module, "signed", None, (), offset=int(signed) - 1))
        for role, options in values.items():
            follows.append(_follow(group, module, f"{where}.{role}", options))
        notes.append(Note(where, "bits " + ", ".join(map(str, values["bits"]))))
    blueprint = family.blueprint
    return Family(
        shared,
        Space((*family.space.choices, *group.choices), family.space.constraints),
        replace(
            blueprint,
            bindings=bindings,
            follows=(*blueprint.follows, *follows),
            report=replace(blueprint.report, elastic=(*blueprint.report.elastic, *notes)),
        ),
        extra={**family.extra, **group.extra},
        example_inputs=family.example_inputs,
        source=family.source,
    ).train(family.training)


class _Levels:
    """The best levels for a sample, by bits and symmetry."""

    def __init__(self, sample: Tensor, signed: bool) -> None:
        self.sample, self.signed = sample, signed

    def __call__(self, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
        return best_levels(self.sample, bits, symmetric=symmetric, signed=self.signed)


def _tuple(setting: Any) -> tuple[Any, ...]:
    return tuple(sorted(setting)) if isinstance(setting, Sequence) else (setting,)


def _follow(group: Group, module: str, choice: str, values: tuple[Value, ...]) -> Follow:
    """Let an attribute of a quantizer follow a choice, or be the one value that there is."""
    name = choice.rpartition(".")[2]
    if len(values) == 1:
        return Follow(module, name, None, (), offset=int(values[0]) - 1)
    group.choice(Choice(choice, values))
    dim: Dim = (Axis(choice, max(int(value) for value in values)),)
    return Follow(module, name, None, dim)


def mean_bits(arch: Mapping[str, Any]) -> float:
    """Return the mean of all bits that an arch chooses, weights' and inputs' alike."""
    return float(np.mean([int(arch[name]) for name in arch if name.endswith(".bits")]))


def uniform_arch(space: Space, bits: int, **forms: Any) -> Arch:
    """Return the arch that has the same bits and form everywhere; per channel and symmetric."""
    wanted = {"bits": bits, "per": "channel", "symmetric": True, **forms}
    roles = {name: name.rpartition(".")[2] for name in space.names}
    return space.arch({name: wanted[role] for name, role in roles.items() if role in wanted})
