"""What a conversion tells its user: what became elastic, what did not, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from manynet.bindings.axes import Axis
from manynet.elastic._choices import users
from manynet.elastic._trace import Trace
from manynet.elastic.adapters import ADAPTERS
from manynet.elastic.freeing import FREEING
from manynet.family import Depth, Note, Report
from manynet.space import Choice

__all__ = ["make_report", "unknown_operations", "why_nothing"]


def unknown_operations(trace: Trace) -> str:
    names = ", ".join(f"{op} in {path or 'the model'}" for op, path in trace.unknown.items())
    return f"no rule for {names}; pass strict=False to leave whole what they touch"


def why_nothing(trace: Trace, whole: Sequence[Note]) -> str:
    reasons = [f"{note.name}: {note.detail}" for note in whole]
    reasons += [f"{name} dimension {dim}: {why}" for name, dim, why in trace.frozen]
    return "; ".join(reasons[:4]) or "it has no parameters that hang on a free size"


def make_report(
    model: nn.Module,
    trace: Trace,
    choices: Sequence[Choice],
    runs: Sequence[Depth],
    whole: Sequence[Note],
    *,
    freed: Sequence[str] = (),
) -> Report:
    by_name: dict[str, list[str]] = {}
    for axis, tensors in users(trace.tensors).items():
        by_name.setdefault(axis.name, []).extend(tensors)
    blocks = {run.choice: run.blocks for run in runs}
    ties = _ties(model, trace)
    elastic_notes = []
    for choice in choices:
        values = ", ".join(str(value) for value in choice.values)
        if choice.name in blocks:
            detail = f"{{{values}}} of {len(blocks[choice.name])} blocks: " + ", ".join(
                blocks[choice.name]
            )
        else:
            detail = f"{{{values}}} in {len(by_name.get(choice.name, ())) or 1} tensors"
            detail += ties.get(choice.name, "")
        elastic_notes.append(Note(choice.name, detail))
    reasons: dict[str, dict[str, None]] = {}
    for name, _, why in trace.frozen:
        reasons.setdefault(why, {})[name] = None
    fixed = [*whole, *(Note(why, _few(names)) for why, names in reasons.items())]
    warnings = [
        Note(
            op,
            f"no rule for this operation, met in {path or type(model).__name__}; "
            "what it touches stays whole",
        )
        for op, path in trace.unknown.items()
    ]
    if trace.untrained is not None:
        warnings.append(
            Note(
                "training mode",
                f"{trace.untrained}; members fail there too, and what runs only there stays whole: "
                "give example_inputs on which the model trains",
            )
        )
    if freed:
        kinds = ", ".join(sorted({type(model.get_submodule(path)).__name__ for path in freed}))
        warnings.append(Note("freed", f"{_few(freed, 'modules')}: {kinds} in their place"))
    return Report(tuple(elastic_notes), tuple(fixed), tuple(warnings))


def _ties(model: nn.Module, trace: Trace) -> dict[str, str]:
    """Say, by the choice, where heads and the width of what they read can only be cut together.

    The code then takes one for the product of the others, as `nn.MultiheadAttention` does. A norm
    or an embedding tells that the width is more than that of the heads' own projections.
    """
    tied: dict[tuple[Axis, ...], list[str]] = {}
    for name, dims in trace.tensors.items():
        kind = type(model.get_submodule(name.rpartition(".")[0])).__name__
        for dim in dims:
            axes = [f for f in dim if isinstance(f, Axis) and f.frozen is None]
            if len(axes) == len(dim) > 1 and ("Norm" in kind or "Embedding" in kind):
                tied.setdefault(tuple(axes), []).append(name)
    words: dict[str, str] = {}
    groups = {dim for attribute, dim in trace.attributes.items() if attribute.name == "groups"}
    for (first, *others), names in tied.items():
        by = _tying(model, trace, (first, *others))
        # the groups of a convolution make up its width by its weight, whatever the code says
        if by and not any((axis,) in groups for axis in (first, *others)):
            times, code = " and ".join(axis.name for axis in others), _few(by, "classes")
            width = f", times {times} the width of {_few(names)}"
            words[first.name] = f"{width}: the code of {code} ties them; {_way_to_free(by)}"
    return words


def _tying(model: nn.Module, trace: Trace, axes: Sequence[Axis]) -> dict[str, type[nn.Module]]:
    """Return the classes of the modules that count such an axis, but for PyTorch's plain layers."""
    kinds = {
        type(model.get_submodule(attribute.path)): None
        for attribute, dim in trace.attributes.items()
        if len(dim) == 1 and dim[0] in axes
    }
    return {
        k.__name__: k
        for k in kinds
        if k in FREEING or not any(base in ADAPTERS for base in k.__mro__)
    }


def _way_to_free(by: Mapping[str, type[nn.Module]]) -> str:
    own = [name for name, kind in by.items() if kind not in FREEING]
    if own:
        return f"free them with manynet.elastic.frees({own[0]}) in your own file"
    return "free them with free=True"


def _few(given: Iterable[str], what: str = "tensors") -> str:
    """Return the first names, and how many more there are."""
    names = list(given)
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more {what}"
