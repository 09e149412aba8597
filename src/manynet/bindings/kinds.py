"""The kinds of bindings that a family's file may hold, and how each is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from manynet.bindings.axes import DimTable
from manynet.bindings.protocol import Binding
from manynet.errors import InputError

__all__ = ["decode", "known_kinds", "register"]

FromJson = Callable[[Mapping[str, Any], DimTable], Binding]
_KINDS: dict[str, FromJson] = {}


def register(kind: str, from_json: FromJson) -> None:
    """Let families that use bindings of this `kind` be loaded.

    Args:
        kind: what `to_json` writes as `kind`.
        from_json: makes the binding again from what `to_json` wrote.

    Raises:
        InputError: another class has this kind already.
    """
    known = _KINDS.get(kind)
    if known is not None and _place(known) != _place(from_json):
        raise InputError(
            f"the kind {kind!r} is taken by {_place(known)}; name yours after your package, "
            f"such as 'mine.{kind}'"
        )
    _KINDS[kind] = from_json


def _place(function: FromJson) -> str:
    owner = getattr(function, "__self__", function)
    return f"{owner.__module__}.{owner.__qualname__}"


def known_kinds() -> tuple[str, ...]:
    """Return the kinds known now, in the order of the alphabet."""
    return tuple(sorted(_KINDS))


def decode(data: Mapping[str, Any], table: DimTable) -> Binding:
    """Return the binding that `to_json` wrote.

    Raises:
        InputError: nothing registered its kind.
    """
    kind = str(data.get("kind"))
    if kind not in _KINDS:
        raise InputError(
            f"a binding of kind {kind!r} is not known here (known: {', '.join(known_kinds())}); "
            "import the module that defines it before you load the family"
        )
    return _KINDS[kind](data, table)
