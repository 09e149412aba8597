"""Reading and writing configs as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from manynet._files import write_text
from manynet.config._resolve import resolve
from manynet.config._sections import Config
from manynet.errors import InputError, StorageError

__all__ = ["parse_assignment", "parse_number", "read_config", "save_config", "saved"]


def read_config(path: Path | str) -> dict[str, Any]:
    """Return what the YAML file at `path` says; `resolve` checks it.

    Raises:
        InputError: there is no such file, it is not YAML, or it is no mapping of keys.
    """
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except FileNotFoundError as error:
        raise InputError(
            f"there is no config {path}; give a YAML file or a run's folder"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a text file in UTF-8, so it is no config") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {_yaml_reason(error)}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds {type(found).__name__}; a config is a mapping such as `model: "
            "torchvision:resnet18`"
        )
    return found


class _Loader(yaml.SafeLoader):
    """Plain YAML that refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _yaml_reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem


def save_config(config: Config, path: Path) -> None:
    """Write `config`, every key of it, to `path`. Raises `StorageError`."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
    write_text(path, text)


def saved(path: Path) -> Config:
    """Return the config that `save_config` wrote.

    Raises:
        StorageError: it is missing, damaged, or of another version of manynet.
    """
    try:
        return resolve(read_config(path))
    except InputError as error:
        raise StorageError(f"{path} is damaged or of another version: {error}") from error


_SUFFIXES = {"k": 1e3, "M": 1e6, "G": 1e9}


def parse_number(text: str) -> float:
    """Return the number that `text` says; `2M`, `300k` and `1.5G` count in thousands.

    Raises:
        InputError: it is no number.

    Example:
        >>> parse_number("2M"), parse_number("3e5")
        (2000000.0, 300000.0)
    """
    factor = _SUFFIXES.get(text[-1:], 1.0)
    try:
        return float(text[:-1] if text[-1:] in _SUFFIXES else text) * factor
    except ValueError as error:
        raise InputError(f"{text!r} is not a number; write 2000000, 2e6 or 2M") from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """Return key and value of `KEY=VALUE`, the value read as YAML reads it.

    Raises:
        InputError: there is no key, no `=`, or the value is not YAML.

    Example:
        >>> parse_assignment("elastic.width=[0.5, 1.0]")
        ('elastic.width', [0.5, 1.0])
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise InputError(f"{text!r} should be KEY=VALUE, for example train.epochs=20")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"{text!r}: the value is not valid YAML: {_yaml_reason(error)}") from error
