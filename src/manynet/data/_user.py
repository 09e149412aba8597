"""The user's own code, run because the user named it: `file.py:function`."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from manynet.errors import InputError, did_you_mean

__all__ = ["load_function"]


def load_function(name: str) -> Callable[..., object]:
    """Return the function that `file.py:function` names, running the file.

    Only ever called for a name that the user wrote: no file of a run's folder leads here.

    Raises:
        InputError: the name has no function, the file is missing or fails, or holds no such
            function.
    """
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function:
        raise InputError(f"{name!r} is not of the form file.py:function")
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{name!r}: there is no file {file.resolve()}; check the path")
    found = getattr(_module(file), function, None)
    if callable(found):
        return found  # type: ignore[no-any-return] # what a user's file holds has no type
    raise InputError(f"{file} has no function {function!r}{_near(file, function)}")


def _module(file: Path) -> object:
    """Return the file as a module: run once, and again only when it has changed.

    Files beside it can be imported, as if Python had been given the file itself. Their folder is
    the last to be searched, so that none of them stands in for a library.
    """
    path = file.resolve()
    state = path.stat().st_mtime_ns, path.stat().st_size
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"manynet_user_{path.stem}_{digest}"
    known = sys.modules.get(name)
    if known is not None and vars(known).get("__state__") == state:
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{file} cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(
            f"{file} failed when it was run: {type(error).__name__}: {error}; try: python {file}"
        ) from error
    vars(module)["__state__"] = state
    return module


def _near(file: Path, function: str) -> str:
    public = [name for name, value in vars(_module(file)).items() if callable(value)]
    return did_you_mean(function, [name for name in public if not name.startswith("_")])
