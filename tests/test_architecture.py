"""The rules that keep the house in order: who imports whom, what loads when, how long is long."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "manynet"
FILES = sorted(SOURCE.rglob("*.py"))

# A room may import the rooms of the rows above its own, and nothing below.
LEVELS = (
    {"space"},
    {"family", "bindings"},
    {"elastic", "models", "layers", "graphs"},
    {"cost", "train", "search", "deploy", "federate", "fit"},
    {"report"},
    {"systems"},
    {"run", "config"},
    {"serve", "ui"},
    {"cli"},
)
# These know nothing of the rooms, so all may import them.
GROUND = {"errors", "data", "_files", "_inputs", "_version"}
# Neighbors on one level stay apart, but for these: (importer, imported).
NEIGHBORS = {
    ("family", "bindings"),  # a member is bound to the family's weights
    ("models", "elastic"),  # a ready family is an elastic model
    ("graphs", "layers"),  # a network on points is made of layers that share by symmetry
    ("cost", "deploy"),  # latency through ONNX Runtime is that of the exported file
    ("federate", "train"),  # a client trains its member
    ("run", "config"),  # a run follows its config
}
# Only files and functions that need them import these: see `test_import_stays_light`.
HEAVY = {
    "accelerate",
    "datasets",
    "fastapi",
    "flwr",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "PIL",
    "plotly",
    "prometheus_client",
    "pyarrow",
    "pymoo",
    "ray",
    "scipy",
    "sklearn",
    "starlette",
    "timm",
    "torchvision",
    "transformers",
    "uvicorn",
}
# Private modules that are imported inside a function only, and so may import these at their top.
LAZY: dict[str, set[str]] = {
    "serve/_app.py": {"fastapi", "starlette"},
    "serve/_device_app.py": {"fastapi"},
    "serve/_metrics.py": {"prometheus_client"},
    "ui/_app.py": {"fastapi", "starlette"},
}
LONGEST_FUNCTION = 60
DEEPEST_NESTING = 3


def room_of(module: str) -> str:
    """Return the room of a module of ours: `manynet.train._loop` is in `train`."""
    return (*module.split("."), "")[1]


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level_of(room: str) -> int:
    return next((number for number, rooms in enumerate(LEVELS) if room in rooms), -1)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules_named(node: ast.AST, inside: Path) -> Iterator[str]:
    """Yield the absolute names that one import statement reads."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            package = module_of(inside).split(".")
            cut = len(package) - node.level + (inside.name == "__init__.py")
            base = ".".join([*package[:cut], *([base] if base else [])])
        if base.split(".")[0] == "manynet":  # `from manynet import train` names a room
            yield from (f"{base}.{alias.name}" for alias in node.names)
        else:
            yield base


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import in a file, those inside functions too."""
    for node in ast.walk(tree_of(path)):
        for name in modules_named(node, path):
            yield node.lineno, name  # type: ignore[attr-defined]


def top_level_statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield what runs when a file is imported; `if TYPE_CHECKING` does not."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for inner in ("body", "orelse", "finalbody"):
                yield from top_level_statements(getattr(node, inner, None) or [])
            for handler in getattr(node, "handlers", ()):
                yield from top_level_statements(handler.body)


def may_import(importer: str, imported: str) -> bool:
    if imported in GROUND or importer == imported:
        return True
    if importer in GROUND:
        return False
    if level_of(importer) == level_of(imported):
        return (importer, imported) in NEIGHBORS
    return level_of(importer) > level_of(imported)


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def path(request: pytest.FixtureRequest) -> Path:
    return request.param  # type: ignore[no-any-return]


def test_every_file_is_in_a_room_that_the_design_knows(path: Path) -> None:
    room = room_of(module_of(path))
    known = GROUND.union({"", "__main__"}, *LEVELS)
    assert room in known, f"{path.name} opens the room {room!r}; give it a level in LEVELS"


def test_imports_point_down(path: Path) -> None:
    importer = room_of(module_of(path))
    if importer in {"", "__main__"}:  # the front door re-exports every room
        return
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {importer} may not import {name}"
        for line, name in imports(path)
        if name.split(".")[0] == "manynet" and not may_import(importer, room_of(name))
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_import_no_private_module_of_another_room(path: Path) -> None:
    importer = room_of(module_of(path))
    wrong = [
        f"{path.relative_to(SOURCE)}:{line}: {name} is private to {room_of(name)}"
        for line, name in imports(path)
        if name.startswith("manynet.") and room_of(name) not in {importer, *GROUND}
        if any(part.startswith("_") for part in name.split(".")[2:])
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_libraries_load_where_they_are_needed(path: Path) -> None:
    allowed = LAZY.get(str(path.relative_to(SOURCE)), set())
    wrong = [
        f"{path.relative_to(SOURCE)}:{node.lineno}: import {name} in the function that needs it"
        for node in top_level_statements(tree_of(path).body)
        for name in modules_named(node, path)
        if name.split(".")[0] in HEAVY - allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_import_stays_light() -> None:
    """`import manynet` brings no extra along, so that it takes as long as `import torch`."""
    code = (
        "import sys, torch\nbefore = set(sys.modules)\nimport manynet\n"
        f"print(*sorted((set(sys.modules) - before) & {HEAVY!r}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert not found, f"import manynet also imports {found}"


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of a function without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def depth_of_ifs(node: ast.AST) -> int:
    """Return how deep `if` stands in `if`; an `elif` is no deeper than its `if`."""
    if not isinstance(node, ast.If):
        return max((depth_of_ifs(child) for child in ast.iter_child_nodes(node)), default=0)
    inside = max((depth_of_ifs(child) for child in node.body), default=0)
    beside = node.orelse
    if len(beside) == 1 and isinstance(beside[0], ast.If):
        return max(1 + inside, depth_of_ifs(beside[0]))
    return 1 + max(inside, *(depth_of_ifs(child) for child in beside), 0)


def test_no_function_is_too_long(path: Path) -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{function.lineno}: {function.name} has {length(function)}"
        f" lines, at most {LONGEST_FUNCTION}"
        for function in functions(path)
        if length(function) > LONGEST_FUNCTION
    ]
    assert not wrong, "\n".join(wrong)


def test_no_if_is_nested_too_deep(path: Path) -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{function.lineno}: {function.name} nests if"
        f" {depth_of_ifs(function)} deep, at most {DEEPEST_NESTING}: a function is missing"
        for function in functions(path)
        if depth_of_ifs(function) > DEEPEST_NESTING
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("importer", "imported", "allowed"),
    [
        ("family", "space", True),
        ("space", "family", False),
        ("search", "cost", False),
        ("search", "family", True),
        ("systems", "search", True),
        ("train", "systems", False),
        ("data", "errors", True),
        ("data", "train", False),
    ],
)
def test_the_rule_tells_right_from_wrong(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed


def test_relative_imports_are_resolved() -> None:
    (node,) = ast.parse("from ..cost import macs").body
    inside = SOURCE / "search" / "_front.py"
    assert list(modules_named(node, inside)) == ["manynet.cost.macs"]
