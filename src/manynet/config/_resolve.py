"""Checking a config key by key: one clear message for what does not fit."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from manynet.config._sections import Config
from manynet.errors import InputError

__all__ = ["resolve"]


def resolve(
    values: Mapping[str, Any] | None = None, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Return the config that `values` describe, with `overrides` on top.

    Args:
        values: nested, as a YAML file gives them.
        overrides: values by the path of their key, such as `{"train.epochs": 3}`.

    Raises:
        InputError: a key is unknown or a value does not fit; the message names the key by its path.

    Example:
        >>> resolve({"data": "cifar10"}, {"train.epochs": 3}).train.epochs
        3
        >>> resolve({"train": {"epoch": 3}})
        Traceback (most recent call last):
        ...
        manynet.errors.InputError: train.epoch: unknown; did you mean train.epochs?
    """
    merged = _copied(values or {})
    for path, value in (overrides or {}).items():
        _put(merged, path, value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise InputError(_explained(error, merged)) from None


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    copied = {k: _copied(v) if isinstance(v, dict) else v for k, v in values.items()}
    if isinstance(copied.get("data"), str):
        copied["data"] = {"name": copied["data"]}
    return {
        key: {} if value is None and key in _SECTIONS else value for key, value in copied.items()
    }


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *sections, key = path.split(".")
    for name in sections:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"{path}: {name} is {inner!r}, which holds no {key}")
        values = inner
    if key == "data" and not sections and isinstance(value, str):
        values.setdefault("data", {})["name"] = value
    elif isinstance(value, dict) and isinstance(values.get(key), dict):
        values[key] = {**values[key], **value}
    else:
        values[key] = value


def _explained(error: ValidationError, values: Mapping[str, Any]) -> str:
    """Say in one line what is wrong first: the most exact of what was found about one key."""
    found = [(_path(one["loc"], values), one) for one in error.errors(include_url=False)]
    first = found[0][0]
    same = [pair for pair in found if pair[0][: len(first[:2])] == first[:2]]
    path, one = max(same, key=lambda pair: len(pair[0]))
    where = ".".join(map(str, path))
    if one["type"] == "extra_forbidden":
        return f"{where}: unknown{_nearest(where)}"
    options = list(dict.fromkeys(_reason(o) for p, o in same if p == path))
    return f"{where}: {' or '.join(options)}, and is {one['input']!r}".replace(
        " or should be ", " or "
    )


def _path(location: tuple[int | str, ...], values: Any) -> tuple[int | str, ...]:
    """Return the part of pydantic's location that the user wrote; the rest names its own types."""
    path: list[int | str] = []
    for part in location:
        inside = isinstance(values, dict) and part in values
        if inside or (isinstance(values, list | tuple) and isinstance(part, int)):
            path.append(part)
            values = values[part]
    return tuple(path)


def _reason(one: Any) -> str:
    text = str(one["msg"]).removeprefix("Value error, ").split(", unable to")[0]
    text = text.removeprefix("Input ").split(", got a number")[0].split(" or instance of")[0]
    for theirs, ours in _WORDS.items():
        text = text.replace(theirs, ours)
    return text[:1].lower() + text[1:]


_WORDS = {
    "a valid dictionary": "a mapping of keys",
    "a valid tuple": "a list",
    "Tuple should have at least 1 item after validation, not 0": "should not be empty",
    "a valid ": "a ",
    "a integer": "an integer",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    " or should be ": " or ",
}


def _known() -> list[str]:
    inside = [f"{name}.{key}" for name, kind in _SECTIONS.items() for key in kind.model_fields]
    return [*Config.model_fields, *inside]


_SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
}


def _nearest(path: str) -> str:
    """Name the known key that is nearest: one beside it, else one of that name elsewhere."""
    section, _, key = path.rpartition(".")
    known = _known()
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(known)}
    for names, cutoff in ((beside, 0.6), (elsewhere, 0.75)):
        near = difflib.get_close_matches(key, names, n=1, cutoff=cutoff)
        if near:
            return f"; did you mean {names[near[0]]}?"
    return f"; known: {', '.join(sorted(beside or elsewhere))}"
