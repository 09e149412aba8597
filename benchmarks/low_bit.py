"""SmolLM2-135M at about 8, 6, 4 and 3 bits: members of one trained family against rounding.

`python benchmarks/low_bit.py [--steps 24]` keeps every linear weight of the blocks as frozen
integers of 2, 3, 4 and 8 bits with an adapter for each, trains the adapters once, and writes
members of a mean of 8, 6, 4 and 3 bits as safetensors files with packed integers. Beside each
stands the same mixture of widths rounded to the nearest level, without adapters and training, and
the float model. Layers are lowered where it harms the weights least, for both alike. Bytes are
those of real files; embeddings, which nothing rounds, are in them. Perplexity is that of the first
4,096 tokens of WikiText-2's test file, of the model that was read back from the file; what trains
is the validation file. Each figure is kept as soon as it is there, in
`benchmarks/results/low_bit.json`; the page `docs/results/low-bit.md` follows from it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Subset

import _measure
import manynet as mn
from manynet.fit import average_bits, bit_sizes, fit_low_bit, weight_rises
from manynet.search import lower
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.systems.one_quantllm import train_bits

FILE = Path(__file__).parent / "results" / "low_bit.json"
PAGE = Path(__file__).parents[1] / "docs" / "results" / "low-bit.md"
BITS, MEANS, RANK, JUDGED, LENGTH, SHORT = (2, 3, 4, 8), (8.0, 6.0, 4.0, 3.0), 8, 16, 256, 96
IDS = torch.zeros(1, 8, dtype=torch.long)
Found = dict[str, Any]


def judged(model: torch.nn.Module) -> float:
    text: Any = Subset(wikitext("test", LENGTH), range(JUDGED))
    return mn.perplexity(text, batch_size=1)(model)


def from_file(member: torch.nn.Module, path: Path) -> tuple[int, float]:
    """Write a member, read it back, and return the file's bytes and its perplexity."""
    mn.export(member, path, (IDS,), verify=False)
    size = path.stat().st_size
    member.load_state_dict(mn.load_weights(path))
    return size, judged(member)


def members(family: mn.Family, found: Found, key: str) -> None:
    """Measure a family's members of all means that are not there yet."""
    sizes, rise = bit_sizes(family), weight_rises(family, smollm2())
    for mean in MEANS:
        row = found["members"].setdefault(f"{mean:g}", {})
        if key in row:
            continue
        arch = lower(family.space, family.space.largest, rise, sizes, mean)
        with tempfile.TemporaryDirectory() as folder:
            size, perplexity = from_file(family.extract(arch), Path(folder) / "m.safetensors")
        row[key] = {
            "bits": average_bits(family, arch),
            "stored bits": average_bits(family, arch, stored=True),
            "bytes": size,
            "perplexity": perplexity,
        }
        keep(found)


def keep(found: Found) -> None:
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found["members"]), flush=True)


def family_of(rank: int) -> mn.Family:
    family = fit_low_bit(smollm2(), bits=BITS, rank=rank, example_inputs=(IDS,))
    family.cache_bytes = 0
    return family.eval()


def run(steps: int) -> None:
    """Measure what is not stored yet, for this number of steps."""
    found: Found = {"steps": steps, "members": {}}
    if FILE.exists():
        stored = json.loads(FILE.read_text())
        found = stored if stored["steps"] == steps else found
    if "float" not in found:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.safetensors"
            mn.export(smollm2(), path, (IDS,), verify=False)
            found["float"] = {"bytes": path.stat().st_size, "perplexity": judged(smollm2())}
        keep(found)
    lacking = [key for key in ("rounded", "family") if not all(
        key in found["members"].get(f"{mean:g}", {}) for mean in MEANS
    )]  # fmt: skip
    if "rounded" in lacking:
        members(family_of(0), found, "rounded")
        gc.collect()
    if "family" in lacking:
        family, start = family_of(RANK), time.perf_counter()
        train_bits(family, wikitext("valid", SHORT), steps=steps, seed=0)
        found["seconds of training"] = time.perf_counter() - start
        found["trained parameters"] = sum(p.numel() for p in family.parameters() if p.requires_grad)
        members(family, found, "family")


def page() -> None:
    """Write the page of what is stored."""
    found: Found = json.loads(FILE.read_text())
    plain = found["float"]
    lines = [
        "# SmolLM2-135M at few bits",
        "",
        "Members of one family against rounding to the nearest at the same mixture of widths: all "
        "linear weights of the blocks",
        "as integers in groups of 32, embeddings and norms in float32 (113 MB of each file). The "
        f"family's adapters were trained once, for {found['steps']}",
        f"steps of 2 x {SHORT} tokens of WikiText-2's validation file; members of any width then "
        "take no further training.",
        "Perplexity on the first 4,096 tokens of the test file, of the model that was read back "
        "from the file; one seed.",
        f"The float model takes {plain['bytes'] / 1e6:.1f} MB and has a perplexity of "
        f"{plain['perplexity']:.2f} before any such training,",
        "so a part of what the adapters gain is that they have seen this kind of text. "
        "`python benchmarks/low_bit.py` runs it.",
        "",
        "| mean bits | stored bits a weight, rounded | family | file, rounded | family "
        "| perplexity, rounded | family |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["members"].values():
        if {"rounded", "family"} <= row.keys():
            a, b = row["rounded"], row["family"]
            lines.append(
                f"| {b['bits']:.2f} | {a['stored bits']:.2f} | {b['stored bits']:.2f} "
                f"| {a['bytes'] / 1e6:.1f} MB | {b['bytes'] / 1e6:.1f} MB "
                f"| {a['perplexity']:,.2f} | {b['perplexity']:,.2f} |"
            )
    lines += [
        "",
        "The weights come from a 4-bit file with groups of 32 themselves, which flatters 4 bits "
        "and more for both. A family's",
        "member has zero points of 16 bits, where rounding needs 8: a quarter of a bit a weight.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=24, help="of training")
    parser.add_argument("--table", action="store_true", help="write the page from what is stored")
    asked = parser.parse_args()
    _measure.prepare()
    if not asked.table:
        run(asked.steps)
    page()


if __name__ == "__main__":
    main()
