"""What `elastic` needs beside the model: peak memory over the model's own bytes, and seconds.

    python benchmarks/memory.py

Each conversion runs in a process of its own, on Linux; `inplace` takes over the model's weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import torch

from _measure import write

MODELS = ("resnet50", "vit_b_16", "SmolLM2-135M")


def main() -> None:
    torch.set_num_threads(1)
    script = Path(__file__).with_name("_memory.py")
    results = {}
    for name in MODELS:
        for mode in ("inplace", "copy"):
            command = [sys.executable, str(script), name, mode]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                results[f"{name} {mode}"] = {"failed": done.stderr.strip().splitlines()[-1]}
            else:
                results[f"{name} {mode}"] = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{name} {mode}: {results[f'{name} {mode}']}", flush=True)
    print(write("memory", results))


if __name__ == "__main__":
    main()
