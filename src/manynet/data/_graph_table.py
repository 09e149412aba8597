"""NAS-Bench-Graph: what 26,206 graph networks reach on nine data sets, from its package."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path

from manynet.errors import InputError, StorageError, did_you_mean

__all__ = ["LINKS", "OPERATIONS", "canonical_graph", "nas_bench_graph"]

OPERATIONS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
"""What a node may compute."""
LINKS = tuple(
    (0, *rest)
    for rest in (
        (0, 0, 0), (0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 1, 3), (1, 1, 1), (1, 1, 2), (1, 2, 2),
        (1, 2, 3),
    )
)  # fmt: skip
"""Which node each of four nodes takes its input from; 0 is the input of the network."""
_BASE = len(OPERATIONS) + 1
_ALLOWED = {("numpy.core.multiarray", "scalar"), ("numpy", "dtype")}


def nas_bench_graph(data: str) -> Mapping[tuple[int, ...], Mapping[str, float]]:
    """Return the table of one data set, from the installed package `nas-bench-graph`.

    Only numbers are read from its file: anything else in it is refused.

    Args:
        data: `"cora"`, `"arxiv"`, `"citeseer"`, `"computers"`, `"cs"`, `"photo"`, `"physics"` or
            `"pubmed"`.

    Returns:
        For each canonical graph (see `canonical_graph`) `valid_perf` and `perf` (accuracy, 0 to 1),
        `latency` in seconds and `para` (millions of parameters).

    Raises:
        InputError: the package is not installed, or has no such data set.
        StorageError: the file holds something else.

    Reference: Qin et al. 2022, arXiv 2206.09166.
    """
    folder = _package() / "light"
    path = folder / f"{data}.bench"
    names = [file.stem for file in folder.glob("*.bench") if file.stem != "proteins"]
    if data not in names:
        raise InputError(f"nas-bench-graph has no data set {data!r}{did_you_mean(data, names)}")
    try:
        with path.open("rb") as file:
            found = _Numbers(file).load()
        return {
            _decoded(int(number)): {name: float(value) for name, value in row.items()}
            for number, row in found.items()
        }
    except (pickle.UnpicklingError, AttributeError, TypeError, ValueError, EOFError) as error:
        raise StorageError(f"{path} is no table of numbers ({error}); install it again") from error


def canonical_graph(graph: tuple[int, ...]) -> tuple[int, ...]:
    """Return the graph that stands for all that compute the same.

    Args:
        graph: a position in `LINKS`, then one in `OPERATIONS` for each of four nodes, not all of
            them `skip`.

    Raises:
        InputError: the package is not installed.
    """
    _package()
    made = importlib.import_module("nas_bench_graph.architecture").Arch
    names = [OPERATIONS[place] for place in graph[1:]]
    return _decoded(int(made(list(LINKS[graph[0]]), names).valid_hash()))


def _decoded(number: int) -> tuple[int, ...]:
    """Return the link and the operations that the package's number of a graph stands for."""
    digits = [number // _BASE**place % _BASE for place in (3, 2, 1, 0)]
    return (number // _BASE**4, *digits)


def _package() -> Path:
    spec = importlib.util.find_spec("nas_bench_graph")
    if spec is None or spec.origin is None:
        raise InputError(
            "this needs the table of NAS-Bench-Graph; try: pip install --no-deps nas-bench-graph"
        )
    return Path(spec.origin).parent


class _Numbers(pickle.Unpickler):
    """Reads plain values and numbers of NumPy, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it holds {module}.{name}")
        return super().find_class(module, name)
