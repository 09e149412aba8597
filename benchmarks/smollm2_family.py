"""A family of SmolLM2-135M with members of 100, 75 and 50 %, against leaving out blocks.

`python benchmarks/smollm2_family.py [--steps 60]` turns the pretrained model into one family,
elastic in depth and in the width of its feed-forward nets, chooses a member of at most 75 % and of
at most 50 % of the weights beside the embeddings, and trains these two and the largest together.
The baseline leaves out blocks at even distances, every second one for 50 %, and trains what
remains alone. Every network, in the family or alone, trains for the same number of steps on the
same batches, with the same objective (labels and what the original says). Members are chosen by
perplexity on 2,048 tokens of the validation file, before any training; the rest of that file
trains; the first 8,192 tokens of WikiText-2's test file judge. What is stored in
`benchmarks/results/smollm2_family.json` is not measured again; training goes on where it was
stopped. The page `docs/results/smollm2-family.md` follows from it. For the weights and the text
see `smollm2_compression.py`.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

import _measure
import manynet as mn
from manynet.data import batches
from manynet.errors import ManynetError
from manynet.systems._smollm2 import smollm2, wikitext
from manynet.train import DistillTokens, Fixed, TaughtBy
from smollm2_compression import own_bytes, speeds

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "results" / "smollm2_family.json"
PAGE = ROOT / "docs" / "results" / "smollm2-family.md"
LENGTH, CHOOSING, JUDGED, CALIBRATION = 256, 8, 32, 16
SHARES = (0.75, 0.5)
DEPTHS = {0.75: (30, 27, 24), 0.5: (30, 24, 20)}
PROMPT = "The history of the city begins"
IDS = torch.zeros(1, 8, dtype=torch.long)
RECIPE: dict[str, Any] = {
    "optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0, "clip": 1.0,
    "batch_size": 1, "warmup": 0.1, "seed": 0,
}  # fmt: skip
Found = dict[str, Any]


def own(module: nn.Module) -> int:
    """Return the number of weights beside the embeddings, each once."""
    return own_bytes(module) // 4


def text_to_train() -> Any:
    whole = wikitext("valid", LENGTH)
    return Subset(whole, range(CHOOSING, len(whole)))  # type: ignore[arg-type]


def judged(model: nn.Module) -> float:
    text: Any = Subset(wikitext("test", LENGTH), range(JUDGED))  # type: ignore[arg-type]
    return mn.perplexity(text, batch_size=1)(model.eval())


# -- the family --------------------------------------------------------------------------------


def family_of() -> mn.Family:
    """Order units by activation and blocks by influence on text that also trains."""
    text = text_to_train()
    order = torch.randperm(len(text), generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    depths = sorted({depth / 30 for tried in DEPTHS.values() for depth in tried})
    return mn.elastic(
        smollm2(), IDS, width={"*mlp*": [n / 48 for n in range(8, 49)]}, depth=depths,
        uniform=True, importance="activation", depth_importance="influence",
        data=list(batches(text, 1, order=order)),
    )  # fmt: skip


def chosen(family: mn.Family) -> dict[str, Found]:
    """Choose a member for each share: of several depths, the best at once, as wide as fits."""
    text: Any = Subset(wikitext("valid", LENGTH), range(CHOOSING))  # type: ignore[arg-type]
    judge = mn.perplexity(text, batch_size=1)
    (width,) = [c for c in family.space.choices if c.name.endswith(".width")]
    (deep,) = [c for c in family.space.choices if c.name.endswith(".depth")]
    whole = own(family.extract(family.space.largest))
    rows: dict[str, Found] = {}
    for share in SHARES:
        tried = []
        for depth in DEPTHS[share]:
            for value in reversed(width.values):
                arch = family.space.arch({width.name: value, deep.name: depth})
                member = family.extract(arch)
                if own(member) <= share * whole:
                    tried.append((judge(member.eval()), arch))
                    print(f"{share:.0%}: {dict(arch)} {tried[-1][0]:.1f}", flush=True)
                    break
        best = min(tried, key=lambda pair: pair[0])[1]
        rows[f"{share:.0%}"] = {"arch": dict(best)}
    return {"100%": {"arch": dict(family.space.largest)}, **rows}


def every_nth(share: float) -> nn.Module:
    """Return a copy of the original without blocks at even distances; the last one stays."""
    model = copy.deepcopy(smollm2())
    layers = model.model.layers
    left_out = round((1 - share) * len(layers))
    gone = {round((n + 0.5) * len(layers) / left_out - 1) for n in range(left_out)}
    assert len(gone) == left_out and len(layers) - 1 not in gone
    kept = nn.ModuleList(layer for n, layer in enumerate(layers) if n not in gone)
    for n, layer in enumerate(kept):
        layer.self_attn.layer_idx = n
    model.model.layers = kept
    model.config.num_hidden_layers = len(kept)
    return model


# -- measuring ---------------------------------------------------------------------------------


def trained(family: mn.Family, archs: list[mn.Arch], steps: int, name: str) -> float:
    """Train these archs in every step, with the original as teacher; return the seconds."""
    start = time.perf_counter()
    mn.train(
        family.train(), text_to_train(), steps=steps, sampler=Fixed(*archs),
        objective=TaughtBy(smollm2(), DistillTokens(labels=0.5)), checkpoint_every=20,
        folder=ROOT / "runs" / "smollm2-family" / f"{name}-{steps}", **RECIPE,
    )  # fmt: skip
    family.eval().clear()
    return time.perf_counter() - start


def sample(model: nn.Module) -> str:
    """Return what a model writes on after the prompt, always the likeliest token."""
    from manynet.systems._smollm2 import tokenizer

    tokens = tokenizer()(PROMPT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        written: Any = model.generate(  # type: ignore[operator]
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=32, do_sample=False
        )
    return str(tokenizer().decode(written[0]))


def measured(model: nn.Module) -> Found:
    original, tokens = speeds(smollm2(), model)
    return {
        "perplexity": judged(model), "weights": own(model), "bytes": own_bytes(model),
        "tokens_per_s": tokens, "original_tokens_per_s": original, "text": sample(model),
    }  # fmt: skip


def kept(found: Found) -> None:
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found), flush=True)


def run(steps: int) -> None:
    found: Found = json.loads(FILE.read_text()) if FILE.exists() else {}
    if found.get("steps") != steps:
        found = {"steps": steps, "tokens_a_step": LENGTH, "original": judged(smollm2())}
        kept(found)
    if not all("family" in row for row in found.get("members", {"": {}}).values()):
        family = family_of()
        if "members" not in found:
            rows = chosen(family)
            for row in rows.values():
                row["at once"] = judged(family.extract(row["arch"]))
            found["members"] = rows
            kept(found)
        rows = found["members"]
        archs = [family.space.arch(row["arch"]) for row in rows.values()]
        found["family_s"] = trained(family, archs, steps, "family")
        for row, arch in zip(rows.values(), archs, strict=True):
            row["family"] = measured(family.extract(arch))
            kept(found)
        del family
    for share in SHARES:
        row = found["members"][f"{share:.0%}"]
        if "blocks" in row:
            continue
        alone = mn.Family(every_nth(share))
        at_once = judged(alone.extract({}))
        seconds = trained(alone, [alone.space.largest], steps, f"blocks-{share:.0%}")
        row["blocks"] = {"at once": at_once, "seconds": seconds, **measured(alone.extract({}))}
        kept(found)


# -- the page ----------------------------------------------------------------------------------


def page(found: Found) -> None:
    lines = [
        "# One family of SmolLM2-135M",
        "",
        "<!-- Written by benchmarks/smollm2_family.py. -->",
        "",
        "The pretrained model as one family, elastic in depth and in the width of its feed-forward "
        "nets, with members of about 100 %,",
        "75 % and 50 % of the weights beside the embeddings, against leaving out blocks at even "
        "distances (every second one for 50 %)",
        f"and training what remains alone. Every network trains for {found['steps']} steps of "
        f"{LENGTH} tokens on the same batches, from the",
        "labels and from what the original says. The validation file of WikiText-2 calibrates, "
        "chooses and trains; perplexity is",
        f"that of the first {JUDGED * LENGTH:,} tokens of the test file. The original, untrained, "
        f"has {found['original']:.1f}. One seed.",
        f"Training the family took {found['family_s'] / 60:.0f} minutes on one core of a busy "
        "machine.",
        "",
        "| | weights, M | MB | perplexity at once | trained | tokens a second "
        "| of the original beside it |",
        "|---|---|---|---|---|---|---|",
    ]
    texts = []
    for name, row in found["members"].items():
        pairs = [("family", row["at once"], row["family"])]
        if "blocks" in row:
            pairs.append(("blocks left out", row["blocks"]["at once"], row["blocks"]))
        for way, at_once, end in pairs:
            lines.append(
                f"| {name.replace('%', ' %')}, {way} | {end['weights'] / 1e6:.1f} "
                f"| {end['bytes'] / 1e6:.0f} | {at_once:,.1f} | {end['perplexity']:,.1f} "
                f"| {end['tokens_per_s']:.1f} | {end['original_tokens_per_s']:.1f} |"
            )
            said = " ".join(end["text"].split())
            texts += [f"{name.replace('%', ' %')}, {way}: `{said}`", ""]
    archs = "; ".join(
        f"{name.replace('%', ' %')}: "
        + ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in row["arch"].items())
        for name, row in found["members"].items()
    )
    lines += [
        "",
        f"The members ({archs}) were chosen among several depths by perplexity on held-out text "
        "before training.",
        "",
        f"What they write after “{PROMPT}”, always the likeliest token:",
        "",
        *texts,
        "`python benchmarks/smollm2_family.py` runs it.",
    ]
    PAGE.write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=60, help="of training, for every network")
    parser.add_argument("--page", action="store_true", help="write the page from what is stored")
    asked = parser.parse_args()
    _measure.prepare()
    if not asked.page:
        try:
            run(asked.steps)
        except ManynetError as error:
            print(f"skipped: {error}")
            return
    page(json.loads(FILE.read_text()))


if __name__ == "__main__":
    main()
