"""A quantized family for deployment: it keeps integers where it kept weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor, nn

from manynet.bindings.codes import Codes
from manynet.bindings.forms import by_value
from manynet.bindings.operation import ByArch, Operation, operand_values, resolved, walk
from manynet.bindings.protocol import Binding
from manynet.bindings.quantize import Quantize
from manynet.bindings.route import Route, Row
from manynet.bindings.slice import Slice, whole
from manynet.bindings.unpacked import Unpack
from manynet.family import Family, Note
from manynet.family.skeleton import Skeleton
from manynet.space import Arch, Value

__all__ = ["pack_family"]


def pack_family(family: Family) -> Family:
    """Return the family with packed integers in the place of its quantized weights.

    Its members have the same values exactly; they are not trained any more. `save` then writes a
    truly small file: every form of a weight takes its bits. A weight whose forms take more together
    than the weight itself, or of which members cut a part, stays as it is, and the report says so.

    Args:
        family: a trained one; it stays as it is.

    Example:
        >>> import manynet, torch
        >>> from manynet.bindings.recipes import quantized
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 4))
        >>> family = manynet.bind(model, "0.weight", quantized((2, 4)))
        >>> small = pack_family(family)
        >>> sum(t.nbytes for t in small.state_dict().values()) * 3 < sum(
        ...     t.nbytes for t in family.state_dict().values()
        ... )
        True
    """
    shared = {name: tensor.detach() for name, tensor in family.state_dict().items()}
    bindings, extra, notes = dict(family.blueprint.bindings), dict(family.extra), list[Note]()
    names = set(family.space.names)
    for name, binding in bindings.items():
        if not any(isinstance(inner, Quantize | Codes) for inner in _top(binding)):
            continue
        cut = [s for s in walk(binding) if isinstance(s, Slice) and names & _axes(s)]
        made = None if cut else _packed(family, name, binding, shared)
        if made is None:
            why = "members cut parts of it" if cut else "its forms take more than it does"
            notes.append(Note(name, f"not packed: {why}"))
        else:
            bindings[name] = made[0]
            extra |= made[1]
    read = {source for binding in bindings.values() for source in binding.reads}
    report = family.blueprint.report
    return Family(
        _copied(family.shared),
        family.space,
        replace(
            family.blueprint,
            bindings=bindings,
            report=replace(report, warnings=(*report.warnings, *notes)),
        ),
        extra={source: tensor for source, tensor in extra.items() if source in read},
        example_inputs=family.example_inputs,
        source=family.source,
    ).eval()


def _copied(model: nn.Module) -> nn.Module:
    """Return the module tree with tensors of its own."""
    own = [*model.named_parameters(), *model.named_buffers()]
    tensors: dict[str, Tensor] = {
        name: nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
        if isinstance(tensor, nn.Parameter)
        else tensor.detach().clone()
        for name, tensor in own
    }
    return Skeleton(model).build(tensors)[0]


def _axes(part: Slice) -> set[str]:
    return {axis.name for axis in part._axes}


def _packed(
    family: Family, name: str, binding: Binding, shared: Mapping[str, Tensor]
) -> tuple[Binding, dict[str, Tensor]] | None:
    """Return the binding that reads the integers of each form, and the tensors that hold them."""
    choices = {c.name: c.values for c in family.space.choices}
    by = _choices(binding)
    tensors: dict[str, Tensor] = {}
    options: dict[tuple[Value, ...], Binding] = {}
    for values in product(*(choices[choice] for choice in by)):
        arch = Arch({**family.space.largest, **dict(zip(by, values, strict=True))})
        form = resolved(binding, arch)
        if not isinstance(form, Operation) or form.entry_bits(arch) is None:
            return None
        own = form.integers(arch, *operand_values(form, arch, {}, shared))
        parts: dict[str, Binding] = {}
        for role, tensor in own.tensors().items():
            key = ".".join([name, *map(str, values), role])
            tensors[key] = tensor.to(own.scale.device)
            parts[role] = whole(key, tensor)
        options[values] = Unpack(
            parts["packed"],
            parts["scale"],
            own.bits,
            own.shape,
            len(own.scale),
            parts.get("zero"),
            parts.get("offset"),
            own.about().get("dtype"),  # type: ignore[arg-type] # it is a string there
            own.zero is not None and own.zero.dtype == torch.float16,
        )
    before = {source: shared[source].nbytes for source in binding.reads}
    if sum(tensor.nbytes for tensor in tensors.values()) >= sum(before.values()):
        return None
    return _nested(by, options), tensors


def _top(binding: Binding) -> Iterator[Binding]:
    """Yield a binding, or each of those that one of them is chosen from."""
    if isinstance(binding, Route):
        for option in binding.options:
            yield from _top(option)
    else:
        yield binding


def _choices(binding: Binding) -> list[str]:
    """Return the choices that a quantized weight's form depends on."""
    found: dict[str, None] = {}
    for inner in walk(binding):
        if isinstance(inner, Route | Row):
            found[inner.choice] = None
        elif isinstance(inner, Quantize):
            asked = (inner.bits, inner.per, inner.symmetric)
            found |= {s.choice: None for s in asked if isinstance(s, ByArch)}
    return list(found)


def _nested(by: list[str], options: Mapping[tuple[Value, ...], Binding]) -> Binding:
    """Return one binding that goes by one choice after the other."""
    if not by:
        return options[()]
    firsts = dict.fromkeys(values[0] for values in options)
    inner = {
        first: _nested(by[1:], {v[1:]: b for v, b in options.items() if v[0] == first})
        for first in firsts
    }
    return by_value(by[0], inner)
