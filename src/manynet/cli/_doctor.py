"""What `manynet doctor` finds out about this machine."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from manynet._version import __version__

__all__ = ["EXTRAS", "examine", "print_findings"]

EXTRAS = {
    "data": ("datasets", "pandas", "pillow", "pyarrow"),
    "federate": ("numba",),
    "flower": ("flwr", "ray"),
    "graphs": ("torch_geometric",),
    "language": ("gguf", "peft", "sentencepiece", "transformers"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "ray": ("ray",),
    "report": ("plotly",),
    "search": ("numba", "pymoo", "scikit-learn"),
    "serve": ("fastapi", "prometheus-client", "uvicorn"),
    "vision": ("timm", "torchvision"),
}
CORE = ("torch", "numpy", "accelerate", "safetensors", "pydantic", "rich", "typer")


def examine() -> dict[str, Any]:
    """Return versions, cores, devices, memory, extras and data as JSON values."""
    return {
        "manynet": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "core": {name: _version(name) for name in CORE},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        **_machine(),
        "data": _data(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _machine() -> dict[str, Any]:
    import torch

    from manynet.run import cores

    devices = ["cpu"]
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count)]
    return {
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_bytes": _memory(),
        "devices": devices,
    }


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def _data() -> dict[str, str | None]:
    """Return where the data sets that have a name of their own lie on this machine."""
    learn = _version("scikit-learn")
    roots = [Path("../shared/data"), Path("~/.cache/manynet").expanduser()]
    if "MANYNET_DATA" in os.environ:
        roots.insert(0, Path(os.environ["MANYNET_DATA"]))
    files = ("train.parquet", "cifar10/train.parquet", "cifar-10-batches-py")
    found = [root for root in roots if any((root / name).exists() for name in files)]
    return {
        "digits": f"inside scikit-learn {learn}" if learn else None,
        "cifar10": str(found[0].resolve()) if found else None,
    }


def print_findings(found: dict[str, Any]) -> None:
    """Print what `examine` found, and how to get what is missing."""
    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    memory = found["memory_bytes"]
    table.add_row("manynet", found["manynet"])
    table.add_row("python", f"{found['python']} ({found['executable']})")
    table.add_row("platform", found["platform"])
    table.add_row("cores", f"{found['cores']}, of which PyTorch takes {found['threads']}")
    table.add_row("memory", "unknown" if memory is None else f"{memory / 2**30:.1f} GiB")
    table.add_row("devices", ", ".join(found["devices"]))
    for name, version in found["core"].items():
        table.add_row(name, version or "[red]missing[/red]; try: pip install manynet")
    for extra, libraries in found["extras"].items():
        table.add_row(f"[{extra}]".replace("[", r"\["), _extra(extra, libraries))
    for name, place in found["data"].items():
        table.add_row(name, place or "not on this machine; it is fetched when it is asked for")
    console.print(table)


def _extra(extra: str, libraries: dict[str, str | None]) -> str:
    there = [f"{name} {version}" for name, version in libraries.items() if version]
    missing = [name for name, version in libraries.items() if version is None]
    if not missing:
        return ", ".join(there)
    command = f"pip install 'manynet\\[{extra}]'"
    return f"[red]{', '.join(missing)} missing[/red]; try: {command}"
