"""Reading `.pt2` files of `torch.export` without running code that they carry.

`torch.export.load` trusts its file: it unpickles tensors and objects that the file marks as
pickled, evaluates the file's shape expressions as Python (through sympy), compiles its guards,
imports the modules that its tree specs name, and calls any function below `torch`, `operator` or
`math` that a node names. A file that an ordinary network makes needs none of that. So look first,
and refuse a file that needs it.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from manynet.errors import StorageError

__all__ = ["load_program", "read_program"]

# Files of an archive, by the end of their names, that hold data and nothing else.
_PLAIN = re.compile(
    r"[^/]+/("
    r"data/weights/weight_\d+|data/constants/tensor_\d+"
    r"|data/weights/model_weights_config\.json|data/constants/model_constants_config\.json"
    r"|models/model\.json|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/(version|serialization_id|alignment)"
    r"|\.format_version|\.storage_alignment)"
)
# What shape expressions are made of: sympy's names and PyTorch's own.
_FUNCTIONS = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Eq|Ne|Equality|Unequality|Lt|Le|Gt|Ge|LessThan"
    "|StrictLessThan|StrictGreaterThan|GreaterThan|And|Or|Not|Min|Max|Abs|Mod|floor|ceiling"
    "|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt"
    "|TruncToFloat|RoundToInt|RoundDecimal|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow"
    "|LShift|RShift|true|false|oo|int_oo"
)
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized|quantized_decomposed)\.\w+(\.\w+)?"
    r"|torch\.sym_(int|float|max|min|ite|not|sum|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
_NAME = re.compile(r"[\w.\-]*")
_SYMBOL = re.compile(r"(s|u|zuf)\d+")
_ARITHMETIC = (
    ast.Expression,
    ast.Compare,
    ast.BoolOp,
    ast.UnaryOp,
    ast.BinOp,
    ast.cmpop,
    ast.boolop,
    ast.unaryop,
    ast.operator,
    ast.expr_context,
)
_SPECS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}


def load_program(path: Path | str) -> Any:
    """Return the `ExportedProgram` of a `.pt2` file, after a look that it carries no code.

    Plain `torch.export.load` unpickles and evaluates what the file says; this refuses such files.

    Args:
        path: a file that `export(format="torch")` wrote.

    Raises:
        StorageError: the file is missing, damaged, or holds more than a network of plain tensors
            and ATen operations.
    """
    try:
        return read_program(io.BytesIO(Path(path).read_bytes()), str(path))
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def read_program(file: IO[bytes], name: str = "the program") -> Any:
    """Return the program of an open file; see `load_program`."""
    try:
        with zipfile.ZipFile(file) as archive:
            problem = next(_problems(archive), None)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{name} is damaged or was not written by torch.export") from error
    if problem:
        raise StorageError(
            f"{name} was not loaded: {problem}, which could run code; "
            "use torch.export.load yourself if you trust where it comes from"
        )
    file.seek(0)
    try:
        return torch.export.load(file)
    except Exception as error:  # whatever a damaged graph makes the loader stumble over
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"{name} is damaged or of another version of torch: {first}") from error


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    """Yield what in an archive is more than data, in words."""
    names = archive.namelist()
    yield from (f"it holds {name}" for name in names if not _PLAIN.fullmatch(name))
    if len(set(names)) != len(names):
        yield "it holds two files of one name"
    for name in names:
        if name.endswith("_config.json"):
            config = json.loads(archive.read(name))["config"]
            yield from (f"{key} is pickled" for key, meta in config.items() if meta["use_pickle"])
        elif name.endswith(".pt"):
            yield from _problems_of_samples(archive.read(name))
        elif name.endswith("models/model.json"):
            yield from _problems_of_graph(json.loads(archive.read(name)))


def _problems_of_samples(data: bytes) -> Iterator[str]:
    """Yield a problem if the sample inputs are more than tensors and numbers."""
    if not data:
        return
    try:
        torch.load(io.BytesIO(data), weights_only=True)
    except Exception:
        yield "its sample inputs are pickled objects"


def _problems_of_graph(node: Any, key: str = "") -> Iterator[str]:
    """Yield every text of a graph that would be evaluated, imported or called."""
    if isinstance(node, str):
        if not _is_harmless(key, node):
            yield f"its {key} is {node[:80]!r}"
    elif isinstance(node, list):
        for value in node:
            yield from _problems_of_graph(value, key)
    elif isinstance(node, dict):
        for name, value in node.items():
            if name == "metadata" or (name == "treespec_namedtuple_fields" and not value):
                continue  # where the network came from: shown in messages, never run
            if not _NAME.fullmatch(name):
                yield f"it names {name[:80]!r}"
            yield from _problems_of_graph(value, name)


def _is_harmless(key: str, text: str) -> bool:
    """Whether a text of a graph is only a name, a size, or an argument."""
    match key:
        case "as_string" | "verifiers" | "torch_version":
            return True
        case "expr_str":
            return _is_expression(text)
        case "guards_code":
            return _is_guard(text)
        case "in_spec" | "out_spec":
            return "__enum__" not in text and _is_plain_spec(json.loads(text))
        case "target" if text.startswith(("torch", "_operator", "math", "#")):
            return _TARGET.fullmatch(text) is not None
    return _NAME.fullmatch(text) is not None


def _is_expression(text: str) -> bool:
    """Whether a text is arithmetic on sizes, and no other Python."""
    return all(
        isinstance(node, (*_ARITHMETIC, ast.keyword))
        or (isinstance(node, ast.Name) and _is_plain_name(node.id))
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        or (isinstance(node, ast.Constant) and _is_plain_constant(node.value))
        for node in _python(text)
    )


def _is_plain_name(name: str) -> bool:
    return bool(_FUNCTIONS.fullmatch(name) or _SYMBOL.fullmatch(name))


def _is_plain_constant(value: object) -> bool:
    return not isinstance(value, str | bytes) or bool(_SYMBOL.fullmatch(str(value)))


def _python(text: str) -> list[ast.AST]:
    """Return the parts of an expression; something that is in no list if it is no expression."""
    try:
        return list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return [ast.Module([], [])]


def _is_guard(text: str) -> bool:
    """Whether a text is a comparison of the inputs' sizes, and no other Python."""
    return all(
        isinstance(node, (*_ARITHMETIC, ast.Subscript, ast.Constant))
        or (isinstance(node, ast.Name) and node.id == "L")
        or (isinstance(node, ast.Attribute) and node.attr in {"size", "stride"})
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute))
        for node in _python(text)
    )


def _is_plain_spec(spec: Any) -> bool:
    """Whether a tree spec builds plain containers only, with plain names for keys."""
    if isinstance(spec, dict):
        plain = spec.get("type") in _SPECS and _is_plain_context(spec.get("context"))
        return plain and _is_plain_spec(spec.get("children_spec", []))
    return not isinstance(spec, list) or all(_is_plain_spec(value) for value in spec)


def _is_plain_context(text: str | None) -> bool:
    keys = json.loads(text) if text else None
    return keys is None or all(isinstance(key, str) and _NAME.fullmatch(key) for key in keys)
