"""A family on disk: `family.safetensors` holds each shared tensor once, `family.json` the rest.

Reading runs no code: the tensors come from safetensors, the rest from JSON, and the module tree
from the caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from manynet._files import read_json, replace_with, write_text
from manynet._version import __version__
from manynet.bindings.axes import Axis, DimTable
from manynet.bindings.kinds import decode
from manynet.errors import InputError, StorageError
from manynet.family._family import Family
from manynet.family._tensor_file import write_tensors
from manynet.family.blueprint import Blueprint, Depth, Follow, Note, Report
from manynet.space import Arch, Space

__all__ = ["load_family", "read_freed", "read_source", "save"]

_FORMAT = "manynet family 1"


def save(family: Family, folder: Path) -> None:
    """Write `family` into `folder`: the tensors first, then the file that makes them a family."""
    tensors = family.state_dict()
    replace_with(folder / "family.safetensors", lambda file: write_tensors(file, tensors))
    text = json.dumps(_to_json(family), separators=(",", ":"), ensure_ascii=False)
    write_text(folder / "family.json", text + "\n")


def _to_json(family: Family) -> dict[str, object]:
    blueprint, table = family.blueprint, DimTable()
    bindings = {name: binding.to_json(table) for name, binding in blueprint.bindings.items()}
    follows = [
        [f.path, f.name, f.index, table.encode(f.dim), f.offset, f.scale, f.divisor]
        for f in blueprint.follows
    ]
    report = blueprint.report
    return {
        "format": _FORMAT,
        "versions": {"manynet": __version__, "torch": torch.__version__},
        "source": family.source,
        "structure": structure(family.shared),
        **({"cuts": family.cuts} if family.cuts else {}),
        **({"freed": list(blueprint.freed)} if blueprint.freed else {}),
        "training": family.training,
        "space": family.space.to_json(),
        "axes": [[axis.name, axis.size, axis.anchor] for axis in table.axes],
        "bindings": bindings,
        "follows": follows,
        "depths": [
            [depth.choice, list(depth.blocks), depth.closes, list(depth.counts)]
            for depth in blueprint.depths
        ],
        "extra": [name for name, t in family.extra.items() if isinstance(t, nn.Parameter)],
        "buffers": [name for name, t in family.extra.items() if not isinstance(t, nn.Parameter)],
        "report": {
            part: [[note.name, note.detail] for note in getattr(report, part)]
            for part in ("elastic", "fixed", "warnings")
        },
        "members": {
            name: [c.values.index(arch[c.name]) for c in family.space.choices]
            for name, arch in family.members.items()
        },
        "example_inputs": [_describe(x) for x in family.example_inputs],
    }


def structure(model: nn.Module, shaped: Mapping[str, Tensor] | None = None) -> str:
    """Return a fingerprint of the module tree: its paths, classes and shapes of tensors.

    Tensors in `shaped` give their shapes to those of their names.
    """
    shaped = shaped or {}
    lines = [f"{path} {type(module).__qualname__}" for path, module in model.named_modules()]
    own = model.named_parameters()
    lines += [f"{name} {tuple(shaped.get(name, p).shape)}" for name, p in own]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _describe(value: object) -> object:
    if isinstance(value, Tensor):
        return {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    return {"value": value} if isinstance(value, int | float | str | bool | None) else None


def _example(described: Any) -> Any:
    if not isinstance(described, dict):
        return None
    if "shape" in described:
        dtype = getattr(torch, described["dtype"])
        return torch.zeros(described["shape"], dtype=dtype)
    return described.get("value")


def read_source(folder: Path | str) -> str | None:
    """Return how the network of the family in `folder` can be built, where its file says so.

    Raises:
        StorageError: there is no family in `folder`, or its file is damaged.
    """
    source: str | None = _read(Path(folder))["source"]
    return source


def read_freed(folder: Path | str) -> tuple[str, ...]:
    """Return the paths of the modules that were freed when the family in `folder` was made.

    Raises:
        StorageError: there is no family in `folder`, or its file is damaged.
    """
    return _freed(_read(Path(folder)))


def _freed(data: Mapping[str, Any]) -> tuple[str, ...]:
    freed = data.get("freed")
    return tuple(map(str, freed)) if isinstance(freed, list) else ()


def _read(folder: Path) -> dict[str, Any]:
    data = read_json(folder / "family.json")
    if not isinstance(data, dict) or data.get("format") != _FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise StorageError(
            f"{folder / 'family.json'} is not a family of this version of manynet "
            f"(format {found!r}, expected {_FORMAT!r})"
        )
    return data


def load_family(folder: Path | str, model: nn.Module) -> Family:
    """Return the family saved in `folder`, with `model` as its module tree.

    Args:
        folder: where `Family.save` wrote.
        model: a network of the same class and shapes as the one that the family was made of; its
            weights are overwritten, and the family owns it from now on. What the family has lost
            since by `manynet.elastic.cut` is taken from it.

    Raises:
        StorageError: a file is missing, truncated, damaged or not of a family.
        InputError: `model` is another network.
    """
    folder = Path(folder)
    data = _read(folder)
    tensors = _read_tensors(folder / "family.safetensors")
    cuts = data.get("cuts", {})
    if structure(model, tensors if cuts else {}) != data["structure"]:
        raise InputError(
            f"the family in {folder} was made of another network than this "
            f"{type(model).__name__}: classes or shapes differ; build the model as it was built "
            f"for the family{_as_freed(model, _freed(data))}"
        )
    if cuts:
        _take_shapes(model, tensors)
    try:
        extra: dict[str, Tensor] = {n: nn.Parameter(tensors[n]) for n in data["extra"]}
        extra |= {name: tensors[name] for name in data.get("buffers", ())}
        family = Family(
            model,
            Space.from_json(data["space"]),
            _blueprint(data),
            extra=extra,
            example_inputs=tuple(_example(x) for x in data["example_inputs"]),
            source=data["source"],
        )
        if cuts:
            family.cut_to(family.space, family.blueprint, {})
        family.cuts.update({name: tuple(map(int, kept)) for name, kept in cuts.items()})
        choices = family.space.choices
        for name, places in data["members"].items():
            values = {c.name: c.values[i] for c, i in zip(choices, places, strict=True)}
            family.members[name] = family.space.arch(Arch(values))
    except InputError as error:
        raise StorageError(f"{folder / 'family.json'} cannot be read: {error}") from error
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{folder / 'family.json'} is damaged: {type(error).__name__}: {error}"
        ) from error
    family.load_state_dict(tensors)
    return family.train(bool(data["training"]))


def _as_freed(model: nn.Module, freed: Sequence[str]) -> str:
    """Say which modules were freed, where some were."""
    parts = dict(model.named_modules())
    kinds = sorted({type(parts[path]).__name__ for path in freed if path in parts})
    if not kinds:
        return ""
    return (
        f", and import the file that registers what frees {', '.join(kinds)}: {freed[0]!r} was "
        "freed then"
    )


def _take_shapes(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give the tensors of a network that was cut after it was built the shapes in the file."""
    for name, own in [*model.named_parameters(), *model.named_buffers()]:
        if name in tensors and tensors[name].shape != own.shape:
            own.data = torch.empty_like(tensors[name], device=own.device)


def _blueprint(data: Mapping[str, Any]) -> Blueprint:
    table = DimTable(Axis(name, size, anchor=anchor) for name, size, anchor in data["axes"])
    report = {
        part: tuple(Note(*note) for note in data["report"][part])
        for part in ("elastic", "fixed", "warnings")
    }
    return Blueprint(
        bindings={n: decode(b, table) for n, b in data["bindings"].items()},
        follows=tuple(
            Follow(path, name, index, table.decode(dim), offset, scale, divisor)
            for path, name, index, dim, offset, scale, divisor in data["follows"]
        ),
        depths=tuple(
            Depth(choice, tuple(blocks), closes, tuple((path, name) for path, name in counts))
            for choice, blocks, closes, counts in data["depths"]
        ),
        report=Report(**report),
        freed=_freed(data),
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise StorageError(f"{path} does not exist; check the folder's name") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise StorageError(
            f"{path} is not a whole safetensors file ({error}); it is truncated, damaged or was "
            "written by something else, and nothing in it was run"
        ) from error
