"""Networks by name: `torchvision:resnet18`, `timm:NAME`, `hf:FOLDER`, `file.py:function`."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from torch import nn

from manynet.data import load_function
from manynet.errors import InputError, MissingExtraError, did_you_mean
from manynet.models.language import language_model

__all__ = ["build", "runs_user_code", "with_options"]


def build(name: str, **options: Any) -> nn.Module:
    """Return a new network, without trained weights unless the options ask for them.

    A language model, `hf:NAME`, comes with its weights: see `manynet.models.language_model`.

    Args:
        name: `manynet:small_cnn`, `manynet:mobile_cnn`, `torchvision:NAME`, `timm:NAME`,
            `FILE.py:FUNCTION`, or `hf:` and a folder, a `.gguf` file or a name in the local cache;
            options may follow, as in `torchvision:resnet18?num_classes=10`.
        **options: passed to the network's own constructor; they override those in the name.

    Raises:
        InputError: there is no such network, or it does not take these options.
        MissingExtraError: the library that has it is not installed.

    Example:
        >>> build("manynet:small_cnn?classes=10").__class__.__name__
        'SmallCNN'
    """
    path, _, query = name.partition("?")
    merged = {key: _value(text) for key, text in parse_qsl(query)} | options
    scheme, separator, rest = path.rpartition(":") if runs_user_code(path) else path.partition(":")
    if not separator or not rest:
        raise InputError(
            f"model {name!r} is not a name that manynet knows; write torchvision:NAME, timm:NAME, "
            "hf:FOLDER, manynet:small_cnn or FILE.py:FUNCTION"
        )
    maker = _SCHEMES.get(scheme)
    if maker is None and not runs_user_code(path):
        raise InputError(f"model {name!r}: unknown library {scheme!r}{_schemes(scheme)}")
    model = _called(name, maker(rest) if maker else load_function(path), merged)
    if not isinstance(model, nn.Module):
        raise InputError(f"{name} returned {type(model).__name__}, not an nn.Module")
    return model


def runs_user_code(name: str) -> bool:
    """Whether building `name` runs a Python file of the user's."""
    return name.partition("?")[0].rpartition(":")[0].endswith(".py")


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """Return `name` with `options` written into it, so that the name alone builds the network."""
    if not options:
        return name
    joint = "&" if "?" in name else "?"
    return name + joint + "&".join(f"{key}={json.dumps(value)}" for key, value in options.items())


def _schemes(scheme: str) -> str:
    return did_you_mean(scheme, _SCHEMES)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _called(name: str, make: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise InputError(f"{name} does not take these options: {error}") from error
    except ValueError:
        pass  # a builtin without a signature
    try:
        return make(**options)
    except InputError:
        raise
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} cannot be built: {error}") from error


def _manynet(name: str) -> Callable[..., Any]:
    from manynet import models

    known = {n for n in models.__all__ if inspect.isfunction(getattr(models, n))} - set(__all__)
    if name not in known:
        raise InputError(f"manynet has no network {name!r}{did_you_mean(name, known)}")
    found: Callable[..., Any] = getattr(models, name)
    return found


def _torchvision(name: str) -> Callable[..., Any]:
    try:
        import torchvision
    except ImportError as error:
        raise MissingExtraError("torchvision", "vision") from error
    known = torchvision.models.list_models()
    if name not in known:
        raise InputError(f"torchvision has no model {name!r}{_near(name, known)}")
    found: Callable[..., Any] = torchvision.models.get_model_builder(name)
    return found


def _timm(name: str) -> Callable[..., Any]:
    try:
        import timm
    except ImportError as error:
        raise MissingExtraError("timm", "vision") from error
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{_near(name, timm.list_models())}")

    def make(**options: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, **options)
        return model

    return make


def _hugging_face(name: str) -> Callable[..., Any]:
    return functools.partial(language_model, name)


def _near(name: str, known: list[str]) -> str:
    hint = did_you_mean(name, known)
    return hint if hint.startswith(" (did") else f"; it has {len(known)} others"


_SCHEMES: Mapping[str, Callable[[str], Callable[..., Any]]] = {
    "hf": _hugging_face,
    "manynet": _manynet,
    "timm": _timm,
    "torchvision": _torchvision,
}
